//! A program in two places, printed: for `inspect` and `bench`.

use crate::backend::{Offload, PartName, PlacedPart, SideBytes};
use crate::model::describe::{bytes, counted};
use serde_json::{Value as Json, json};

/// Lines that say what runs where.
pub fn lines(offload: &Offload) -> Vec<String> {
    let [n, n_layers] = offload.n_layers();
    let adapter = offload.adapter.as_deref().unwrap_or("no GPU");
    let memory = offload.adapter_bytes.map_or(String::new(), |n| format!(", {}", bytes(n)));
    let mut lines = vec![format!("{adapter}{memory}: {n} of {n_layers} layers")];
    let like = |a: &PlacedPart, b: &PlacedPart| a.side == b.side && a.reason == b.reason;
    for parts in offload.parts.chunk_by(like) {
        let (first, last) = (&parts[0], &parts[parts.len() - 1]);
        let names = match parts {
            [one] => one.name.to_string(),
            _ => format!("{} to {}", first.name, last.name),
        };
        let weights = bytes(parts.iter().map(|part| part.weight_bytes).sum());
        let reason = first.reason.as_ref().map_or(String::new(), |why| format!(": {why}"));
        lines.push(format!("{}  {weights:>10}  {names}{reason}", first.side));
    }
    for (name, side) in [("GPU", &offload.on_gpu), ("CPU", &offload.on_cpu)] {
        let SideBytes { weights, kv, activations } = *side;
        let [weights, kv, activations] = [weights, kv, activations].map(bytes);
        lines.push(format!(
            "in all on the {name}: weights {weights} (what parts share counts once), keys and values {kv}, \
             activations {activations}"
        ));
    }
    if offload.in_place > 0 {
        lines.push(format!(
            "the GPU reads {} of its weights where the file is mapped",
            bytes(offload.in_place)
        ));
    }
    let Offload { n_crossings, bytes_there, bytes_back, .. } = offload;
    lines.push(format!(
        "a token sends {} there and {} back, and goes from one to the other {}",
        bytes(*bytes_there),
        bytes(*bytes_back),
        counted(*n_crossings, "time")
    ));
    lines
}

/// How much of a GPU's memory bandwidth `steps` steps per second use by reading weights there, of what
/// copies reach; 0 where nothing is read.
pub fn copy_share(offload: &Offload, steps: f64, copy_bandwidth: f64) -> f64 {
    offload.bytes_read as f64 * steps / copy_bandwidth.max(1.0)
}

/// The same as an object, whose keys programs rely on.
pub fn object(offload: &Offload) -> Json {
    let part = |part: &PlacedPart| {
        let layer = match part.name {
            PartName::Layer(layer) => json!(layer),
            PartName::Start | PartName::End => json!(part.name.to_string()),
        };
        json!({
            "part": layer, "on": part.side.to_string(), "weight_bytes": part.weight_bytes,
            "reason": part.reason,
        })
    };
    let side = |side: &SideBytes| json!({"weights": side.weights, "kv": side.kv, "activations": side.activations});
    let [n_layers, _] = offload.n_layers();
    json!({
        "adapter": offload.adapter, "adapter_bytes": offload.adapter_bytes, "layers": n_layers,
        "parts": offload.parts.iter().map(part).collect::<Vec<_>>(),
        "on_gpu": side(&offload.on_gpu), "in_place": offload.in_place, "on_cpu": side(&offload.on_cpu),
        "crossings": offload.n_crossings,
        "token_bytes_there": offload.bytes_there, "token_bytes_back": offload.bytes_back,
        "token_bytes_read": offload.bytes_read,
    })
}
