//! Importance matrices: a text through a model whose products are watched.
//!
//! A model that is to give no logits ([`Model::output_embeddings`](crate::engine::Model)) saves the
//! product with the vocabulary, which nothing is learned from unless that matrix is wanted too.

use super::steps::{self, Room, Run};
use super::{Chunks, EvalError};
use crate::decoder::{Outputs, SequenceChunk};
use crate::engine::Engine;
use crate::quantize::collect::Collector;
use crate::quantize::imatrix::Imatrix;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// Adds the statistics of chunks to an importance matrix, those of the matrix that makes logits too if
/// `outputs`. After each chunk `on_chunk` hears how many are done and may end it; what is behind the
/// lock is of whole chunks at any time, for other threads to write.
///
/// # Errors
/// The model cannot run the chunks, its activations are no finite numbers, or the listener ended it.
pub fn importance(
    engine: &mut Engine,
    chunks: &Chunks,
    outputs: bool,
    into: &Mutex<Imatrix>,
    on_chunk: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<(), EvalError> {
    let room = Room::of(engine);
    let mut collector = Collector::new(engine.decoder().program(), outputs);
    for (number, tokens) in chunks.iter().enumerate() {
        // The last layer computes what is wanted only, and all of it counts.
        let runs = [Run { tokens, wanted_from: 0 }];
        let sequences = steps::create(engine, 1);
        let result = steps::plan(&runs, room).iter().try_for_each(|pieces| {
            engine.lead(|stepper| {
                let tokens = &tokens[pieces[0].at.clone()];
                let outputs = Outputs::All;
                let chunk = SequenceChunk { sequence: sequences[0], tokens, outputs };
                stepper.step_observed(&[chunk], &mut collector).map(drop)
            })
        });
        steps::remove(engine, &sequences);
        result?;
        let added = {
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            collector.commit(&mut into)
        };
        added.map_err(EvalError::Importance)?;
        if on_chunk(number + 1).is_break() {
            return Err(EvalError::Stopped);
        }
    }
    Ok(())
}
