//! Several models: by name, loaded when they are asked for, unloaded when they are idle or have to make room.

use super::{PATIENCE, Reply, Serving, text};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn ask(serving: &Serving, model: &str, more: Value) -> Reply {
    let mut more = more;
    more["model"] = model.into();
    serving.chat(more)
}

/// Names of the models that are loaded.
fn loaded(serving: &Serving) -> Vec<String> {
    let json = serving.get("/api/ps").json();
    let models = json["models"].as_array().unwrap();
    models.iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
}

fn wait_for(serving: &Serving, expected: &[&str]) {
    let start = Instant::now();
    while loaded(serving) != expected {
        assert!(start.elapsed() < PATIENCE, "{:?}, not {expected:?}", loaded(serving));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn models_are_loaded_when_they_are_asked_for() {
    let serving = Serving::of_folder("folder", &["b", "a"], &[]);
    assert_eq!(serving.get("/health").status, 200);
    let list = serving.get("/v1/models").json();
    let ids: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(serving.get("/api/tags").json()["models"].as_array().unwrap().len(), 2);
    assert_eq!(serving.post("/api/show", &json!({ "model": "a" })).status, 200);
    assert_eq!(loaded(&serving), [""; 0], "what is only looked at is not loaded");
    let of_b = ask(&serving, "b", json!({}));
    assert_eq!((of_b.status, of_b.json()["model"].clone()), (200, json!("b")));
    assert_eq!(loaded(&serving), ["b"]);
    // Of those who ask together one loads.
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&serving, "a", json!({})))).collect();
        for asked in asked {
            assert_eq!(asked.join().unwrap().content(), of_b.content());
        }
    });
    assert_eq!(serving.figure("teff_model_loads_total"), 2.0);
    assert_eq!(loaded(&serving), ["a", "b"]);
    let reply = ask(&serving, "c", json!({}));
    assert_eq!((reply.status, reply.error().2), (404, json!("model_not_found")));
    // Without a name the first.
    assert_eq!(serving.chat(json!({})).json()["model"], "a");
    // What is no model is told to who asks for it, and to nobody else.
    let body = json!({ "model": "a", "keep_alive": 0 });
    assert_eq!(serving.post("/api/generate", &body).json()["done_reason"], "unload");
    wait_for(&serving, &["b"]);
    std::fs::write(serving.folder.0.join("models/a.gguf"), b"GGUF").unwrap();
    let reply = ask(&serving, "a", json!({}));
    assert_eq!((reply.status, reply.error().2), (500, json!("model_load_failed")));
    assert_eq!(ask(&serving, "b", json!({})).content(), of_b.content());
}

#[test]
fn models_leave_when_they_are_idle() {
    let serving = Serving::of_folder("idle-models", &["a", "b"], &["--idle", "1s"]);
    let first = ask(&serving, "a", json!({})).content();
    wait_for(&serving, &[]);
    assert_eq!(ask(&serving, "a", json!({})).content(), first);
    // One that a client keeps stays.
    let body = json!({ "model": "b", "prompt": "one", "stream": false, "keep_alive": -1,
        "options": { "num_predict": 1 } });
    assert_eq!(serving.post("/api/generate", &body).status, 200);
    wait_for(&serving, &["b"]);
    let body = json!({ "model": "b", "keep_alive": "5 minutes" });
    assert_eq!(serving.post("/api/generate", &body).status, 400);
    assert_eq!(
        serving.post("/api/generate", &json!({ "model": "b", "keep_alive": "100ms" })).status,
        200
    );
    wait_for(&serving, &[]);
}

#[test]
fn models_make_room_for_others() {
    let serving =
        Serving::of_folder("room", &["a", "b", "c"], &["--ctx", "100000", "--parallel", "4"]);
    let bytes = std::fs::metadata(serving.folder.0.join("models/a.gguf")).unwrap().len();
    drop(serving);
    // Two of them, each with the copy that decoding reads.
    let memory = format!("{}", bytes * 5);
    let args = ["--ctx", "512", "--parallel", "4", "--memory", &memory];
    let serving = Serving::of_folder("room", &["a", "b", "c"], &args);
    for (model, expected) in
        [("a", &["a"][..]), ("b", &["a", "b"]), ("a", &["a", "b"]), ("c", &["a", "c"])]
    {
        assert_eq!(ask(&serving, model, json!({})).status, 200);
        assert_eq!(loaded(&serving), expected);
    }
    // Many at a time, of all of them.
    std::thread::scope(|scope| {
        let serving = &serving;
        let asked: Vec<_> = (0..9)
            .map(|i| scope.spawn(move || ask(serving, ["a", "b", "c"][i % 3], json!({}))))
            .collect();
        for asked in asked {
            assert_eq!(asked.join().unwrap().status, 200);
        }
    });
    assert!(loaded(&serving).len() <= 2);
}

#[test]
fn models_have_the_names_that_they_are_given() {
    let args = ["--alias", "first", "--alias", "other"];
    let mut serving = Serving::start("names", &args);
    let model = serving.model();
    serving.args.extend(["-m".into(), format!("second={}", text(&model))]);
    serving.restart();
    for name in ["first", "other", "second", "second:latest"] {
        let reply = ask(&serving, name, json!({}));
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
    assert_eq!(serving.get("/v1/models").json()["data"][1]["id"], "second");
    let twice = crate::cli::teff(&["serve", "-m", text(&model), "-m", text(&model)], "");
    assert_eq!(twice.status.code(), Some(2));
}

#[test]
fn adapters_are_models_of_their_own() {
    let mut serving = Serving::start("adapters", &[]);
    let model = serving.model();
    let gguf = std::fs::read(&model).unwrap();
    let adapter = serving.folder.0.join("warm.gguf");
    std::fs::write(&adapter, crate::lora::adapter_bytes(&gguf, "blk.0.ffn_down.weight")).unwrap();
    let scaled = format!("{}:50", text(&adapter));
    serving.args.extend(["--adapter".into(), format!("warm={scaled}")]);
    serving.restart();
    let plain = ask(&serving, "talker", json!({})).content();
    let warm = ask(&serving, "talker:warm", json!({})).content();
    assert_ne!(warm, plain);
    let args = [
        "run",
        "-m",
        text(&model),
        "--lora",
        &scaled,
        "--raw",
        "-p",
        "u:one\na:",
        "-n",
        "8",
        "--temp",
        "0",
        "--ctx",
        "512",
    ];
    let output = crate::cli::teff(&args, "");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end_matches('\n'), warm);
    let reply = ask(&serving, "talker", json!({ "lora": [{ "id": 0, "scale": 1 }] }));
    assert_eq!((reply.status, reply.error().1), (400, json!("lora")));
}
