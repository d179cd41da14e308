//! Programs as data: what lowering gives passes the checks, and what is no program is refused by name.

use crate::fixture_model;
use gguf_rs_lite::GgufFile;
use std::path::Path;
use std::sync::Arc;
use teff::backend::program::{Buf, Fault, Op, Output, Program, RopeId, StateId, Tokens};
use teff::decoder::lower;
use teff::engine::Model;
use teff_kernels::KernelTable;

fn program(name: &str) -> Program {
    let file = Arc::new(GgufFile::from_bytes(fixture_model::load(name).gguf).unwrap());
    let model = Model::from_file(file, Path::new("test.gguf")).unwrap();
    lower(model.file(), model.spec(), KernelTable::detect(), 64).unwrap()
}

/// The first operation that `f` changes, for which it says so.
fn change(program: &mut Program, f: impl FnMut(&mut Op) -> bool) -> usize {
    program.ops.iter_mut().position(f).expect("an operation to change")
}

/// What the check says of the fixture's program once `f` has changed it; `f` gives the operation
/// that is to be named.
fn fault(name: &str, f: impl FnOnce(&mut Program) -> usize) -> Fault {
    let mut program = program(name);
    program.check().unwrap();
    let at = f(&mut program);
    let error = program.check().unwrap_err();
    let name = program.ops.get(at).map(Op::name);
    assert_eq!(error.op, name.map(|name| (at, name)), "{error}");
    error.fault
}

#[test]
fn the_check_names_numbers_of_nothing() {
    let n = program("llama-dense-plain").widths.len();
    let no_buffer = fault("llama-dense-plain", |program| {
        change(program, |op| match op {
            Op::Linear(op) => {
                op.input = Buf(n);
                true
            }
            _ => false,
        })
    });
    assert_eq!(no_buffer, Fault::NoSuch { what: "buffer", id: n, n });
    let no_layer = fault("llama-dense-plain", |program| {
        let n = program.kv.len();
        change(program, |op| match op {
            Op::Attention(op) => {
                op.layer = n;
                true
            }
            _ => false,
        })
    });
    assert!(matches!(no_layer, Fault::NoSuch { what: "layer", .. }), "{no_layer:?}");
    let no_rope = fault("llama-dense-plain", |program| {
        change(program, |op| match op {
            Op::RopeKv(op) => {
                op.rope = op.rope.map(|(_, pairing)| (RopeId(9), pairing));
                true
            }
            _ => false,
        })
    });
    assert_eq!(no_rope, Fault::NoSuch { what: "rotary table", id: 9, n: 1 });
    let no_state = fault("mamba-dense", |program| {
        change(program, |op| match op {
            Op::Conv(op) => {
                op.state = StateId(99);
                true
            }
            _ => false,
        })
    });
    assert!(matches!(no_state, Fault::NoSuch { what: "state", id: 99, .. }), "{no_state:?}");
    let no_weight = fault("llama-dense-plain", |program| {
        program.weights.truncate(1);
        change(program, |op| matches!(op, Op::Linear(_)))
    });
    assert!(matches!(no_weight, Fault::NoSuch { what: "weight", .. }), "{no_weight:?}");
    let other_weight = fault("llama-dense-plain", |program| {
        program.weights.swap(0, 1);
        change(program, |op| matches!(op, Op::Embed { .. }))
    });
    assert!(matches!(other_weight, Fault::OtherWeight(_)), "{other_weight:?}");
}

#[test]
fn the_check_names_lengths_that_do_not_fit() {
    let narrow = fault("llama-dense-plain", |program| {
        let narrow = program.buffer(3);
        change(program, |op| match op {
            Op::Linear(op) => {
                op.out = Output::Store(narrow);
                true
            }
            _ => false,
        })
    });
    assert!(matches!(narrow, Fault::OutOfRow { .. }), "{narrow:?}");
    let bias = fault("llama-dense-plain", |program| {
        change(program, |op| match op {
            Op::Linear(op) => {
                op.parts[0].bias = Some(vec![0.0; 3]);
                true
            }
            _ => false,
        })
    });
    assert!(matches!(bias, Fault::Length { what: "bias", found: 3, .. }), "{bias:?}");
    let norm = fault("llama-dense-plain", |program| {
        change(program, |op| match op {
            Op::Linear(op) => {
                op.norm.as_mut().unwrap().weight = Some(Vec::new());
                true
            }
            _ => false,
        })
    });
    assert!(matches!(norm, Fault::Length { found: 0, .. }), "{norm:?}");
    let heads = fault("llama-dense-plain", |program| {
        change(program, |op| match op {
            Op::Attention(op) => {
                op.slopes = Some(vec![1.0]);
                true
            }
            _ => false,
        })
    });
    assert!(matches!(heads, Fault::Length { what: "slopes", found: 1, .. }), "{heads:?}");
    let experts = fault("llama-moe", |program| {
        change(program, |op| match op {
            Op::Moe(op) => {
                op.n_used = op.n_experts + 1;
                true
            }
            _ => false,
        })
    });
    assert!(matches!(experts, Fault::Range { what: "experts per token", .. }), "{experts:?}");
    let state = fault("mamba-dense", |program| {
        program.states[0] += 1;
        change(program, |op| matches!(op, Op::Conv(_)))
    });
    assert!(matches!(state, Fault::Length { what: "state", .. }), "{state:?}");
    let window = fault("llama-dense-plain", |program| {
        program.kv[0].window = Some(0);
        usize::MAX
    });
    assert_eq!(window, Fault::Range { what: "attention window", found: 0 });
}

#[test]
fn the_check_finds_what_is_read_unwritten() {
    let unwritten = fault("llama-dense-plain", |program| {
        let at = change(program, |op| matches!(op, Op::RopeKv(_)));
        // The product that wrote queries, keys and values.
        program.ops.remove(at - 1);
        at - 1
    });
    assert!(matches!(unwritten, Fault::Unwritten { column: 0, .. }), "{unwritten:?}");
    // Part of a row.
    let part = fault("llama-dense-plain", |program| {
        let at = change(program, |op| match op {
            Op::Linear(op) => op.parts.pop().is_some(),
            _ => false,
        });
        at + 1
    });
    assert!(matches!(part, Fault::Unwritten { column: 1.., .. }), "{part:?}");
    // All tokens' rows, of which only those with results were written.
    let other_tokens = fault("llama-dense-plain", |program| {
        change(program, |op| match op {
            Op::Linear(op) => {
                op.rows = Tokens::Outputs;
                true
            }
            _ => false,
        }) + 1
    });
    assert!(matches!(other_tokens, Fault::Unwritten { rows: Tokens::All, .. }), "{other_tokens:?}");
    let in_place = fault("llama-dense-plain", |program| {
        let Op::Embed { out, .. } = program.ops[0] else { unreachable!() };
        program.ops.insert(1, Op::Add { input: out, out, from: 0, rows: Tokens::All });
        1
    });
    assert!(matches!(in_place, Fault::Aliased(_)), "{in_place:?}");
}

#[test]
fn the_check_finds_what_two_operations_share_and_who_gives_the_results() {
    let again = fault("llama-dense-plain", |program| {
        let layer_of = |op: &Op| match op {
            Op::RopeKv(op) => Some(op.layer),
            _ => None,
        };
        let ropes: Vec<usize> =
            (0..program.ops.len()).filter(|&i| layer_of(&program.ops[i]).is_some()).collect();
        let Op::RopeKv(op) = &mut program.ops[ropes[1]] else { unreachable!() };
        op.layer = 0;
        ropes[1]
    });
    assert_eq!(again, Fault::StoredTwice(0));
    let missing = fault("llama-dense-plain", |program| {
        change(program, |op| match op {
            Op::Attention(op) => {
                op.layer = 1;
                true
            }
            _ => false,
        })
    });
    assert_eq!(missing, Fault::NotStored(1));
    let shared = fault("mamba-dense", |program| {
        let convs: Vec<usize> =
            (0..program.ops.len()).filter(|&i| matches!(program.ops[i], Op::Conv(_))).collect();
        let Op::Conv(op) = &mut program.ops[convs[1]] else { unreachable!() };
        op.state = StateId(0);
        convs[1]
    });
    assert_eq!(shared, Fault::SharedState(StateId(0)));
    let without = fault("llama-dense-plain", |program| {
        program.ops.pop();
        program.ops.len() - 1
    });
    assert_eq!(without, Fault::Results);
    let twice = fault("llama-dense-plain", |program| {
        let at = program.ops.len() - 1;
        program.n_out = program.widths[0];
        program.ops.insert(at, Op::Result { input: Buf(0), norm: None });
        at
    });
    assert_eq!(twice, Fault::Results);
}

#[test]
fn a_tensor_is_one_weight_however_often_it_is_used() {
    // A head that is the embedding, keys that are values too, layers that are run again.
    for name in ["gemma3-dense", "gemma4-dense", "hrm_text-dense", "llama-moe"] {
        let program = program(name);
        let mut names: Vec<&str> = program.weights.iter().map(|weight| &weight.name[..]).collect();
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n, "{name}");
        let n_uses: usize = program.ops.iter().map(|op| op.weights().count()).sum();
        assert!(n_uses > n || name != "hrm_text-dense", "{name}");
    }
}
