//! The command line: one file per verb. The only room that prints.

mod answer_args;
mod answer_view;
mod bench;
mod chat;
pub mod choices_file;
mod convert;
mod copy;
mod corpus;
mod edit;
mod embed;
mod engine_args;
mod error;
mod gpu_args;
mod grammar;
mod grids;
mod header;
mod imatrix;
mod inspect;
mod interrupt;
pub mod layerwise;
mod lines;
mod list;
mod logits;
mod mix_arg;
mod model_file;
mod offload;
mod options;
mod parse;
mod perplexity;
mod prefix_cache;
pub mod progress;
mod prune;
pub mod pull;
mod quantize;
mod receipt;
mod rerank;
pub mod rm;
mod run;
mod sampling;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
mod sandbox;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod serve_models;
mod shown;
mod source;
mod space;
mod speculate;
mod split;
mod target;
mod template;
mod template_args;
mod threads;
mod tokens;
mod tune;
mod verify;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::io::{self, BufWriter, Write, stdout};
use std::process::ExitCode;

pub use error::CliError;

/// Runs GGUF language models on the CPU, and layers of them on a GPU.
#[derive(Parser, Debug)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Examples:
  teff run -p \"Why is the sky blue?\"        the default model, fetched on first use
  teff chat                                 a conversation
  teff run -m gemma3:270m --raw -p \"Once\"   continue a text
  echo \"Hello\" | teff run -m model.gguf     a prompt from standard input
  teff inspect model.gguf                   what a file holds and what it needs

Text and data go to standard output, everything else to standard error.
TEFF_CACHE is the folder of fetched models, TEFF_ISA (scalar, avx2, ...) forces older kernels."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Answer a prompt, or continue a text with --raw
    Run(run::RunArgs),
    /// Talk with a model
    Chat(chat::ChatArgs),
    /// Answer over HTTP: the APIs of OpenAI and others
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArgs>),
    /// Turn texts into embeddings: vectors by which their meanings can be compared
    Embed(embed::EmbedArgs),
    /// Score documents by how well they answer a query, with a reranker
    Rerank(rerank::RerankArgs),
    /// Measure tokens per second on this machine
    Bench(bench::BenchArgs),
    /// Measure how well a model predicts a text, and how far it is from another
    Perplexity(perplexity::PerplexityArgs),
    /// Find out with a text which columns of the weights matter, for quantizing
    Imatrix(imatrix::ImatrixArgs),
    /// Write the logits of given token ids
    Logits(logits::LogitsArgs),
    /// Turn text into token ids: one JSON array
    Tokenize(tokens::TokenizeArgs),
    /// Turn token ids, a JSON array, into text
    Detokenize(tokens::DetokenizeArgs),
    /// Make the prompt of a conversation with a chat template
    Template(template::TemplateVerbArgs),
    /// Tell reasoning, text and tool calls of a model's raw answer apart
    Parse(parse::ParseArgs),
    /// Explain a GGUF file
    Inspect(inspect::InspectArgs),
    /// Make a GGUF file of a Hugging Face folder
    Convert(convert::ConvertArgs),
    /// Write a model's file in other types
    Quantize(quantize::QuantizeArgs),
    /// Write a model's file with weights that are zero: a part of each row, or N of every M
    Prune(prune::PruneArgs),
    /// Train scales, norms or an adapter of a model on a text
    Tune(Box<tune::TuneArgs>),
    /// Hold a file against its receipt: what was it made of, and has it been changed since
    Verify(verify::VerifyArgs),
    /// Change the metadata of a GGUF file
    Edit(edit::EditArgs),
    /// Cut a GGUF file into several
    Split(split::SplitArgs),
    /// Put the files of a model together
    Merge(split::MergeArgs),
    /// Fetch a model into the cache
    Pull(pull::PullArgs),
    /// List the models that have a short name and those in the cache
    List(list::ListArgs),
    /// Remove a model from the cache
    Rm(rm::RmArgs),
}

/// The command line. An option takes the next word, whatever it begins with, as those of POSIX do:
/// texts, negative numbers and file names may begin with a dash.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|verb| {
        verb.mut_args(|arg| {
            let needs_value = arg.get_num_args().is_none_or(|n| n.min_values() > 0);
            let takes_word = arg.get_action().takes_values() && needs_value && !arg.is_positional();
            if takes_word { arg.allow_hyphen_values(true) } else { arg }
        })
    })
}

/// Parses the arguments and runs the verb. Errors go to stderr as one line.
pub fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|m| Cli::from_arg_matches(&m));
    let cli = parsed.unwrap_or_else(|error| error.exit());
    let mut out = BufWriter::new(Named(stdout().lock()));
    let result = interrupt::watch()
        .and_then(|()| run_command(&cli.command, &mut out))
        .and_then(|()| Ok(interrupt::whole(|| out.flush())?));
    progress::clear_line();
    match result {
        Err(error) if !error.is_broken_pipe() => {
            // What was done before the error stands; a closed stdout was no error either.
            let _ = out.flush();
            note(format_args!("error: {}", error.one_line()));
            error.exit_code()
        }
        _ => ExitCode::SUCCESS,
    }
}

/// A line on standard error, safe for terminals. Where that is closed nobody is told, which is no reason
/// to stop.
pub fn note(line: std::fmt::Arguments<'_>) {
    let line = line.to_string();
    let _ = writeln!(io::stderr(), "{}", shown::shown(&line));
}

/// Standard output, which its errors name: the disk may be full behind it.
struct Named<W>(W);

fn name(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

impl<W: Write> Write for Named<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(name)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(name)
    }
}

fn run_command(command: &Command, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        Command::Run(args) => run::run(args, out),
        Command::Chat(args) => chat::chat(args, out),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::serve(args),
        Command::Embed(args) => embed::embed(args, out),
        Command::Rerank(args) => rerank::rerank(args, out),
        Command::Bench(args) => bench::bench(args, out),
        Command::Perplexity(args) => perplexity::perplexity(args, out),
        Command::Imatrix(args) => imatrix::imatrix(args),
        Command::Logits(args) => logits::logits(args, out),
        Command::Tokenize(args) => tokens::tokenize(args, out),
        Command::Detokenize(args) => tokens::detokenize(args, out),
        Command::Template(args) => template::template(args, out),
        Command::Parse(args) => parse::parse(args, out),
        Command::Inspect(args) => inspect::inspect(args, out),
        Command::Convert(args) => convert::convert(args, out),
        Command::Quantize(args) => quantize::quantize(args, out),
        Command::Prune(args) => prune::prune(args, out),
        Command::Tune(args) => tune::tune(args, out),
        Command::Verify(args) => verify::verify(args, out),
        Command::Edit(args) => edit::edit(args, out),
        Command::Split(args) => split::split(args, out),
        Command::Merge(args) => split::merge(args, out),
        Command::Pull(args) => pull::pull(args, out),
        Command::List(args) => Ok(list::list(args, out)?),
        Command::Rm(args) => rm::rm(args, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
