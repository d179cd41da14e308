//! What outlives a server: instructions on disk, whole whatever has killed it.

use super::{Reply, Serving};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use teff::engine::SavedText;

/// A conversation that begins with long instructions, which differ by `i`.
fn body(i: usize, question: &str) -> Value {
    let system: String = (0..120).map(|n| format!("{} ", n * i)).collect();
    json!({
        "messages": [{ "role": "system", "content": system }, { "role": "user", "content": question }],
        "temperature": 0, "max_tokens": 4,
    })
}

fn ask(serving: &Serving, i: usize, question: &str) -> Reply {
    serving.post("/v1/chat/completions", &body(i, question))
}

fn n_cached(reply: &Reply) -> u64 {
    reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

/// Entries on disk, each of which can be read.
fn n_entries(serving: &Serving) -> usize {
    let entries = std::fs::read_dir(serving.prefixes()).into_iter().flatten().flatten();
    let whole = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "prefix"));
    whole.inspect(|entry| assert!(SavedText::read(&entry.path()).unwrap().has_kv)).count()
}

fn wait_for(entries: usize, serving: &Serving) {
    for _ in 0..6000 {
        if n_entries(serving) >= entries {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("instructions are not kept");
}

#[test]
fn instructions_outlive_a_server() {
    let mut serving = Serving::start("outlive", &["--ctx", "2000"]);
    let first = ask(&serving, 1, "one");
    assert_eq!(n_cached(&first), 0);
    wait_for(1, &serving);
    serving.restart();
    let again = ask(&serving, 1, "one");
    assert!(n_cached(&again) > 256, "{}", again.text());
    assert_eq!(again.content(), first.content());
    // Short ones, and what users say, are not kept.
    serving.chat(json!({}));
    let long = json!({ "messages": [{ "role": "user", "content": "long ".repeat(120) }] });
    assert_eq!(serving.chat(long).status, 200);
    ask(&serving, 1, "two");
    ask(&serving, 2, "two");
    wait_for(2, &serving);
    assert_eq!(n_entries(&serving), 2);
}

/// What a sandboxed server may not do is tested where the sandbox is (`cli/sandbox.rs`).
#[cfg(all(feature = "sandbox", target_os = "linux"))]
#[test]
fn a_sandboxed_server_answers_loads_and_keeps_instructions() {
    use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let ruleset = ruleset.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create);
    if crate::require::require("sandbox", ruleset.ok(), "this kernel has no Landlock").is_none() {
        return;
    }
    let mut plain = Serving::of_folder("unboxed", &["one", "two"], &["--ctx", "2000"]);
    // No layers on a GPU is what goes with it, said or not.
    let args = ["--ctx", "2000", "--sandbox", "--gpu-layers", "0"];
    let mut boxed = Serving::of_folder("boxed", &["one", "two"], &args);
    let first = ask(&boxed, 1, "one");
    assert_eq!((first.status, n_cached(&first)), (200, 0));
    wait_for(1, &boxed);
    boxed.restart();
    assert!(n_cached(&ask(&boxed, 1, "one")) > 256);
    // Another is loaded by a thread of the server.
    let other = json!({ "model": "two", "temperature": 0, "max_tokens": 4 });
    assert_eq!(boxed.chat(other.clone()).content(), plain.chat(other).content());
    plain.restart();
    assert_eq!(ask(&plain, 1, "one").content(), first.content());
}

#[cfg(all(feature = "sandbox", target_os = "linux"))]
#[test]
fn a_sandbox_is_not_for_layers_on_a_gpu() {
    for layers in ["1", "all", "auto"] {
        let args = ["serve", "-m", "none.gguf", "--sandbox", "--gpu-layers", layers];
        let output = crate::cli::teff(&args, "");
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("--sandbox is not for layers on a GPU"), "{told}");
    }
}

#[test]
fn nothing_is_kept_without_a_place() {
    let mut serving = Serving::start("no-disk", &["--ctx", "2000", "--cache-bytes", "0"]);
    assert_eq!(ask(&serving, 1, "one").status, 200);
    serving.restart();
    assert_eq!(n_cached(&ask(&serving, 1, "one")), 0);
    assert!(!serving.prefixes().exists());
}

#[test]
fn a_server_that_is_killed_leaves_nothing_broken() {
    let mut serving = Serving::start("killed", &["--ctx", "2000"]);
    let alone = ask(&serving, 1, "one").content();
    wait_for(1, &serving);
    let mut next = 2;
    for round in 0..4 {
        // Each of them is written while others are computed.
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (serving, is_over) = (&serving, &is_over);
                scope.spawn(move || {
                    for i in 0.. {
                        if is_over.load(Ordering::Acquire) {
                            return;
                        }
                        serving.try_post(&body(next + thread + 3 * i, "two"));
                    }
                });
            }
            let before = n_entries(&serving);
            wait_for(before + 1 + round, &serving);
            serving.kill();
            is_over.store(true, Ordering::Release);
        });
        next += 1000;
        serving.restart();
        n_entries(&serving);
        let again = ask(&serving, 1, "one");
        assert!(n_cached(&again) > 256, "{}", again.text());
        assert_eq!(again.content(), alone);
    }
}
