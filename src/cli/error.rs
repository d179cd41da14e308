//! What a verb can fail with: anything, told in one line.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Exit code of wrong usage, as clap's own errors have.
const USAGE: u8 = 2;

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

    /// The message without line breaks or control characters, which file names and metadata may
    /// hold.
    pub fn one_line(&self) -> String {
        let text = self.source.to_string();
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
