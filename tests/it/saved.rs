//! Sessions on disk: what is loaded goes on as what was never saved, to the bit, and what is no whole
//! session of this model is refused by name.

#[path = "../fuzz/common/sums.rs"]
mod sums;

use crate::changed;
use crate::decoder::quantized;
use crate::fixture_model;
use crate::folder::Folder;
use crate::lora;
use gguf_rs_lite::{GgmlType, GgufFile};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use teff::backend::pages::KvType;
use teff::engine::{
    AnswerEvent, Engine, EngineError, EngineOptions, LoadedSession, Model, Part, Request, Runner,
    SavedText, Session, SessionFault, Stats, TokenEvent,
};
use teff_kernels::{KernelTable, Level};

/// Attention over all and over windows, experts, recurrent states alone and beside attention.
pub const NAMES: [&str; 7] = [
    "qwen3-dense",
    "gemma3-dense",
    "llama-moe",
    "mamba-dense",
    "lfm2-dense",
    "qwen3next-moe",
    "falcon-h1-dense",
];
const N_CTX: usize = 240;

pub fn options(kv_type: KvType) -> EngineOptions {
    changed(EngineOptions::default(), |options| {
        options.threads = Some(2);
        options.n_ctx = Some(N_CTX);
        options.max_batch = 40;
        options.max_outputs = 4;
        options.kv_type = kv_type;
    })
}

fn model_of(gguf: Vec<u8>) -> Model {
    let file = Arc::new(GgufFile::from_bytes(gguf).unwrap());
    Model::from_file(file, Path::new("tiny.gguf")).unwrap()
}

pub fn model(name: &str) -> Model {
    model_of(fixture_model::load(name).gguf)
}

pub fn runner(model: &Model, options: &EngineOptions) -> Runner {
    Runner::start(Engine::new(model, options).unwrap(), None, 4).unwrap()
}

pub fn prompt(turn: u32, n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 7 + i * i * 3 + turn * 11) % 60).collect()
}

/// A request for twelve tokens: the likeliest ones, or hot ones of a seed.
pub fn request(prompt: Vec<u32>, seed: Option<u64>) -> Request {
    changed(Request::new(prompt), |request| {
        request.max_tokens = Some(12);
        request.logprobs = Some(5);
        match seed {
            None => request.sampling.temperature = 0.0,
            Some(seed) => {
                request.sampling.seed = seed;
                request.sampling.temperature = 3.0;
                request.sampling.top_k = 0;
                (request.sampling.top_p, request.sampling.min_p) = (1.0, 0.0);
            }
        }
    })
}

/// What an answer is compared by: tokens with the bits of their log-probabilities, and those of the
/// likeliest others.
pub type Told = Vec<(u32, Vec<u32>)>;

pub fn listen(events: impl Iterator<Item = AnswerEvent>) -> (Told, Stats) {
    let (mut told, mut end) = (Vec::new(), None);
    for event in events {
        match event {
            AnswerEvent::Token(TokenEvent::Token { id, logprobs, .. }) => {
                let logprobs = logprobs.unwrap();
                let top = logprobs.top.iter().flat_map(|&(id, p)| [id, p.to_bits()]);
                told.push((id, top.chain([logprobs.token.to_bits()]).collect()));
            }
            AnswerEvent::End(result) => end = Some(result.unwrap()),
            _ => {}
        }
    }
    (told, end.unwrap())
}

/// A session of two turns: pages, a part of one, and states at several places.
fn held(runner: &Runner) -> Session {
    let mut session = runner.session();
    for turn in 0..2 {
        listen(session.generate(request(prompt(turn, 45), Some(u64::from(turn)))));
    }
    session
}

/// Answers to what comes next, and what was cached for each.
fn go_on(session: &Session) -> Vec<(Told, usize)> {
    let next = |change: &dyn Fn(&mut Session) -> (Told, Stats)| {
        // A clone, for the session to be used again.
        let (told, stats) = change(&mut session.clone());
        (told, stats.n_cached)
    };
    vec![
        next(&|session| listen(session.generate(request(prompt(7, 30), None)))),
        next(&|session| listen(session.generate(request(prompt(7, 30), Some(5))))),
        next(&|session| listen(session.regenerate(request(Vec::new(), Some(6))))),
        next(&|session| {
            let first = session.answers()[0];
            session.truncate(first);
            listen(session.generate(request(prompt(8, 3), None)))
        }),
    ]
}

fn load(runner: &Runner, path: &Path) -> LoadedSession {
    runner.load_session(path).unwrap_or_else(|error| panic!("{error}"))
}

fn fault(runner: &Runner, path: &Path) -> SessionFault {
    match runner.load_session(path) {
        Ok(_) => panic!("the file was loaded"),
        Err(error) => {
            assert!(error.to_string().contains("session"), "{error}");
            error.fault
        }
    }
}

#[test]
fn what_is_loaded_goes_on_to_the_bit_and_computes_nothing_twice() {
    let dir = Folder::new("goes-on");
    let all = KvType::ALL.map(|kv_type| ("qwen3-dense", kv_type));
    let windows = [("gemma3-dense", KvType::Q4_0), ("lfm2-dense", KvType::Q8_0)];
    let others = NAMES[1..].iter().map(|&name| (name, KvType::F16));
    for (name, kv_type) in others.chain(all).chain(windows) {
        let what = format!("{name}, {kv_type}");
        let model = model(name);
        let there = runner(&model, &options(kv_type));
        let session = held(&there);
        let path = dir.file("session");
        let saved = session.save(&path, b"{\"seed\": 3}").unwrap();
        assert_eq!(saved.bytes, fs::metadata(&path).unwrap().len(), "{what}");
        // Another process has other threads, another CPU, another context.
        let other = changed(options(kv_type), |options| {
            options.threads = Some(1);
            if name == "qwen3-dense" || kv_type != KvType::F16 {
                options.kernels = KernelTable::at_most(Level::Scalar);
            }
            options.n_ctx = Some(N_CTX + 9);
        });
        let here = runner(&model, &other);
        let LoadedSession { session: loaded, extra, report } = load(&here, &path);
        assert_eq!(extra, b"{\"seed\": 3}");
        assert_eq!(loaded.tokens(), session.tokens(), "{what}");
        assert_eq!(loaded.answers(), session.answers(), "{what}");
        assert_eq!((report.n_cached, report.left_out_bytes), (saved.n_cached, 0), "{what}");
        assert!(report.n_cached + 1 >= session.tokens().len(), "{what}: {report:?}");
        // What was loaded is what would be saved.
        let again = dir.file("again");
        let third = runner(&model, &options(kv_type));
        load(&third, &path).session.save(&again, &extra).unwrap();
        assert!(fs::read(&again).unwrap() == fs::read(&path).unwrap(), "{what}");
        let (truth, ours) = (go_on(&session), go_on(&loaded));
        assert!(truth.iter().all(|(told, n_cached)| !told.is_empty() && *n_cached >= 32));
        assert_eq!(ours, truth, "{what}");
    }
}

#[test]
fn text_alone_is_loaded_and_computed_anew() {
    let dir = Folder::new("text");
    let model = model("gemma3-dense");
    let there = runner(&model, &options(KvType::F16));
    let session = held(&there);
    let path = dir.file("session");
    let saved = session.save_without_kv(&path, b"").unwrap();
    assert!(saved.bytes < 1500 && saved.n_cached == 0, "{saved:?}");
    // Of another type of cache, which matters to pages only.
    let here = runner(&model, &options(KvType::F32));
    let LoadedSession { session: loaded, report, .. } = load(&here, &path);
    assert_eq!((report.n_cached, report.has_kv), (0, false));
    assert_eq!(loaded.tokens(), session.tokens());
    let here = runner(&model, &options(KvType::F16));
    let mut loaded = load(&here, &path).session;
    let (told, stats) = listen(loaded.generate(request(prompt(7, 30), None)));
    assert_eq!(stats.n_cached, 0);
    assert_eq!(told, listen(session.clone().generate(request(prompt(7, 30), None))).0);
    // A session without a token.
    there.session().save(&path, b"x").unwrap();
    let empty = load(&here, &path);
    assert!(empty.session.tokens().is_empty() && empty.report.n_cached == 0);
    assert_eq!(empty.extra, b"x");
}

#[test]
fn a_file_tells_what_was_said_without_a_model() {
    let dir = Folder::new("tells");
    let there = runner(&model("lfm2-dense"), &options(KvType::Q8_0));
    let session = held(&there);
    let path = dir.file("session");
    session.save(&path, b"messages").unwrap();
    let text = SavedText::read(&path).unwrap();
    assert_eq!(
        (text.tokens, text.answers),
        (session.tokens().to_vec(), session.answers().to_vec())
    );
    assert_eq!((&text.extra[..], &text.kv_type[..], text.has_kv), (&b"messages"[..], "q8_0", true));
    assert_eq!(text.teff, env!("CARGO_PKG_VERSION"));
}

#[cfg(unix)]
#[test]
fn only_the_owner_reads_a_session_and_an_older_file_stays_until_the_new_one_is_whole() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Folder::new("owner");
    let there = runner(&model("qwen3-dense"), &options(KvType::F16));
    let session = held(&there);
    let path = dir.file("session");
    session.save(&path, b"1").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    session.save(&path, b"2").unwrap();
    assert_eq!(SavedText::read(&path).unwrap().extra, b"2");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
    let too_much = vec![0; (64 << 20) + 1];
    let error = session.save(&path, &too_much).unwrap_err();
    assert!(matches!(error.fault, SessionFault::TooMuchExtra { .. }), "{error}");
    let error = session.save(&dir.0, b"").unwrap_err();
    assert!(matches!(error.fault, SessionFault::Output(_)), "{error}");
    assert_eq!(SavedText::read(&path).unwrap().extra, b"2");
}

#[test]
fn other_models_adapters_and_caches_are_refused() {
    let dir = Folder::new("others");
    let path = dir.file("session");
    let here = model("llama-moe");
    held(&runner(&here, &options(KvType::F16))).save(&path, b"").unwrap();

    let other = runner(&model("qwen3-dense"), &options(KvType::F16));
    assert!(matches!(fault(&other, &path), SessionFault::OtherModel { .. }));
    // The same model with other bytes, and with another value of a key.
    let gguf = fixture_model::load("llama-moe").gguf;
    let other = runner(&model_of(quantized(&gguf, GgmlType::F16)), &options(KvType::F16));
    assert!(matches!(fault(&other, &path), SessionFault::OtherModel { .. }));
    let mut weights = gguf.clone();
    *weights.last_mut().unwrap() ^= 1;
    let other = runner(&model_of(weights), &options(KvType::F16));
    let told = other.load_session(&path).err().unwrap().to_string();
    assert!(told.contains("another file of the model"), "{told}");

    let other = runner(&here, &options(KvType::Q8_0));
    let told = other.load_session(&path).err().unwrap().to_string();
    assert!(told.contains("of type f16, those here of type q8_0"), "{told}");

    let short = changed(options(KvType::F16), |options| options.n_ctx = Some(100));
    let told = runner(&here, &short).load_session(&path).err().unwrap().to_string();
    assert!(told.contains("114 tokens and the context holds 100"), "{told}");

    let mut adapted = model("llama-moe");
    let adapter = || lora::adapter_of(&gguf, "blk.0.attn_q.weight");
    adapted.add_adapter(adapter(), Path::new("a.gguf"), 0.5).unwrap();
    let other = runner(&adapted, &options(KvType::F16));
    let told = other.load_session(&path).err().unwrap().to_string();
    assert!(told.contains("adapters: none; here are: a.gguf times"), "{told}");
    held(&other).save(&path, b"").unwrap();
    load(&other, &path);
    let mut stronger = model("llama-moe");
    stronger.add_adapter(adapter(), Path::new("a.gguf"), 0.75).unwrap();
    let other = runner(&stronger, &options(KvType::F16));
    assert!(matches!(fault(&other, &path), SessionFault::OtherAdapters { .. }));

    // Longer contexts than the trained one turn positions otherwise.
    let long = model("phi3-yarn");
    let in_context = |n_ctx| changed(options(KvType::F16), |options| options.n_ctx = Some(n_ctx));
    let in_short = runner(&long, &in_context(32));
    let mut session = in_short.session();
    listen(session.generate(changed(request(prompt(0, 8), None), |r| r.max_tokens = Some(3))));
    session.save(&path, b"").unwrap();
    load(&runner(&long, &in_context(31)), &path);
    let other = runner(&long, &in_context(N_CTX));
    assert!(matches!(fault(&other, &path), SessionFault::OtherContext { .. }));
}

#[test]
fn without_room_as_much_is_loaded_as_fits() {
    let dir = Folder::new("room");
    let mut is_cut = Vec::new();
    for name in NAMES {
        let model = model(name);
        let there = runner(&model, &options(KvType::F32));
        let session = held(&there);
        let path = dir.file("session");
        let saved = session.save(&path, b"").unwrap();
        // The cache holds one sequence, and not all the windows and states of earlier turns.
        let tight = changed(options(KvType::F32), |options| {
            options.n_ctx = Some(160);
            let engine = Engine::new(&model, options).unwrap();
            options.kv_bytes_max = Some(engine.decoder().kv().bytes_of(160, 40));
        });
        let here = runner(&model, &tight);
        let loaded = load(&here, &path);
        let (report, mut loaded) = (loaded.report, loaded.session);
        is_cut.push(report.left_out_bytes > 0);
        assert_eq!(report.n_cached, saved.n_cached, "{name}: {report:?}");
        let (told, stats) = listen(loaded.generate(request(prompt(7, 30), None)));
        assert_eq!(stats.n_cached, report.n_cached, "{name}");
        assert_eq!(told, listen(session.clone().generate(request(prompt(7, 30), None))).0);
    }
    assert!(is_cut.contains(&true) && is_cut.contains(&false), "{is_cut:?}");
}

/// A small session file and a runner for it.
fn small(dir: &Folder) -> (Runner, PathBuf, Vec<u8>) {
    let here = runner(&model("lfm2-dense"), &options(KvType::F16));
    let mut session = here.session();
    listen(session.generate(request(prompt(1, 40), Some(3))));
    let path = dir.file("session");
    session.save(&path, b"the caller's").unwrap();
    let bytes = fs::read(&path).unwrap();
    (here, path, bytes)
}

#[test]
fn damage_is_named_part_by_part() {
    let dir = Folder::new("damage");
    let (here, path, bytes) = small(&dir);
    let damaged = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        fault(&here, &path)
    };
    let header = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    (0..8).for_each(|at| assert!(matches!(damaged(at), SessionFault::NotASession)));
    assert!(matches!(damaged(8), SessionFault::Version { version: 0x11 }));
    assert!(damaged(9).to_string().contains("version 4097"));
    for at in 16..header + 8 {
        let told = damaged(at).to_string();
        assert_eq!(told, "the checksum of the header is wrong", "byte {at}");
    }
    // The header's own length.
    for at in 12..16 {
        let fault = damaged(at);
        let is_header = matches!(
            fault,
            SessionFault::Checksum { part: Part::Header }
                | SessionFault::Truncated { part: Part::Header, .. }
                | SessionFault::Malformed { part: Part::Header, .. }
        );
        assert!(is_header, "{fault}");
    }
    let tokens = header + 8;
    let n_words = read(&path, &bytes).tokens.len() + 1;
    let extra = tokens + 4 * n_words + 8;
    let records = extra + b"the caller's".len() + 8;
    let part_of = |at: usize| match damaged(at) {
        SessionFault::Checksum { part } | SessionFault::Malformed { part, .. } => part,
        SessionFault::Truncated { part, .. } => part,
        other => panic!("byte {at}: {other}"),
    };
    (tokens..extra).for_each(|at| assert_eq!(part_of(at), Part::Tokens));
    (extra..records).for_each(|at| assert_eq!(part_of(at), Part::Extra));
    // Every record's content, at its first, its last and some byte between.
    let engine = Engine::new(&model("lfm2-dense"), &options(KvType::F16)).unwrap();
    let program = engine.decoder().program();
    let groups = teff::backend::pages::LayerGroup::of_layers(&program.kv);
    let (mut at, mut number, mut n_states) = (records, 0, 0);
    loop {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (kind, group) = (word(at), word(at + 4) as usize);
        let (len, part) = match kind {
            1 => (groups[group].page_bytes(KvType::F16), Part::Page(number)),
            2 => (4 * program.states.iter().sum::<usize>(), Part::States(number)),
            _ => break,
        };
        n_states += u64::from(kind == 2);
        for byte in [16, 16 + len / 3, 16 + len - 1, 16 + len, 16 + len + 7] {
            let told = damaged(at + byte);
            assert!(matches!(told, SessionFault::Checksum { part: own } if own == part), "{told}");
        }
        for byte in 0..16 {
            part_of(at + byte);
        }
        (at, number) = (at + 16 + len + 8, number + 1);
    }
    assert!(n_states > 0 && number > n_states, "{number} records, {n_states} of states");
    assert_eq!(at + 24, bytes.len());
    (at + 8..bytes.len()).for_each(|at| assert_eq!(part_of(at), Part::End));
    // And whole, it is whole.
    fs::write(&path, &bytes).unwrap();
    load(&here, &path);
}

fn read(path: &Path, bytes: &[u8]) -> SavedText {
    fs::write(path, bytes).unwrap();
    SavedText::read(path).unwrap()
}

#[test]
fn cuts_additions_and_foreign_files_are_refused() {
    let dir = Folder::new("cuts");
    let (here, path, bytes) = small(&dir);
    for n in (0..bytes.len()).step_by(1 + bytes.len() / 300).chain(bytes.len() - 60..bytes.len()) {
        fs::write(&path, &bytes[..n]).unwrap();
        let fault = fault(&here, &path);
        match n {
            0..8 => assert!(matches!(fault, SessionFault::NotASession), "{fault}"),
            _ => assert!(matches!(fault, SessionFault::Truncated { .. }), "{n}: {fault}"),
        }
    }
    fs::write(&path, [&bytes[..], b"\n"].concat()).unwrap();
    assert_eq!(fault(&here, &path).to_string(), "the end: 1 bytes follow");
    for foreign in [&b"GGUF"[..], b"{\"messages\": []}", &[0; 4000]] {
        fs::write(&path, foreign).unwrap();
        assert!(matches!(fault(&here, &path), SessionFault::NotASession));
    }
    assert!(here.load_session(&dir.0).is_err());
    assert!(matches!(
        here.load_session(&dir.file("session-that-is-not")).err().unwrap().fault,
        SessionFault::Io(_)
    ));
}

#[test]
fn flipped_bits_are_an_error_or_change_nothing() {
    let dir = Folder::new("flips");
    let (here, path, bytes) = small(&dir);
    let whole = load(&here, &path);
    let mut random = 7_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + next(3) {
            let at = next(damaged.len());
            damaged[at] ^= 1 << next(8);
        }
        if next(4) == 0 {
            damaged.truncate(next(damaged.len()));
        }
        fs::write(&path, damaged).unwrap();
        if let Ok(loaded) = here.load_session(&path) {
            assert_eq!(loaded.session.tokens(), whole.session.tokens());
            assert_eq!(loaded.extra, whole.extra);
        }
    }
}

/// Checksums that fit protect nothing: lengths, places and numbers are looked at themselves.
#[test]
fn damage_with_checksums_that_fit_never_panics() {
    let dir = Folder::new("repaired");
    let (here, path, bytes) = small(&dir);
    let header = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let (mut random, mut n_loaded, mut n_refused) = (11_u64, 0, 0);
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    for i in 0..400 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + next(3) {
            // Mostly of lengths and numbers, which a file has few of.
            let below = if i % 4 < 3 { header + 300 } else { damaged.len() };
            let at = 12 + next(below - 12);
            damaged[at] = [damaged[at] ^ 1 << next(8), 0, 0xff][next(3)];
        }
        sums::repair(&mut damaged);
        fs::write(&path, damaged).unwrap();
        let _ = SavedText::read(&path);
        let Ok(loaded) = here.load_session(&path) else {
            n_refused += 1;
            continue;
        };
        n_loaded += 1;
        let mut session = loaded.session;
        for event in session.generate(changed(request(vec![5], None), |r| r.max_tokens = Some(1))) {
            if let AnswerEvent::End(Err(error)) = event {
                assert!(!matches!(error, EngineError::Panicked { .. }), "{error}");
            }
        }
        here.load_session(&path).ok().unwrap().session.save(&path, b"").unwrap();
    }
    assert!(n_loaded > 20 && n_refused > 100, "{n_loaded} loaded, {n_refused} refused");
}

#[test]
fn a_session_is_saved_while_others_are_answered() {
    let dir = Folder::new("others-go-on");
    let model = model("gemma3-dense");
    let here = runner(&model, &options(KvType::F16));
    let session = held(&here);
    let alone = go_on(&session);
    let others: Vec<_> = (0..3)
        .map(|i| {
            let request = changed(request(prompt(20 + i, 40), Some(1)), |request| {
                request.max_tokens = None;
            });
            here.submit(request)
        })
        .collect();
    let path = dir.file("session");
    for _ in 0..5 {
        session.save(&path, b"").unwrap();
        load(&here, &path);
    }
    others.into_iter().for_each(|answer| assert!(!listen(answer).0.is_empty()));
    let fresh = runner(&model, &options(KvType::F16));
    assert_eq!(go_on(&load(&fresh, &path).session), alone);
    // A session keeps its runner.
    drop(here);
    session.save(&path, b"").unwrap();
}
