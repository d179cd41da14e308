//! What the program tells of layers on a GPU.

use crate::cli::{json, teff};
use crate::fixture_model;
use crate::folder::Folder;
use crate::gpu::adapter;
use serde_json::Value;

#[test]
fn inspect_and_bench_tell_which_layer_runs_where() {
    let Some(adapter) = adapter() else { return };
    let folder = Folder::new("gpu");
    let path = folder.0.join("model.gguf");
    std::fs::write(&path, fixture_model::load("gemma3-dense").gguf).unwrap();
    let model = path.to_str().unwrap();
    let gpu = format!("--gpu={adapter}");
    let places = |object: &Value| -> Vec<String> {
        let parts = object["gpu"]["parts"].as_array().unwrap();
        parts.iter().map(|part| format!("{} {}", part["part"], part["on"])).collect()
    };

    let all = json(&["inspect", model, "--json", &gpu, "--gpu-layers=all"]);
    let parts = [r#""embedding""#, "0", "1", "2", r#""head""#];
    assert_eq!(places(&all), parts.map(|part| format!(r#"{part} "GPU""#)));
    assert_eq!(all["gpu"]["adapter"], adapter);
    assert_eq!(all["gpu"]["on_cpu"], serde_json::json!({"weights": 0, "kv": 0, "activations": 0}));
    assert!(all["gpu"]["on_gpu"]["weights"].as_u64() > Some(0));
    assert_eq!(
        (&all["gpu"]["crossings"], &all["gpu"]["token_bytes_there"]),
        (&0.into(), &0.into())
    );
    let n_vocab = fixture_model::load("gemma3-dense").n_vocab;
    assert_eq!(all["gpu"]["token_bytes_back"], 4 * n_vocab);

    // Bench has what inspect said, of the last layer with the head.
    let args = ["bench", "-m", model, "--prompt=9", "--gen=2", "--reps=1", "--json"];
    let one = json(&[&args[..], &["--gpu-layers=1", "--gpu", &adapter]].concat());
    let planned = json(&["inspect", model, "--json", &gpu, "--gpu-layers=1"]);
    assert_eq!(places(&one), places(&planned));
    assert!(places(&one).join(", ").ends_with(r#"1 "CPU", 2 "GPU", "head" "GPU""#));
    assert_eq!(one["gpu"]["token_bytes_there"], 4 * planned["n_embd"].as_u64().unwrap());
    assert_eq!(one["gpu"]["layers"], 1);
    // Of the table, which is the head's matrix too, a token reads all.
    assert_eq!(one["gpu"]["token_bytes_read"], one["gpu"]["on_gpu"]["weights"]);
    let [copies, share] = ["copy_gbps", "copy_share"].map(|key| one["gpu"][key].as_f64().unwrap());
    assert!(copies > 0.1 && (0.0..1.0).contains(&share), "{copies}, {share}");
    let (read, steps) = (one["gpu"]["token_bytes_read"].as_f64().unwrap(), &one["gen_tps_each"]);
    let expected = read * steps.as_f64().unwrap() / copies / 1e9;
    assert!((share - expected).abs() <= 1e-4 + 0.02 * expected, "{share} for {expected}");
    // Without layers on a GPU there is nothing to tell.
    assert!(json(&args).get("gpu").is_none());
}

#[test]
fn why_a_layer_stays_on_the_cpu_is_told() {
    let Some(adapter) = adapter() else { return };
    let folder = Folder::new("gpu-reasons");
    let path = folder.0.join("model.gguf");
    std::fs::write(&path, fixture_model::load("gemma3-dense").gguf).unwrap();
    let gpu = format!("--gpu={adapter}");
    let args = ["inspect", path.to_str().unwrap(), &gpu, "--gpu-layers=all", "--kv-type=q4_0"];
    let shown = String::from_utf8(teff(&args, "").stdout).unwrap();
    assert!(shown.contains("0 of 3 layers"), "{shown}");
    assert!(shown.contains("layer 0 to layer 2: no shader reads a cache of type q4_0"), "{shown}");
    // A GPU that is not there is no error of the file.
    let output = teff(&["inspect", args[1], "--gpu=no such thing"], "");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && shown.contains("\"no such thing\": is no part of the name"),
        "{shown}"
    );
}
