//! Programs that end at any moment: what they write has its name when it is whole, what was there stays
//! until then, what is left over says so by its name, and a second start comes through.

use crate::cli::{program, teff, text};
use crate::eval::golden;
use crate::fixture_model;
use crate::folder::Folder;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Kills of each verb.
const KILLS: u64 = 10;

/// A verb and the files that it writes, in a folder that has nothing else but inputs.
struct Case<'a> {
    folder: &'a Folder,
    args: Vec<&'a str>,
    outputs: Vec<PathBuf>,
}

/// What the output's files hold, `None` for one that is not there.
type Contents = Vec<Option<Vec<u8>>>;

impl Case<'_> {
    fn contents(&self) -> Contents {
        self.outputs.iter().map(|path| fs::read(path).ok()).collect()
    }

    fn put(&self, contents: &Contents) {
        for (path, content) in self.outputs.iter().zip(contents) {
            match content {
                Some(content) => fs::write(path, content).unwrap(),
                None => drop(fs::remove_file(path)),
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.folder.names()
    }

    /// Runs to the end.
    fn run(&self) {
        let output = teff(&self.args, "");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {told}", self.args);
    }

    /// Runs and ends the process by a signal after some time, if it has not ended.
    fn end_after(&self, wait: Duration, signal: &str) -> Option<i32> {
        let quiet = || Stdio::null();
        let mut child = program()
            .args(&self.args)
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .unwrap();
        std::thread::sleep(wait);
        match signal {
            "KILL" => child.kill().unwrap(),
            signal => {
                let command = format!("kill -{signal} {}", child.id());
                Command::new("sh").args(["-c", &command]).status().unwrap();
            }
        }
        child.wait().unwrap().code()
    }

    /// Kills the verb at moments drawn by chance over an older output. `open` brings files back that
    /// the program itself brings back when it opens them; `is_allowed` says what else than the old and
    /// the new output may be there.
    fn check(&self, old: &Contents, open: &dyn Fn(), is_allowed: &dyn Fn(&Contents) -> bool) {
        self.put(old);
        let inputs = self.names();
        let start = Instant::now();
        self.run();
        let time = start.elapsed();
        let new = self.contents();
        let whole = self.names();
        assert!(&new != old && new.iter().all(Option::is_some), "{:?}", self.args);
        let mut in_time = 0;
        for number in 0..KILLS {
            self.put(old);
            let part = (number * 7 + 3) % KILLS;
            let draw = 0.5 + 0.5 * fixture_model::weight(number, "kill", &[3, 1], 0);
            let wait = time.mul_f64((part as f64 + f64::from(draw)) / KILLS as f64);
            in_time += usize::from(self.end_after(wait, "KILL").is_none());
            let what = format!("{:?} killed after {wait:?}", self.args);
            open();
            let found = self.contents();
            assert!(&found == old || found == new || is_allowed(&found), "{what}");
            for name in self.names() {
                let is_known = inputs.contains(&name) || whole.contains(&name);
                assert!(is_known || name.ends_with(".teff-part"), "{what}: {name}");
            }
            if number % 3 == 0 {
                self.put(old);
                self.run();
                assert!(self.contents() == new && self.names() == whole, "{what}: then again");
            }
        }
        assert!(in_time > 0 || cfg!(not(unix)), "{:?}: nothing was killed", self.args);
    }

    fn check_plain(&self, old: &Contents) {
        self.check(old, &|| {}, &|_| false);
    }
}

fn model(folder: &Folder) -> PathBuf {
    let path = folder.0.join("m.gguf");
    fs::write(&path, fixture_model::load("llama-dense").gguf).unwrap();
    path
}

fn old() -> Contents {
    vec![Some(b"an older file".to_vec())]
}

#[cfg(feature = "convert")]
#[test]
fn convert() {
    let folder = Folder::new("kill-convert");
    let out = folder.0.join("out.gguf");
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf/llama-spm");
    let args = vec!["convert", text(&input), "-o", text(&out)];
    Case { folder: &folder, args, outputs: vec![out.clone()] }.check_plain(&old());
}

#[test]
fn merge() {
    let folder = Folder::new("kill-merge");
    let (input, out) = (model(&folder), folder.0.join("out.gguf"));
    let args = vec!["merge", text(&input), text(&out)];
    Case { folder: &folder, args, outputs: vec![out.clone()] }.check_plain(&old());
}

#[test]
fn prune() {
    let folder = Folder::new("kill-prune");
    let (input, out) = (model(&folder), folder.0.join("out.gguf"));
    let method = ["--method", "magnitude", "--sparsity", "0.5"];
    let args = [&["prune", text(&input), text(&out)], &method[..]].concat();
    let case = Case { folder: &folder, args, outputs: vec![out.clone()] };
    case.check_plain(&old());
    if cfg!(unix) {
        interrupted(&case, &old(), true);
    }
}

#[test]
fn imatrix() {
    let folder = Folder::new("kill-imatrix");
    let (model, input) = (golden("dense-model.gguf"), golden("text.txt"));
    let out = folder.0.join("out.gguf");
    let base = ["imatrix", "-m", text(&model), "-f", text(&input), "--ctx", "64"];
    let args = [&base[..], &["-o", text(&out)]].concat();
    Case { folder: &folder, args, outputs: vec![out.clone()] }.check_plain(&old());
}

#[test]
fn logits_of_a_teacher() {
    let folder = Folder::new("kill-logits");
    let (model, input) = (golden("dense-model.gguf"), golden("text.txt"));
    let out = folder.0.join("logits");
    let base = ["perplexity", "-m", text(&model), "-f", text(&input), "--ctx", "64"];
    let args = [&base[..], &["--save-logits", text(&out)]].concat();
    let case = Case { folder: &folder, args, outputs: vec![out.clone()] };
    case.check_plain(&old());
    if cfg!(unix) {
        interrupted(&case, &old(), false);
    }
}

/// Ctrl-C writes the chunks that are done beside an older file, and says how to go on behind them.
#[cfg(unix)]
#[test]
fn an_interrupted_imatrix_goes_on() {
    use std::io::Read;
    use teff::quantize::imatrix::Imatrix;
    let folder = Folder::new("interrupt-imatrix");
    let (model, input) = (golden("dense-model.gguf"), golden("text.txt"));
    let out = folder.0.join("out.gguf");
    let base = ["imatrix", "-m", text(&model), "-f", text(&input), "--ctx", "64"];
    let args = [&base[..], &["-o", text(&out)]].concat();
    let case = Case { folder: &folder, args, outputs: vec![out.clone()] };
    let start = Instant::now();
    case.run();
    let time = start.elapsed();
    let whole = Imatrix::open(&out).unwrap();
    for part in [0.2, 0.4, 0.6, 0.8] {
        fs::write(&out, "older").unwrap();
        let mut child = program().args(&case.args).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(time.mul_f64(part));
        let command = format!("kill -INT {}", child.id());
        Command::new("sh").args(["-c", &command]).status().unwrap();
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        if child.wait().unwrap().code() != Some(130) {
            // Done before, or not yet watching for signals.
            continue;
        }
        if told.contains("all was written") {
            assert_eq!(Imatrix::open(&out).unwrap().chunk_count, whole.chunk_count);
            continue;
        }
        let Some((_, next)) = told.trim_end().rsplit_once("--from-chunk ") else {
            assert!(told.contains("nothing was written"), "{told}");
            assert_eq!(fs::read(&out).unwrap(), b"older");
            continue;
        };
        assert_eq!(fs::read(&out).unwrap(), b"older");
        let so_far = folder.0.join("out.gguf.unfinished");
        assert!(told.contains(&format!("--merge {}", text(&so_far))), "{told}");
        assert_eq!(Imatrix::open(&so_far).unwrap().chunk_count.to_string(), next, "{told}");
        let rest = ["--merge", text(&so_far), "--from-chunk", next, "-o", text(&out)];
        if next == whole.chunk_count.to_string() {
            fs::rename(&so_far, &out).unwrap();
        } else {
            let output = teff(&[&base[..], &rest].concat(), "");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let found = Imatrix::open(&out).unwrap();
        assert_eq!(found.chunk_count, whole.chunk_count);
        assert_eq!(found.datasets, whole.datasets);
        for ((name, found), (_, whole)) in found.weights().zip(whole.weights()) {
            assert_eq!(found.counts(), whole.counts(), "{name}");
        }
    }
}

/// A text that does not fit the header is set by a copy, which takes the file's place.
#[test]
fn edit_by_a_copy() {
    let folder = Folder::new("kill-edit-copy");
    let path = model(&folder);
    let setting = format!("general.description=str:{}", "long ".repeat(2000));
    let args = vec!["edit", text(&path), "--set", &setting];
    let case = Case { folder: &folder, args, outputs: vec![path.clone()] };
    case.check_plain(&case.contents());
}

/// The header is written over the old one; whoever opens the file next finds the one or the other.
#[test]
fn edit_in_place() {
    let folder = Folder::new("kill-edit");
    let path = model(&folder);
    let setting = |words: &str| format!("general.description=str:{}", words.repeat(20_000));
    let run = |setting: &str| {
        let args = vec!["edit", text(&path), "--set", setting];
        Case { folder: &folder, args, outputs: vec![path.clone()] }.run();
    };
    run(&setting("long "));
    let short = setting("ab");
    let args = vec!["edit", text(&path), "--set", &short];
    let case = Case { folder: &folder, args, outputs: vec![path.clone()] };
    let open = || {
        let output = teff(&["inspect", text(&path), "--json"], "");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
    };
    case.check(&case.contents(), &open, &|_| false);
}

/// Parts of an older model must not be taken for parts of the new one, so its first may be gone.
#[test]
fn split() {
    let folder = Folder::new("kill-split");
    let (input, stem) = (model(&folder), folder.0.join("part"));
    let part = |i: usize| folder.0.join(format!("part-{i:05}-of-00004.gguf"));
    let n_tensors = gguf_rs_lite::GgufFile::open(&input).unwrap().tensors().len();
    let most = n_tensors.div_ceil(4).to_string();
    let args = vec!["split", text(&input), text(&stem), "--max-tensors", &most];
    let case = Case { folder: &folder, args, outputs: (1..=4).map(part).collect() };
    let old: Contents = (0..4).map(|i| Some(vec![i; 9])).collect();
    case.check(&old, &|| {}, &|found| found[0].is_none());
    if cfg!(unix) {
        // The parts may all be there, with nothing left but to say so.
        interrupted(&case, &old, true);
    }
}

/// A disk that is full, as far as a process can be made to see one: files that grow beyond a limit. The
/// error names the file, the old one stays, nothing is left over.
#[cfg(target_os = "linux")]
#[test]
fn full_disks_leave_the_old_file() {
    let folder = Folder::new("full");
    let (input, dense, calibration) =
        (model(&folder), golden("dense-model.gguf"), golden("text.txt"));
    let (out, stem) = (folder.0.join("out"), folder.0.join("out"));
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf/llama-spm");
    let (input, dense, calibration) = (text(&input), text(&dense), text(&calibration));
    let (out, stem, checkpoint) = (text(&out), text(&stem), text(&checkpoint));
    let long = format!("general.description=str:{}", "long ".repeat(2000));
    let measured = ["-m", dense, "-f", calibration, "--ctx", "64"];
    let cases: [Vec<&str>; 7] = [
        vec!["convert", checkpoint, "-o", out],
        vec!["quantize", input, out, "--type", "Q8_0"],
        vec!["merge", input, out],
        vec!["split", input, stem, "--max-tensors", "9"],
        vec!["edit", input, "--set", &long],
        [&["imatrix"], &measured[..], &["-o", out]].concat(),
        [&["perplexity"], &measured[..], &["--save-logits", out]].concat(),
    ];
    for args in cases {
        let written = if args[0] == "edit" { input } else { out };
        if written == out {
            fs::write(out, "old").unwrap();
        }
        let before = fs::read(written).unwrap();
        // Shells count in 512 or 1024 bytes. The signal that comes first ends a process otherwise.
        let script = "trap '' XFSZ; ulimit -f 4; exec \"$@\"";
        let program = program();
        let output = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(program.get_program())
            .args(program.get_args())
            .args(&args)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let last = told.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(last.starts_with("error: ") && last.contains("File too large"), "{args:?}: {last}");
        assert!(last.contains(written), "{args:?}: {last}");
        assert!(fs::read(written).unwrap() == before, "{args:?}");
        fs::remove_file(out).unwrap_or_default();
        assert_eq!(folder.names(), ["m.gguf"], "{args:?}");
    }
}

/// Ctrl-C and SIGTERM take what was begun away. What is ready when they come may have its name.
fn interrupted(case: &Case<'_>, old: &Contents, may_be_ready: bool) {
    for (signal, ended) in [("INT", Some(130)), ("TERM", None)] {
        for wait_ms in (0..20).chain([30, 50, 100]) {
            // Takes what kills have left over.
            case.run();
            let new = case.contents();
            case.put(old);
            let before = case.names();
            let code = case.end_after(Duration::from_millis(wait_ms), signal);
            let what = format!("{signal} after {wait_ms} ms");
            match code {
                Some(130) if code == ended => {
                    let found = case.contents();
                    assert!(&found == old || may_be_ready && found == new, "{what}");
                }
                // Done before, or not yet watching for signals.
                Some(0) | None => {}
                code => panic!("{what}: {code:?}"),
            }
            // A process that watches ends by SIGTERM, too, as one does that does not.
            if code.is_some() || code == ended {
                assert_eq!(case.names(), before, "{what}");
            }
        }
    }
}
