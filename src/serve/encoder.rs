//! The engine that turns texts into vectors or scores, beside the one that answers.

use super::blocking;
use super::fault::Fault;
use super::loaded::Loaded;
use crate::engine::{Engine, EngineOptions, Model, normalize};
use crate::model::Pooling;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Texts that are computed before others, and clients that leave, get their turn.
const TEXTS_AT_ONCE: usize = 16;

/// An engine for vectors.
pub struct Encoder {
    engine: Mutex<Engine>,
    pooling: Pooling,
    /// Elements of a vector.
    pub n_out: usize,
    /// Tokens of a text.
    pub n_tokens_max: usize,
}

impl Encoder {
    /// An engine for the vectors of a model.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(model: &Model, options: &EngineOptions) -> Result<Encoder, Fault> {
        let mut model = Model::from_file(model.file().clone(), model.path())?;
        model.output_embeddings();
        let engine = Engine::new(&model, options)?;
        Ok(Encoder {
            n_out: engine.decoder().n_out(),
            n_tokens_max: engine.text_tokens_max(),
            pooling: model.spec().pooling.unwrap_or(Pooling::Mean),
            engine: Mutex::new(engine),
        })
    }

    /// Vectors of unit length of texts, which are given as tokens.
    ///
    /// # Errors
    /// A text is empty or too long, or the client left.
    pub fn vectors(
        &self,
        texts: &[Vec<u32>],
        has_left: &AtomicBool,
    ) -> Result<Vec<Vec<f32>>, Fault> {
        let pooling = match self.pooling {
            Pooling::None | Pooling::Rank => Pooling::Mean,
            pooling => pooling,
        };
        let mut vectors = self.compute(texts, pooling, has_left)?;
        vectors.iter_mut().for_each(|vector| normalize(vector));
        Ok(vectors)
    }

    /// Scores of pairs of a query and a document, which are given as tokens.
    ///
    /// # Errors
    /// As [`vectors`](Self::vectors), and the model is no reranker.
    pub fn scores(&self, pairs: &[Vec<u32>], has_left: &AtomicBool) -> Result<Vec<f32>, Fault> {
        let scores = self.compute(pairs, Pooling::Rank, has_left)?;
        Ok(scores.into_iter().map(|scores| scores.first().copied().unwrap_or(0.0)).collect())
    }

    fn compute(
        &self,
        texts: &[Vec<u32>],
        pooling: Pooling,
        has_left: &AtomicBool,
    ) -> Result<Vec<Vec<f32>>, Fault> {
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in texts.chunks(TEXTS_AT_ONCE) {
            if has_left.load(Ordering::Acquire) {
                return Err(Fault::left());
            }
            let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            let n_before = vectors.len();
            let more = engine.embed(texts, pooling).map_err(|error| error.after_texts(n_before))?;
            vectors.extend(more);
        }
        Ok(vectors)
    }
}

/// Vectors of a request's texts, which are given as tokens; what is wrong with one is said of `field`.
///
/// # Errors
/// As [`Encoder::vectors`], the model cannot be one for vectors, or `dimensions` is not their length.
pub async fn vectors(
    loaded: &Arc<Loaded>,
    texts: Vec<Vec<u32>>,
    dimensions: Option<u64>,
    field: &'static str,
) -> Result<Vec<Vec<f32>>, Fault> {
    let left = LeftFlag::new();
    let (has_left, loaded) = (left.flag(), loaded.clone());
    blocking(move || {
        let encoder = loaded.encoder()?;
        if dimensions.is_some_and(|n| n != encoder.n_out as u64) {
            let problem = format!("the model has vectors of {} elements", encoder.n_out);
            return Err(Fault::field("dimensions", problem));
        }
        encoder.vectors(&texts, &has_left).map_err(|fault| fault.with_param(field))
    })
    .await
}

/// Flag that becomes true when the request's future is dropped: nobody waits for its work any more.
pub struct LeftFlag(Arc<AtomicBool>);

impl LeftFlag {
    /// A flag that is false.
    pub fn new() -> LeftFlag {
        LeftFlag(Arc::default())
    }

    /// For the work.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for LeftFlag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
