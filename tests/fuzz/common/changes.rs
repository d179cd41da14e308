//! Changes of single nodes of a JSON value: bytes flipped in its text are mostly no JSON any more.

use serde_json::{Value, json};

/// Nodes of a value, itself among them.
fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}

/// Changes one node, counted in the order of the text: `what` becomes of it, with a number for that.
pub fn change_node(value: &mut Value, number: usize, what: u8, with: u8) {
    let mut left = number % nodes(value);
    visit(value, &mut left, &mut |node| replace(node, what, with));
}

fn visit(value: &mut Value, left: &mut usize, change: &mut dyn FnMut(&mut Value)) -> bool {
    if *left == 0 {
        change(value);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| visit(value, left, change)),
        Value::Object(map) => map.values_mut().any(|value| visit(value, left, change)),
        _ => false,
    }
}

fn replace(node: &mut Value, what: u8, with: u8) {
    let power = 1u64 << (with & 63);
    *node = match what % 20 {
        0 => Value::Null,
        1 => json!(with),
        2 => json!(power),
        3 => json!(power.wrapping_sub(1)),
        4 => json!(-i64::from(with)),
        5 => json!(f64::from(with) / 16.0),
        6 => json!(power as f64 * 1e30),
        7 => json!(""),
        8 => json!(char::from(with).to_string()),
        9 => json!("x".repeat(usize::from(with) * 64)),
        10 => json!([]),
        11 => json!({}),
        12 => json!(true),
        13 => json!(vec![node.clone(); usize::from(with & 15)]),
        14 => json!({"type": node.clone(), "rope_type": "yarn", "factor": with}),
        15 => json!(
            ["linear", "dynamic", "yarn", "longrope", "llama3", "mrope", "su"]
                [usize::from(with) % 7]
        ),
        16 | 17 => match node.as_array_mut() {
            Some(list) if what % 20 == 16 => {
                list.truncate(usize::from(with));
                return;
            }
            Some(list) => {
                let copy = list.first().cloned().unwrap_or(Value::Null);
                list.push(copy);
                return;
            }
            None => json!(-1.5),
        },
        18 => match node.as_object_mut() {
            Some(map) => {
                let place = usize::from(with) % map.len().max(1);
                let key = map.keys().nth(place).cloned().unwrap_or_default();
                map.shift_remove(&key);
                return;
            }
            None => json!(1e308),
        },
        _ => match node.as_u64() {
            Some(n) => json!(n.wrapping_add(u64::from(with))),
            None => json!(f64::from(with)),
        },
    };
}
