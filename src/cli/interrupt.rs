//! Ctrl-C, for every verb alike: the process ends at once with code 130 and says what was done. SIGTERM and
//! SIGHUP do the same, but that the process ends by the signal, as if nobody had watched for it.
//!
//! A thread of its own waits for the signal and ends the process, so that nothing depends on what
//! the other threads do: they may wait for a terminal, for a pipe, or be inside a long step. Two
//! things are kept whole. Output is written in records ([`whole`]), none of which is cut. A
//! download ends by itself ([`orderly`]), so that its helpers and files go away with it; one that
//! does not within [`GRACE`] is ended like anything else. A second Ctrl-C waits for nothing. A chat
//! ends its answer instead ([`instead`]), and has its terminal put in order before a signal ends it
//! ([`before_end`]); a server lets requests end at SIGTERM ([`instead_of_term`]).

use super::{CliError, threads};
use crate::model::describe::counted;
use std::io::{IsTerminal, stderr, stdout};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Exit code of a process that SIGINT ended, as shells report it.
pub const INTERRUPTED: u8 = 130;
/// Longest time that a download gets to end by itself: pip is asked every 50 ms, and a server that
/// is silent must not keep the user waiting.
const GRACE: Duration = Duration::from_secs(1);
/// Longest wait for a record that is being written: the reader of a pipe may be asleep.
const RECORD_WAIT: Duration = Duration::from_millis(300);
/// Time between looks at the two.
const POLL: Duration = Duration::from_millis(5);

/// Whether Ctrl-C came, or a signal that ends the process.
static CAME: AtomicBool = AtomicBool::new(false);
/// The signal that ends the process; 0: it is Ctrl-C.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// What puts the terminal in order before a signal ends the process.
static RESTORE: Mutex<Option<fn()>> = Mutex::new(None);
/// Whether work is going on that ends by itself.
static ORDERLY: AtomicBool = AtomicBool::new(false);
/// Held while a record is written.
static RECORD: Mutex<()> = Mutex::new(());
/// Description of what was done so far.
static DONE: Mutex<Option<Tell>> = Mutex::new(None);

type Tell = Box<dyn Fn() -> String + Send>;

/// What Ctrl-C does in the place of ending the process, once.
static INSTEAD: Mutex<Option<Act>> = Mutex::new(None);

type Act = Box<dyn FnOnce() + Send>;

/// What SIGTERM does in the place of ending the process, whenever it comes.
#[cfg(any(unix, feature = "serve"))]
static INSTEAD_OF_TERM: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Watches for Ctrl-C and for signals that end the process from now on.
///
/// # Errors
/// The system lets nobody watch for signals.
pub fn watch() -> Result<(), CliError> {
    let on_signal = || {
        let instead = INSTEAD.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(act) = instead {
            return act();
        }
        begin_end();
    };
    threads::check_room()?;
    ctrlc::set_handler(on_signal)
        .map_err(|error| CliError::failed(format!("cannot watch for Ctrl-C: {error}")))?;
    watch_signals()
}

/// Has a thread end the process, or ends it, if that is under way.
fn begin_end() {
    let end = || std::thread::Builder::new().name("teff-interrupt".into()).spawn(end);
    if CAME.swap(true, Ordering::SeqCst) || end().is_err() {
        leave();
    }
}

/// Ends the process, by the signal that it is ended by.
fn leave() -> ! {
    #[cfg(unix)]
    match SIGNAL.load(Ordering::SeqCst) {
        0 => {}
        // It cannot fail for those that are watched for.
        signal => drop(signal_hook::low_level::emulate_default_handler(signal)),
    }
    exit(INTERRUPTED.into())
}

#[cfg(unix)]
fn watch_signals() -> Result<(), CliError> {
    use signal_hook::consts::{SIGHUP, SIGTERM, SIGXFSZ};
    let failed = |error| CliError::failed(format!("cannot watch for signals: {error}"));
    // A file that gets too large is an error of its writer, then, as a full disk is.
    signal_hook::flag::register(SIGXFSZ, Default::default()).map_err(failed)?;
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGTERM]).map_err(failed)?;
    let watch = move || {
        for signal in signals.forever() {
            let instead = INSTEAD_OF_TERM.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(act) = instead.as_ref().filter(|_| signal == SIGTERM) {
                act();
                continue;
            }
            drop(instead);
            if let Some(restore) = *RESTORE.lock().unwrap_or_else(PoisonError::into_inner) {
                restore();
            }
            SIGNAL.store(signal, Ordering::SeqCst);
            begin_end();
        }
    };
    threads::check_room()?;
    std::thread::Builder::new().name("teff-signals".into()).spawn(watch).map_err(failed)?;
    Ok(())
}

/// There are no such signals here.
#[cfg(not(unix))]
fn watch_signals() -> Result<(), CliError> {
    Ok(())
}

/// Has SIGTERM do this instead of ending the process, from now on: also while a server that has ended itself
/// is being left, which a signal that is looked at late must not end otherwise.
#[cfg(feature = "serve")]
pub fn instead_of_term(act: impl Fn() + Send + 'static) {
    *INSTEAD_OF_TERM.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(act));
}

/// Has `restore` put the terminal in order before SIGTERM or SIGHUP ends the process, from now on.
pub fn before_end(restore: fn()) {
    *RESTORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(restore);
}

/// Has the next Ctrl-C do this instead of ending the process, until the guard is dropped. One after
/// it ends the process.
pub fn instead(act: impl FnOnce() + Send + 'static) -> Instead {
    *INSTEAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(act));
    Instead
}

/// [`instead`] for every Ctrl-C until the guard is dropped.
pub fn always(act: impl FnMut() + Send + 'static) -> Instead {
    /// Armed anew by each that comes.
    fn arm(mut act: Box<dyn FnMut() + Send>) {
        let next = move || {
            act();
            arm(act);
        };
        *INSTEAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(next));
    }
    arm(Box::new(act));
    Instead
}

/// Guard of [`instead`].
#[must_use]
pub struct Instead;

impl Drop for Instead {
    fn drop(&mut self) {
        *INSTEAD.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Ends the process, saying what was done.
fn end() {
    let start = Instant::now();
    while ORDERLY.load(Ordering::SeqCst) && start.elapsed() < GRACE {
        sleep(POLL);
    }
    let start = Instant::now();
    // Kept to the end, so that no further record begins.
    let _record = loop {
        match RECORD.try_lock() {
            Err(TryLockError::WouldBlock) if start.elapsed() < RECORD_WAIT => sleep(POLL),
            other => break other,
        }
    };
    let done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    tell(done.as_ref().map_or(String::new(), |done| done()));
    leave();
}

/// The last line of an interrupted process. Whoever sends a signal is told only what was done.
fn tell(done: String) {
    if done.is_empty() && SIGNAL.load(Ordering::SeqCst) != 0 {
        return;
    }
    super::progress::clear_line();
    // The answer so far, or what the user typed, has no line break of its own.
    let is_terminal = stderr().is_terminal() && stdout().is_terminal();
    let line_break = if is_terminal { "\n" } else { "" };
    let colon = if done.is_empty() { "" } else { ": " };
    // A closed stderr leaves nobody to tell.
    super::note(format_args!("{line_break}interrupted{colon}{done}"));
}

/// Has `tell` say what was done if Ctrl-C comes, from now on. It must not block.
pub fn done(tell: impl Fn() -> String + Send + 'static) {
    *DONE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tell));
}

/// Counts things that were done, for [`done`]: `3 texts`.
pub fn count(what: &'static str) -> &'static AtomicU64 {
    let counter: &'static AtomicU64 = Box::leak(Box::default());
    done(move || format!("{} done", counted(counter.load(Ordering::SeqCst), what)));
    counter
}

/// Writes a record of the output, with all that belongs to it: Ctrl-C comes before or after it.
pub fn whole<R>(write: impl FnOnce() -> R) -> R {
    let _record = RECORD.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}

/// Does work that ends by itself soon after the flag becomes true, with an error of its own.
///
/// # Errors
/// What `work` says. It counts as an interruption if Ctrl-C came, whatever `work` says.
pub fn orderly<T, E: Into<CliError>>(
    work: impl FnOnce(&'static AtomicBool) -> Result<T, E>,
) -> Result<T, CliError> {
    ORDERLY.store(true, Ordering::SeqCst);
    if CAME.load(Ordering::SeqCst) {
        // The thread that ends the process may have looked before: what begins now would be cut.
        ORDERLY.store(false, Ordering::SeqCst);
        loop {
            std::thread::park();
        }
    }
    let result = work(&CAME);
    if CAME.load(Ordering::SeqCst) {
        // The thread that waits for this work leaves the message to it.
        let message = result.err().map_or_else(String::new, |error| error.into().to_string());
        tell(message);
        leave();
    }
    ORDERLY.store(false, Ordering::SeqCst);
    result.map_err(Into::into)
}
