//! Instructions that are computed once per machine, as `run` and `chat` see them.

use crate::cli::{teff_with, text};
use crate::folder::Folder;
use std::fs;
use std::path::{Path, PathBuf};

/// Context that the model says it was trained with.
const N_CTX_TRAIN: u32 = 200_000;
const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:";

/// A model that talks, and a cache folder of its own.
struct Machine {
    folder: Folder,
    model: PathBuf,
    system: String,
}

impl Machine {
    fn new(name: &str) -> Machine {
        let folder = Folder::new(name);
        let keys = vec![
            ("tokenizer.chat_template", TEMPLATE.into()),
            ("llama.context_length", N_CTX_TRAIN.into()),
        ];
        let model = folder.tiny_with("talker", keys);
        // A token is a byte or so.
        let system: String = (0..400).map(|i| format!("{i} ")).collect();
        Machine { folder, model, system }
    }

    fn prefixes(&self) -> PathBuf {
        self.folder.0.join("cache/prefixes")
    }

    /// Entries of the cache on disk.
    fn entries(&self) -> Vec<PathBuf> {
        let listed = fs::read_dir(self.prefixes()).into_iter().flatten().flatten();
        listed.map(|entry| entry.path()).collect()
    }

    /// What a verb with these instructions writes and tells.
    fn start(&self, args: &[&str], stdin: &str) -> (String, String) {
        let cache = self.folder.0.join("cache");
        let fixed = ["-m", text(&self.model), "--system", &self.system, "-n", "6", "--temp", "0"];
        let args = [&args[..1], &fixed, &["--ctx", "3000"], &args[1..]].concat();
        let output = teff_with(&args, stdin, &[("TEFF_CACHE", text(&cache))]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), stderr)
    }
}

/// Tokens of the prompt that the last statistics call cached.
fn n_cached(notes: &str) -> usize {
    let Some((before, _)) = notes.split_once(" cached)") else { return 0 };
    before.rsplit('(').next().unwrap().parse().unwrap()
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn instructions_are_computed_once_per_machine() {
    let machine = Machine::new("prefixes");
    let (plain, notes) = machine.start(&["run", "-p", "one", "--cache-bytes", "0"], "");
    assert!(n_cached(&notes) == 0 && machine.entries().is_empty(), "{notes}");
    let (first, notes) = machine.start(&["run", "-p", "one"], "");
    assert_eq!((&first, n_cached(&notes)), (&plain, 0));
    assert_eq!(machine.entries().len(), 1);
    let (again, notes) = machine.start(&["run", "-p", "one"], "");
    assert_eq!(again, plain);
    assert!(n_cached(&notes) > 1000, "{notes}");
    // Another question behind them, in the other verb.
    let (other, _) = machine.start(&["chat", "--cache-bytes", "0"], "two\nthree\n");
    let (cached, notes) = machine.start(&["chat"], "two\n/stats\nthree\n");
    assert_eq!(cached, other);
    assert!(n_cached(&notes) > 1000, "{notes}");
    // Only what is common is kept, not what users say.
    assert_eq!(machine.entries().len(), 1);
    let (_, notes) = machine.start(&["run", "-p", "one", "--cache-bytes", "0"], "");
    assert_eq!(n_cached(&notes), 0);
}

#[test]
fn what_is_no_whole_prefix_is_passed_over() {
    let machine = Machine::new("prefixes-damage");
    let (plain, _) = machine.start(&["run", "-p", "one"], "");
    let entry = machine.entries().pop().unwrap();
    damage(&entry);
    // Files of others, one of them by a name as ours.
    let foreign = machine.prefixes().join("notes.prefix");
    fs::write(&foreign, "of mine").unwrap();
    let name = entry.file_name().unwrap().to_str().unwrap();
    let named = machine.prefixes().join(format!("{}ffffffffffffffff.prefix", &name[..17]));
    fs::write(&named, "TEFFSESS\u{9}\0\0\0 of a later version").unwrap();
    let (again, notes) = machine.start(&["run", "-p", "one"], "");
    assert_eq!((&again, n_cached(&notes)), (&plain, 0));
    let (again, notes) = machine.start(&["run", "-p", "one"], "");
    assert_eq!(again, plain);
    assert!(n_cached(&notes) > 1000, "written anew: {notes}");
    assert_eq!(fs::read(&foreign).unwrap(), b"of mine");
    // A folder that cannot be made is told, and costs no answer.
    fs::remove_dir_all(machine.prefixes()).unwrap();
    fs::write(machine.prefixes(), "a file").unwrap();
    let (again, notes) = machine.start(&["run", "-p", "one"], "");
    assert_eq!(again, plain);
    assert!(notes.contains("not kept for later starts"), "{notes}");
}

#[test]
fn the_cache_keeps_its_size() {
    let mut machine = Machine::new("prefixes-size");
    machine.start(&["run", "-p", "one"], "");
    let bytes = fs::metadata(&machine.entries()[0]).unwrap().len();
    machine.system.insert(0, 'x');
    let most = (bytes + bytes / 2).to_string();
    machine.start(&["run", "-p", "one", "--cache-bytes", &most], "");
    assert_eq!(machine.entries().len(), 1);
    let (_, notes) = machine.start(&["run", "-p", "two", "--cache-bytes", &most], "");
    assert!(n_cached(&notes) > 1000, "the newest stays: {notes}");
    machine.system.insert(0, 'y');
    let (_, notes) = machine.start(&["run", "-p", "two", "--cache-bytes", "1K"], "");
    assert!(n_cached(&notes) == 0 && machine.entries().len() == 1, "too long: {notes}");
}

#[test]
fn processes_share_the_cache() {
    let machine = Machine::new("prefixes-share");
    let (plain, _) = machine.start(&["run", "-p", "one", "--cache-bytes", "0"], "");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(machine.start(&["run", "-p", "one"], "").0, plain));
        }
    });
    let (again, notes) = machine.start(&["run", "-p", "one"], "");
    assert_eq!(again, plain);
    assert!(n_cached(&notes) > 1000, "{notes}");
}

#[cfg(unix)]
#[test]
fn only_the_owner_reads_what_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new("prefixes-owner");
    machine.start(&["run", "-p", "one"], "");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&machine.prefixes()), 0o700);
    assert_eq!(mode(&machine.entries()[0]), 0o600);
}
