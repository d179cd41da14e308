//! Ctrl-C and other signals, whatever a verb is doing.

use super::*;
use crate::cli::at_terminal;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

/// A process that has begun its work, with standard input open.
struct Begun {
    child: Child,
    stdin: ChildStdin,
    stderr: BufReader<std::process::ChildStderr>,
}

/// Starts a verb and waits until it has opened the model, which a warning shows.
fn begin(args: &[&str]) -> Begun {
    let args = [args, &["--ignore-key", "no.such.key"]].concat();
    let mut command = program();
    command.args(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("no.such.key"), "{args:?}: {line}");
    Begun { child, stdin, stderr }
}

pub fn interrupt(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("sh").args(["-c", "kill -INT $0", &pid]).status().unwrap().success());
}

impl Begun {
    /// Ctrl-C after a while: exit code 130, at once. Returns the last line of stderr.
    fn interrupt_after(mut self, wait: Duration) -> String {
        std::thread::sleep(wait);
        let start = Instant::now();
        interrupt(&self.child);
        assert_eq!(self.child.wait_timeout(20), Some(Some(130)));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        drop(self.stdin);
        let mut told = String::new();
        self.stderr.read_to_string(&mut told).unwrap();
        let last = told.lines().last().unwrap_or_default().to_string();
        assert!(last.starts_with("interrupted"), "{told}");
        last
    }
}

const SHORT: Duration = Duration::from_millis(300);

#[test]
fn while_waiting_for_input() {
    let folder = Folder::new("ctrl-c-waiting");
    let model = folder.tiny_with("m", vec![]);
    for verb in ["run", "embed", "tokenize", "detokenize"] {
        let told = begin(&[verb, text(&model)]).interrupt_after(SHORT);
        let done = match verb {
            "run" => "nothing was answered",
            "embed" => "0 texts done",
            _ => "interrupted",
        };
        assert!(told.contains(done), "{verb}: {told}");
    }
}

#[test]
fn between_texts() {
    let folder = Folder::new("ctrl-c-texts");
    let model = folder.tiny_with("m", vec![]);
    let mut begun = begin(&["embed", text(&model)]);
    begun.stdin.write_all(b"a\nb\n").unwrap();
    let mut stdout = BufReader::new(begun.child.stdout.take().unwrap());
    let mut lines = String::new();
    for _ in 0..2 {
        stdout.read_line(&mut lines).unwrap();
    }
    assert_eq!(begun.interrupt_after(SHORT), "interrupted: 2 texts done");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(lines.ends_with('\n') && rest.is_empty(), "whole lines: {rest}");
}

#[test]
fn in_the_middle_of_work() {
    let folder = Folder::new("ctrl-c-working");
    let model = folder.tiny_with("m", vec![]);
    let model = text(&model);
    let told = begin(&["bench", model, "--reps", "1000000", "--prompt", "8", "--gen", "2"]);
    let told = told.interrupt_after(SHORT * 3);
    assert!(told.contains("of 1000000 repetitions measured: prompt "), "{told}");

    let ids = vec!["5"; 30_000].join(",");
    let out = folder.0.join("out");
    let args = ["logits", model, "--tokens", &ids, "-t", "1", "--batch", "8", "-o", text(&out)];
    let told = begin(&args).interrupt_after(SHORT * 3);
    let rows: usize = told.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(told.ends_with("rows done") && rows < 30_000, "{told}");
    assert_eq!(std::fs::metadata(&out).unwrap().len() as usize, rows * 290 * 4);

    let prompt = folder.0.join("prompt");
    std::fs::write(&prompt, "a".repeat(30_000)).unwrap();
    let args = ["run", model, "-f", text(&prompt), "--raw", "-t", "1", "--ctx", "40000"];
    let told = begin(&args).interrupt_after(SHORT * 4);
    // A fast machine is in the answer by then.
    let places = [" tokens of the prompt read in ", "; answer "];
    assert!(places.iter().any(|place| told.contains(place)), "{told}");
}

#[test]
fn a_download_ends_in_order() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("ctrl-c-pull");
    let python = folder.0.join("python");
    std::fs::write(&python, "#!/bin/sh\necho $$ > \"$PIDFILE\"\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (cache, pid) = (folder.0.join("cache"), folder.0.join("pid"));
    let mut command = program();
    command.args(["pull", "smollm2:135m"]).stdout(Stdio::null()).stderr(Stdio::piped());
    command.env("TEFF_CACHE", &cache).env("TEFF_PYTHON", &python).env("PIDFILE", &pid);
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while std::fs::read_to_string(&pid).map_or(true, |text| !text.ends_with('\n')) {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    interrupt(&child);
    assert_eq!(child.wait_timeout(20), Some(Some(130)));
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    let last = told.lines().last().unwrap_or_default();
    assert_eq!(last, "interrupted: download cancelled; the next one resumes it", "{told}");
    let left: Vec<_> = std::fs::read_dir(cache.join("models")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let pid = std::fs::read_to_string(&pid).unwrap();
    let alive = Command::new("sh").args(["-c", "kill -0 $0 2>/dev/null", pid.trim()]).status();
    assert!(!alive.unwrap().success(), "pip went away with it");
}

#[test]
fn at_a_terminal_too() {
    let folder = Folder::new("ctrl-c-terminal");
    let model = folder.tiny_with("m", vec![]);
    for verb in ["run", "embed", "tokenize"] {
        let args = [verb, text(&model), "--ignore-key", "no.such.key"];
        let (code, shown) = at_terminal(r#"b"\x03""#, &args, &[]);
        assert_eq!(code, Some(130), "{verb}: {shown:?}");
        assert!(shown.contains("interrupted"), "{verb}: {shown:?}");
    }
}

#[test]
fn the_progress_line_is_gone_before_the_answer() {
    let folder = Folder::new("progress");
    let model = folder.tiny_with("m", vec![]);
    let prompt = folder.0.join("prompt");
    std::fs::write(&prompt, "a".repeat(1500)).unwrap();
    let args = ["run", text(&model), "-f", text(&prompt), "--raw", "-n", "3", "--ctx", "4000"];
    let (code, shown) = at_terminal(r#"b"""#, &args, &[]);
    assert_eq!(code, Some(0), "{shown:?}");
    let (_, behind) = shown.rsplit_once("reading the prompt: ").expect("a line of progress");
    let (_, behind) = behind.split_once(" tokens").unwrap();
    assert!(behind.starts_with("\r\u{1b}[K"), "the line is taken away: {shown:?}");
}
