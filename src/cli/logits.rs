//! `teff logits`: the raw output of the network, for tests and comparisons.

use super::engine_args::{EngineArgs, check_context};
use super::options::{ModelArgs, TOKENS_MAX, input_file, parse_ids, whole_number};
use super::{CliError, interrupt, threads};
use crate::backend::pages::KvType;
use crate::decoder::{Outputs, SequenceChunk};
use crate::engine::{Engine, EngineError, EngineOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Rows of logits computed at a time when nobody says.
const BATCH_DEFAULT: usize = 64;
/// Context of llama.cpp's library if nothing is said, so that its logits can be compared.
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
          value_parser = whole_number(1..=65536u32))]
    batch: u32,
    /// Context in tokens, on which rotations of some models depend [default: 512, as in llama.cpp, or
    /// more if there are more tokens]
    #[arg(long, value_name = "TOKENS", value_parser = whole_number(1..=TOKENS_MAX))]
    ctx: Option<u32>,
    /// Output: little-endian f32, [tokens][vocabulary]; - is standard output
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
}

/// A list that is one argument.
#[derive(Clone, Debug)]
struct Ids(Vec<u32>);

/// Writes the logits at every position.
pub fn logits(args: &LogitsArgs, stdout: &mut dyn Write) -> Result<(), CliError> {
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
    // The default is llama.cpp's, whatever the model was trained with.
    let wanted = args.ctx.map_or(tokens.len(), |n| n as usize);
    check_context(&model, wanted, options.kv_type, args.engine.kv_bytes())?;
    let at_model = CliError::of_model(model.path());
    let mut engine = Engine::new(&model, &options).map_err(&at_model)?;
    let at = CliError::at(&args.output);
    let n_done = interrupt::count("row");
    let mut file;
    let out: &mut dyn Write = match input_file(Some(&args.output)) {
        Some(path) => {
            file = std::fs::File::create(path).map_err(&at)?;
            &mut file
        }
        None => stdout,
    };
    // The decoder's thread is another one, and a writer stays where it is: rows are handed over.
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<u8>>(1);
    let n_vocab = engine.decoder().n_vocab();
    let (stepped, written) = std::thread::scope(|scope| {
        let worker = threads::spawn(scope, || {
            let sender = sender;
            engine.lead(|decoder| -> Result<(), EngineError> {
                let sequence = decoder.kv_mut().create();
                for tokens in tokens.chunks(batch) {
                    model.file().check_uncut().map_err(EngineError::File)?;
                    let run = SequenceChunk { sequence, tokens, outputs: Outputs::All };
                    let rows = decoder.step(&[run])?;
                    let bytes = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
                    if sender.send(bytes).is_err() {
                        break;
                    }
                }
                decoder.kv_mut().remove(sequence);
                Ok(())
            })
        })?;
        let written = receiver.into_iter().try_for_each(|bytes: Vec<u8>| {
            interrupt::whole(|| {
                out.write_all(&bytes)?;
                let n_rows = bytes.len() / size_of::<f32>() / n_vocab.max(1);
                n_done.fetch_add(n_rows as u64, Ordering::SeqCst);
                out.flush()
            })
        });
        Ok::<_, CliError>((worker.join(), written))
    })?;
    let stepped = stepped.map_err(|_| CliError::failed("the decoder's thread died"))?;
    stepped.map_err(at_model)?;
    written.map_err(at)
}
