//! `teff logits`: the raw output of the network, for tests and comparisons.

use super::CliError;
use super::options::{EngineArgs, ModelArgs, parse_ids};
use crate::backend::pages::KvType;
use crate::decoder::{Logits, Run, StepError};
use crate::engine::{Engine, EngineOptions};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Rows of logits computed at a time when nobody says.
const BATCH_DEFAULT: usize = 64;
/// What llama.cpp's library takes if nothing is said, so that its logits can be compared.
const N_CTX_DEFAULT: usize = 512;

/// `teff logits`
#[derive(clap::Args, Debug)]
pub struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Token ids, e.g. 1,2,3
    #[arg(long, value_name = "IDS", value_parser = |text: &str| parse_ids(text).map(Ids))]
    tokens: Ids,
    /// Tokens fed at a time; changes no bit of the result
    #[arg(long, value_name = "N", default_value_t = BATCH_DEFAULT as u32,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Context in tokens, on which rotations of some models depend [default: 512, as in llama.cpp, or
    /// more if there are more tokens]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,
    /// Output: little-endian f32, [tokens][vocabulary]
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
}

/// A list that is one argument.
#[derive(Clone, Debug)]
struct Ids(Vec<u32>);

/// Writes the logits at every position.
pub fn logits(args: &LogitsArgs) -> Result<(), CliError> {
    let tokens = &args.tokens.0;
    if tokens.is_empty() {
        return Err(CliError::usage("--tokens names no token"));
    }
    let model = args.engine.open_generator(&args.model)?;
    let batch = (args.batch as usize).min(tokens.len());
    let n_ctx = match args.ctx {
        Some(n_ctx) => n_ctx as usize,
        None => {
            let most = model.spec().n_ctx_max.unwrap_or(N_CTX_DEFAULT);
            most.min(N_CTX_DEFAULT).max(tokens.len())
        }
    };
    let options = EngineOptions {
        n_ctx: Some(n_ctx),
        max_batch: batch,
        max_outputs: batch,
        ..args.engine.options(KvType::F32)?
    };
    let mut engine = Engine::new(&model, &options)?;
    let at = CliError::at(&args.output);
    let mut out = BufWriter::new(std::fs::File::create(&args.output).map_err(&at)?);
    let mut written = Ok(());
    engine.lead(|decoder, leader| -> Result<(), StepError> {
        let sequence = decoder.kv_mut().create();
        for tokens in tokens.chunks(batch) {
            let run = Run { sequence, tokens, logits: Logits::All };
            let rows = decoder.step(leader, &[run])?;
            written = rows.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()));
            if written.is_err() {
                break;
            }
        }
        decoder.kv_mut().remove(sequence);
        Ok(())
    })?;
    written.and_then(|()| out.flush()).map_err(at)
}
