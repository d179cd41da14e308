//! Errors of verbs: anything, told in one line.

use crate::decoder::StepError;
use crate::engine::EngineError;
use crate::engine::report::{ContextMemory, Problem};
use crate::eval::EvalError;
use crate::kv::KvError;
use crate::model::ModelError;
use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Exit code of wrong usage, as clap's own errors have.
const USAGE: u8 = 2;

/// End of an error's message that names the option or verb that may help. Errors of the library
/// speak of fields, as they also reach people who have no command line.
pub fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<Problem>() {
        return match error {
            Problem::Model(error) => hint(error),
            Problem::Context(error) => hint(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return match error {
            EngineError::Model { error, .. } => hint(error),
            EngineError::Step(error) => hint(error),
            EngineError::PromptTooLong { .. } => Some(": shorten it or raise --ctx"),
            EngineError::NoLogits => Some(": `teff embed` turns texts into its vectors"),
            EngineError::TextTooLong { .. } => {
                Some(": cut it, or raise --ctx where the model can take more")
            }
            EngineError::Context(_) => Some(" (lower --ctx, or allow more by --kv-bytes)"),
            _ => None,
        };
    }
    if let Some(StepError::Kv(error)) = error.downcast_ref() {
        return match error {
            KvError::ContextFull { .. } => Some(": raise --ctx for more"),
            KvError::OutOfBudget { .. } => Some(": allow more by --kv-bytes"),
            KvError::UnknownSequence => None,
        };
    }
    if let Some(EvalError::TooFewTokens { .. }) = error.downcast_ref() {
        return Some(" (--ctx)");
    }
    if let Some(ModelError::IsAdapter) = error.downcast_ref() {
        return Some(" with --lora");
    }
    error
        .is::<ContextMemory>()
        .then_some(": lower --ctx, or allow less memory than that by --kv-bytes")
}

/// An error on its way to the terminal.
#[derive(Debug)]
pub struct CliError {
    source: Box<dyn Error + Send + Sync>,
    usage: bool,
}

impl CliError {
    /// A wrong or missing argument.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError { source: message.into().into(), usage: true }
    }

    /// A failure described by `message`.
    pub fn failed(message: impl Into<String>) -> CliError {
        CliError { source: message.into().into(), usage: false }
    }

    /// Puts the name of the file at fault before an error.
    pub fn at(path: &std::path::Path) -> impl Fn(std::io::Error) -> CliError {
        move |error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => error.into(),
            std::io::ErrorKind::NotFound => {
                CliError::failed(format!("{}: there is no such file", path.display()))
            }
            _ => CliError::failed(format!("{}: {error}", path.display())),
        }
    }

    /// Names the model's file in front of an error that does not name it itself.
    pub fn of_model<E: Into<CliError>>(path: &std::path::Path) -> impl Fn(E) -> CliError {
        move |error| {
            let error = error.into();
            let named = error.to_string().contains(&*path.to_string_lossy());
            if named || error.is_broken_pipe() {
                return error;
            }
            CliError { source: format!("{}: {error}", path.display()).into(), ..error }
        }
    }

    /// Whether the reader of our output went away.
    pub fn is_broken_pipe(&self) -> bool {
        let mut error: Option<&(dyn Error + 'static)> = Some(&*self.source);
        while let Some(e) = error {
            let io = e.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe) {
                return true;
            }
            error = e.source();
        }
        false
    }

    /// The message, with a hint if there is one, without line breaks or control characters,
    /// which file names and metadata may hold.
    pub fn one_line(&self) -> String {
        let text = format!("{}{}", self.source, hint(&*self.source).unwrap_or_default());
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// 2 for wrong usage, 1 otherwise.
    pub fn exit_code(&self) -> ExitCode {
        if self.usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.one_line())
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for CliError {
    fn from(error: E) -> CliError {
        CliError { source: error.into(), usage: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_library_get_the_option_that_helps() {
        let path = std::path::Path::new("m.gguf");
        let told = |error: EngineError| CliError::of_model(path)(error).to_string();
        let full = EngineError::Step(StepError::Kv(KvError::ContextFull { n_ctx: 8 }));
        assert_eq!(told(full), "m.gguf: the context of 8 tokens is full: raise --ctx for more");
        let long = EngineError::PromptTooLong { n_prompt: 9, n_ctx: 8 };
        assert!(told(long).ends_with("holds 8: shorten it or raise --ctx"));
        let adapter = EngineError::Model { path: path.into(), error: ModelError::IsAdapter };
        assert!(told(adapter).ends_with("something to add to one with --lora"));
        assert!(!told(EngineError::EmptyPrompt).contains("--"));
    }
}
