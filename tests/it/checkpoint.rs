//! Checkpoints of a hub on the loopback interface: what is fetched, what is not, and hubs that lie.

use crate::cache::{GO_ON, Recorder};
use crate::folder::Folder;
use crate::hub::{Hub, Script, hex};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use teff::cache::{Cache, CacheError, ModelRef, Settings, Silent};
use teff::convert::{Conversion, ConvertOptions};

/// A sharded checkpoint with an index.
const GOLDEN: &str = "llama-spm";
const INDEX: &str = "model.safetensors.index.json";
/// Its second shard, which is large enough to be cut.
const SHARD: &str = "model-00002-of-00002.safetensors";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf").join(GOLDEN)
}

/// Files of a repository: name and content.
type Files = Vec<(String, Vec<u8>)>;

/// The golden folder, and what no conversion reads.
fn repository() -> Files {
    let mut files: Files = Vec::new();
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        files.push((name, fs::read(&path).unwrap()));
    }
    for name in ["pytorch_model.bin", "consolidated.safetensors", "m-Q4_0.gguf", "README.md"] {
        files.push((name.to_owned(), b"not to be fetched".to_vec()));
    }
    files
}

/// A hub that serves these files as `o/r`, the large ones with their checksums.
fn hub_of(files: Files) -> Arc<Hub> {
    let entry = |(name, bytes): &(String, Vec<u8>)| match name.ends_with(".safetensors") {
        true => json!({"path": name, "size": bytes.len(), "lfs": {"oid": hex(bytes)}}),
        false => json!({"path": name, "size": bytes.len()}),
    };
    let listing = serde_json::Value::from_iter(files.iter().map(entry)).to_string();
    let hub = Hub::start(Vec::new(), Script::default());
    *hub.listing.lock().unwrap() = listing;
    hub.files.lock().unwrap().extend(files);
    hub
}

fn model() -> ModelRef {
    "hf:o/r".parse().unwrap()
}

fn fetch(hub: &Hub, dir: &Folder) -> Result<PathBuf, CacheError> {
    Cache::new(hub.settings(dir)).checkpoint(&model(), &mut Silent, &GO_ON)
}

/// The file that a folder becomes.
fn converted(folder: &Path, out: &Path) -> Vec<u8> {
    let options = ConvertOptions { name: Some("name".into()), ..ConvertOptions::default() };
    let conversion = Conversion::plan(folder, &options).unwrap();
    conversion.write(out, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    fs::read(out).unwrap()
}

#[test]
fn a_checkpoint_arrives_once_without_what_is_not_read() {
    let (hub, dir) = (hub_of(repository()), Folder::new("cache"));
    let folder = fetch(&hub, &dir).unwrap();
    assert_eq!(folder, dir.0.join("hub/o/r"));
    for (name, bytes) in repository() {
        let is_read = !["bin", "gguf", "md", "f32"].iter().any(|end| name.ends_with(end))
            && !["consolidated.safetensors", "tokens.json", "tokenizer_cases.json"]
                .contains(&&*name);
        assert_eq!(folder.join(&name).exists(), is_read, "{name}");
        assert!(!is_read || fs::read(folder.join(&name)).unwrap() == bytes, "{name}");
    }
    let asked = hub.transfers().len();
    let offline = Settings { hub_endpoint: "http://127.0.0.1:9".into(), ..hub.settings(&dir) };
    let cache = Cache::new(offline);
    assert_eq!(cache.checkpoint(&model(), &mut Silent, &GO_ON).unwrap(), folder);
    assert_eq!(hub.transfers().len(), asked);
    let (out, ours) = (dir.0.join("a.gguf"), converted(&golden(), &dir.0.join("b.gguf")));
    assert!(converted(&folder, &out) == ours);
    let listed = cache.list();
    assert!(listed.iter().any(|entry| entry.model == "hf:o/r" && entry.is_cached));
    cache.remove(&model()).unwrap();
    assert!(!folder.exists());
}

#[test]
fn a_checkpoint_that_was_interrupted_goes_on() {
    let (hub, dir) = (hub_of(repository()), Folder::new("cache"));
    let shard = fs::read(golden().join(SHARD)).unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    // The largest of the files is a shard: nothing else has so many bytes.
    let others = repository().into_iter().filter(|(name, _)| !name.ends_with(".safetensors"));
    let at = others.map(|(_, bytes)| bytes.len()).max().unwrap() as u64 + 1;
    assert!(at < shard.len() as u64);
    let mut progress = Recorder { cancel_at: Some((at, cancel.clone())), ..Recorder::default() };
    let cache = Cache::new(hub.settings(&dir));
    let stopped = cache.checkpoint(&model(), &mut progress, &cancel);
    assert!(matches!(stopped, Err(CacheError::Cancelled)), "{stopped:?}");
    let before = hub.transfers().len();
    // Connections that break off, too.
    hub.script.lock().unwrap().cuts = vec![1000, 1000];
    let folder = fetch(&hub, &dir).unwrap();
    let later = hub.transfers().split_off(before);
    assert!(later.iter().all(|request| request.path.ends_with(".safetensors")), "{later:?}");
    assert!(later.iter().any(|request| request.range().is_some()), "{later:?}");
    assert!(fs::read(folder.join(SHARD)).unwrap() == shard);
}

#[test]
fn hubs_that_lie_are_refused() {
    type Spoil = fn(&mut Files);
    fn index_names(files: &mut Files, name: &str) {
        let index = files.iter_mut().find(|(name, _)| name == INDEX).unwrap();
        index.1 = json!({"weight_map": {"x.weight": name}}).to_string().into_bytes();
    }
    let cases: &[(&str, Spoil, &str)] = &[
        ("above", |files| index_names(files, "../../evil.safetensors"), "refused file name"),
        ("root", |files| index_names(files, "/tmp/evil.safetensors"), "refused file name"),
        ("below", |files| index_names(files, "sub/evil.safetensors"), "refused file name"),
        ("pickle", |files| index_names(files, "pytorch_model.bin"), "refused file name"),
        ("absent", |files| index_names(files, "absent.safetensors"), "has no absent.safetensors"),
        (
            "no index",
            |files| files.iter_mut().find(|(name, _)| name == INDEX).unwrap().1 = b"[".to_vec(),
            "listing of o/r: model.safetensors.index.json",
        ),
        (
            "listed above",
            |files| {
                files.retain(|(name, _)| !name.ends_with(".safetensors") && name != INDEX);
                files.push(("../../model.safetensors".into(), vec![1]));
            },
            "hf:o/r has no safetensors",
        ),
        (
            "template above",
            |files| files.push(("chat_templates/../../x.jinja".into(), vec![1])),
            "refused file name",
        ),
        (
            "no configuration",
            |files| files.retain(|(name, _)| !name.ends_with("config.json")),
            "hf:o/r has no config.json",
        ),
    ];
    for (name, spoil, expected) in cases {
        let mut files = repository();
        spoil(&mut files);
        refuses(name, &hub_of(files), expected);
    }
}

#[test]
fn listings_that_lie_are_refused() {
    type Lie = fn(&[u8], &str) -> String;
    let cases: &[(&str, &str, Lie, &str)] = &[
        (
            "longer",
            SHARD,
            |shard, listing| {
                let size = |n: usize| format!("\"size\":{n},\"lfs\":{{\"oid\":\"{}", hex(shard));
                listing.replace(&size(shard.len()), &size(shard.len() + 1))
            },
            "bytes instead of",
        ),
        (
            "other bytes",
            SHARD,
            |shard, listing| listing.replace(&hex(shard), &hex(b"other")),
            "sha256 is",
        ),
        (
            "huge",
            INDEX,
            |index, listing| {
                let size = |n: usize| format!("{INDEX}\",\"size\":{n}");
                listing.replace(&size(index.len()), &size(1 << 40))
            },
            "has 1099511627776 bytes",
        ),
    ];
    for (name, file, lie, expected) in cases {
        let hub = hub_of(repository());
        let bytes = repository().into_iter().find(|(name, _)| name == file).unwrap().1;
        let listing = hub.listing.lock().unwrap().clone();
        let lied = lie(&bytes, &listing);
        assert_ne!(lied, listing, "{name}");
        *hub.listing.lock().unwrap() = lied;
        refuses(name, &hub, expected);
    }
}

/// A hub's checkpoint is refused, and nothing is left that could be taken for one.
fn refuses(name: &str, hub: &Hub, expected: &str) {
    let dir = Folder::new("cache");
    let error = fetch(hub, &dir).unwrap_err().to_string();
    assert!(error.contains(expected), "{name}: {error}");
    assert!(!dir.0.join("hub/o/r").join(SHARD).exists(), "{name}");
    assert!(fs::read_dir(&dir.0).unwrap().count() <= 1, "{name}: something beside the cache");
}

#[test]
fn only_whole_repositories_are_checkpoints() {
    let dir = Folder::new("cache");
    let cache = Cache::new(Settings::in_dir(&dir.0));
    for given in ["hf:o/r:Q4_0", "some/path", "smollm2:135m"] {
        let error = cache.checkpoint(&given.parse().unwrap(), &mut Silent, &GO_ON).unwrap_err();
        assert!(error.to_string().contains("is not of the form hf:owner/repo"), "{error}");
    }
}

#[test]
fn the_program_converts_a_repository() {
    let (hub, dir) = (hub_of(repository()), Folder::new("cache"));
    let out = dir.0.join("out.gguf");
    let run = |args: &[&str]| {
        let mut teff = Command::new(env!("CARGO_BIN_EXE_teff"));
        teff.args(["convert", "--name", "name"]).args(args);
        teff.env("HF_ENDPOINT", &hub.endpoint).env("TEFF_CACHE", dir.0.join("cache"));
        teff.output().unwrap()
    };
    let done = run(&["hf:o/r", "-o", out.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stderr).contains(SHARD));
    let (own, folder) = (dir.0.join("b.gguf"), golden());
    assert!(run(&[folder.to_str().unwrap(), "-o", own.to_str().unwrap()]).status.success());
    assert!(fs::read(&out).unwrap() == fs::read(&own).unwrap());
    let refused = run(&["hf:o/r:Q4_0", "--dry-run"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("without a file or quantization"));
}
