//! Progress on stderr, of downloads and of long work: a line that redraws itself on a terminal, one
//! every tenth elsewhere, so that logs stay short.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::shown::is_dumb;
use crate::cache::Progress;
use crate::model::describe::bytes;

/// Shortest time between two drawings.
const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// Time before the first line of work that has no terminal: what is done by then needs none.
const QUIET: Duration = Duration::from_secs(2);
/// Width of the bar itself, in characters.
const BAR_CHARS: u64 = 24;

/// Whether the terminal shows a line that [`show_line`] wrote.
static LINE_SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether stderr is a terminal on which a line can be drawn anew.
fn redraws() -> bool {
    stderr().is_terminal() && !is_dumb()
}

/// Shows a line on stderr that the next one, or [`clear_line`], takes away; only on a terminal.
pub fn show_line(text: &str) {
    if redraws() {
        LINE_SHOWN.store(true, Ordering::Relaxed);
        // A closed stderr is no reason to stop.
        let _ = write!(stderr(), "\r\x1b[K{text}");
        let _ = stderr().flush();
    }
}

/// Takes the line of [`show_line`] away, if one is shown.
pub fn clear_line() {
    if LINE_SHOWN.swap(false, Ordering::Relaxed) {
        let _ = write!(stderr(), "\r\x1b[K");
        let _ = stderr().flush();
    }
}

/// Shows downloads on stderr.
pub struct StderrProgress {
    is_terminal: bool,
    what: String,
    total_bytes: u64,
    done_bytes: u64,
    /// Bytes that an earlier process had fetched; they do not count for the speed.
    first_bytes: Option<u64>,
    began: Instant,
    drawn: Option<Instant>,
    tenths_told: u64,
}

impl StderrProgress {
    /// Draws nothing yet.
    pub fn new() -> StderrProgress {
        StderrProgress {
            is_terminal: redraws(),
            what: String::new(),
            total_bytes: 0,
            done_bytes: 0,
            first_bytes: None,
            began: Instant::now(),
            drawn: None,
            tenths_told: 0,
        }
    }

    fn draw(&mut self) {
        self.drawn = Some(Instant::now());
        show_line(&self.bar());
    }

    fn bar(&self) -> String {
        let (done, total) = (self.done_bytes, self.total_bytes.max(1));
        let full = (done.min(total) * BAR_CHARS / total) as usize;
        let fetched = done.saturating_sub(self.first_bytes.unwrap_or(0)) as f64;
        let per_second = fetched / self.began.elapsed().as_secs_f64().max(0.001);
        let left = match (total.saturating_sub(done)) as f64 / per_second {
            seconds if seconds.is_finite() && (1..total).contains(&done) => {
                format!(", {} left", duration(seconds))
            }
            _ => String::new(),
        };
        format!(
            "{} [{}{}] {:3} % of {}, {}/s{left}",
            self.what,
            "#".repeat(full),
            ".".repeat(BAR_CHARS as usize - full),
            done.min(total) * 100 / total,
            bytes(total),
            bytes(per_second as u64),
        )
    }
}

impl Default for StderrProgress {
    fn default() -> StderrProgress {
        StderrProgress::new()
    }
}

impl Progress for StderrProgress {
    fn begin(&mut self, what: &str, total_bytes: u64) {
        let is_terminal = self.is_terminal;
        *self = StderrProgress { what: what.to_owned(), total_bytes, ..StderrProgress::new() };
        if !is_terminal {
            super::note(format_args!("downloading {what}, {}", bytes(total_bytes)));
        }
    }

    fn advance(&mut self, done_bytes: u64) {
        self.done_bytes = done_bytes;
        self.first_bytes.get_or_insert(done_bytes);
        if self.is_terminal {
            if self.drawn.is_none_or(|at| at.elapsed() >= REDRAW_EVERY) {
                self.draw();
            }
        } else {
            let tenths = done_bytes * 10 / self.total_bytes.max(1);
            if tenths > self.tenths_told {
                self.tenths_told = tenths;
                super::note(format_args!("{} {} %", self.what, tenths * 10));
            }
        }
    }

    fn end(&mut self) {
        if self.is_terminal {
            self.draw();
            LINE_SHOWN.store(false, Ordering::Relaxed);
            let _ = writeln!(stderr());
        }
    }

    fn note(&mut self, line: &str) {
        super::note(format_args!("{line}"));
    }
}

/// Work of known length on stderr: a line that redraws itself on a terminal, one every tenth elsewhere,
/// none where all is done at once. The line goes away with this.
pub struct WorkProgress {
    began: Instant,
    /// What an earlier process had done; it does not count for the time that is left.
    first: u64,
    drawn: Option<Instant>,
    tenths_told: u64,
    is_terminal: bool,
}

/// State of a work, for the line that tells it.
pub struct Told {
    /// Whether the line is for a terminal.
    pub is_terminal: bool,
    /// Hundredths that are done.
    pub percent: u64,
    /// `, 12 s left`; nothing before the first and behind the last.
    pub left: String,
}

impl WorkProgress {
    /// Draws nothing yet.
    pub fn begin() -> WorkProgress {
        WorkProgress::behind(0)
    }

    /// Progress of work that goes on where `first` is done.
    pub fn behind(first: u64) -> WorkProgress {
        let is_terminal = redraws();
        WorkProgress { began: Instant::now(), first, drawn: None, tenths_told: 0, is_terminal }
    }

    /// Tells that `done` of `total` are done, by a `line` that is made if it is shown.
    pub fn show(&mut self, done: u64, total: u64, line: impl FnOnce(Told) -> String) {
        let tenths = done * 10 / total.max(1);
        let is_due = match self.is_terminal {
            true => self.drawn.is_none_or(|at| at.elapsed() >= REDRAW_EVERY),
            false => tenths > self.tenths_told && self.began.elapsed() >= QUIET,
        };
        if !is_due {
            return;
        }
        let left =
            left(done.saturating_sub(self.first), total.saturating_sub(done), self.began.elapsed());
        let percent = done * 100 / total.max(1);
        let line = line(Told { is_terminal: self.is_terminal, percent, left });
        if self.is_terminal {
            self.drawn = Some(Instant::now());
            show_line(&line);
        } else {
            self.tenths_told = tenths;
            super::note(format_args!("{line}"));
        }
    }
}

impl WorkProgress {
    /// Tells that `done` of `total` things are done, `name` the last of them: `layers  12 % [3/25] blk.2`.
    pub fn show_item(&mut self, what: &str, name: &str, done: usize, total: usize) {
        self.show(
            done as u64,
            total as u64,
            |Told { is_terminal, percent, left }| match is_terminal {
                true => format!("{what} {percent:3} % [{done}/{total}] {name}{left}"),
                false => format!("{what} {percent} %{left}"),
            },
        );
    }
}

impl Drop for WorkProgress {
    fn drop(&mut self) {
        clear_line();
    }
}

/// `, 12 s left` where so much was done in that time; nothing before the first and behind the last.
fn left(done: u64, rest: u64, time: Duration) -> String {
    match done > 0 && rest > 0 {
        true => format!(", {} left", duration(time.as_secs_f64() * rest as f64 / done as f64)),
        false => String::new(),
    }
}

/// `1 h 02 min`, `3 min 07 s`, `12 s`
fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!([12.4, 187.0, 3725.0].map(duration), ["12 s", "3 min 07 s", "1 h 02 min"]);
    }

    #[test]
    fn time_left_is_of_what_this_process_did() {
        let time = Duration::from_secs(6);
        assert_eq!(left(10, 20, time), ", 12 s left");
        assert_eq!([left(0, 20, time), left(10, 0, time)], ["", ""]);
    }

    #[test]
    fn a_bar_fills_and_never_overflows() {
        let mut progress = StderrProgress::new();
        (progress.what, progress.total_bytes) = ("m".into(), 200);
        assert!(progress.bar().starts_with("m [........................]   0 % of 200 B"));
        progress.done_bytes = 100;
        assert!(progress.bar().starts_with("m [############............]  50 %"));
        progress.done_bytes = 300;
        assert!(progress.bar().starts_with("m [########################] 100 %"));
        progress.total_bytes = 0;
        assert!(progress.bar().contains("100 %"));
    }
}
