//! Importance matrices held against llama-imatrix's own files of the same models and text.

use crate::eval::{engine, golden, model, text};
use gguf_rs_lite::GgmlType;
use std::ops::ControlFlow;
use std::sync::Mutex;
use teff::engine::Model;
use teff::eval::{Chunks, importance};
use teff::quantize::collect::rare_experts;
use teff::quantize::imatrix::Imatrix;

/// The model without its logits unless they are wanted.
fn quiet(name: &str, outputs: bool) -> Model {
    let mut model = model(name, GgmlType::F32);
    if !outputs {
        model.output_embeddings();
    }
    model
}

fn chunks(model: &Model) -> Chunks {
    let mut chunks = Chunks::of_text(&model.tokenizer().unwrap(), &text(), 64).unwrap();
    chunks.truncate(12);
    chunks
}

fn collect(model: &Model, chunks: &Chunks, outputs: bool, threads: usize, batch: usize) -> Imatrix {
    let into = Mutex::new(Imatrix::new(Vec::new(), 0, 64));
    let mut engine = engine(model, 64, threads, batch);
    let mut seen = Vec::new();
    let mut on_chunk = |done| {
        seen.push((done, into.lock().unwrap().chunk_count));
        ControlFlow::Continue(())
    };
    importance(&mut engine, chunks, outputs, &into, &mut on_chunk).unwrap();
    let expected: Vec<(usize, u32)> = (1..=chunks.len()).map(|n| (n, n as u32)).collect();
    assert_eq!(seen, expected);
    into.into_inner().unwrap()
}

fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let pairs = || found.iter().zip(expected).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let error: f64 = pairs().map(|(a, b)| square(a - b)).sum();
    error / pairs().map(|(_, b)| square(b)).sum::<f64>()
}

#[test]
fn files_are_llama_imatrix_s() {
    for (name, reference) in
        [("dense-model.gguf", "dense.gguf"), ("experts-model.gguf", "experts.gguf")]
    {
        let model = quiet(name, false);
        let found = collect(&model, &chunks(&model), false, 2, 512);
        let expected = Imatrix::open(&golden(reference)).unwrap();
        assert_eq!(
            (found.chunk_count, found.chunk_size),
            (expected.chunk_count, expected.chunk_size)
        );
        assert_eq!(found.weights().len(), expected.weights().len());
        for ((name, ours), (theirs_name, theirs)) in found.weights().zip(expected.weights()) {
            assert_eq!(name, theirs_name);
            assert_eq!(ours.matrices(), theirs.matrices(), "{name}");
            let is_dense = ours.matrices() == 1;
            let error = nmse(ours.in_sum2(), theirs.in_sum2());
            assert!(error <= if is_dense { 1e-5 } else { 1e-3 }, "{name}: NMSE {error:.1e}");
            for (&ours, &theirs) in ours.counts().iter().zip(theirs.counts()) {
                let most = if is_dense { 0.0 } else { 0.01 * theirs };
                assert!((ours - theirs).abs() <= most, "{name}: {ours} rows, not {theirs}");
            }
        }
    }
}

#[test]
fn statistics_do_not_depend_on_threads_and_steps() {
    let model = quiet("experts-model.gguf", false);
    let mut chunks = chunks(&model);
    chunks.truncate(3);
    let first = collect(&model, &chunks, false, 1, 512);
    for (threads, batch) in [(3, 512), (2, 64)] {
        assert_eq!(collect(&model, &chunks, false, threads, batch), first);
    }
}

/// A text in two parts gives what it gives as a whole.
#[test]
fn parts_are_merged() {
    let model = quiet("experts-model.gguf", false);
    let all = chunks(&model);
    let whole = collect(&model, &all, false, 2, 512);
    let part = |from: usize, n: usize| {
        let tokens: Vec<u32> = all.iter().skip(from).take(n).flatten().copied().collect();
        collect(&model, &Chunks::of_tokens(tokens, None, 64).unwrap(), false, 2, 512)
    };
    let mut merged = part(0, 5);
    merged.merge(&part(5, 7)).unwrap();
    assert_eq!(merged.chunk_count, 12);
    for ((_, merged), (name, whole)) in merged.weights().zip(whole.weights()) {
        assert_eq!(merged.counts(), whole.counts());
        let error = nmse(merged.in_sum2(), whole.in_sum2());
        assert!(error < 1e-12, "{name}: {error:.1e}");
    }
}

/// With the matrix of the logits everything else stays as it is.
#[test]
fn outputs_are_collected_if_wanted() {
    let mut chunks = chunks(&quiet("dense-model.gguf", false));
    chunks.truncate(2);
    let without = collect(&quiet("dense-model.gguf", false), &chunks, false, 1, 512);
    let with = collect(&quiet("dense-model.gguf", true), &chunks, true, 1, 512);
    assert_eq!(with.weights().len(), without.weights().len() + 1);
    assert_eq!(with.get("output.weight").unwrap().counts(), [128.0]);
    for (name, statistics) in without.weights() {
        assert_eq!(with.get(name), Some(statistics), "{name}");
    }
    assert!(rare_experts(&with, 1.0).is_empty());
}

#[cfg(feature = "cli")]
mod program {
    use crate::cli::{error_of, teff, text};
    use crate::eval::golden;
    use crate::folder::Folder;
    use teff::quantize::imatrix::Imatrix;

    #[test]
    fn chunks_are_collected_merged_and_continued() {
        let folder = Folder::new("imatrix");
        let path = |name: &str| folder.0.join(name);
        let input = golden("text.txt");
        let run_with = |model: &str, out: &str, more: &[&str]| {
            let (model, out) = (golden(model), path(out));
            let common = [
                "imatrix",
                "-m",
                text(&model),
                "-f",
                text(&input),
                "--ctx",
                "64",
                "-o",
                text(&out),
            ];
            let output = teff(&[&common[..], more].concat(), "");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(0), "{stderr}");
            assert!(output.stdout.is_empty());
            (Imatrix::open(&out).unwrap(), stderr)
        };
        let run = |out: &str, more: &[&str]| run_with("experts-model.gguf", out, more);
        let (whole, _) = run("whole.gguf", &["--chunks", "4"]);
        assert_eq!((whole.chunk_count, whole.chunk_size), (4, 64));
        assert_eq!(whole.datasets, [text(&input)]);
        let (half, _) = run("half.gguf", &["--chunks", "2"]);
        assert_eq!(half.chunk_count, 2);
        let half_path = path("half.gguf");
        let rest = ["--chunks", "4", "--from-chunk", "2", "--merge", text(&half_path)];
        let (both, _) = run("half.gguf", &rest);
        assert_eq!(both.chunk_count, 4);
        for ((name, both), (_, whole)) in both.weights().zip(whole.weights()) {
            assert_eq!(both.counts(), whole.counts(), "{name}");
        }
        // The old form does not tell experts apart: only that of a dense model is merged.
        let form = ["--chunks", "2", "--output-format", "dat"];
        run("experts.dat", &form);
        let (old, _) = run_with("dense-model.gguf", "old.dat", &form);
        assert_eq!((old.chunk_count, old.chunk_size), (2, 0));
        let (dense, _) = run_with("dense-model.gguf", "dense.gguf", &["--chunks", "4"]);
        let out = path("merged.gguf");
        let merge = |first: &str, second: &str| {
            let (first, second) = (path(first), path(second));
            let args =
                ["imatrix", "--merge", text(&first), "--merge", text(&second), "-o", text(&out)];
            teff(&args, "")
        };
        let refused = merge("half.gguf", "experts.dat");
        assert!(error_of(&refused, 1).contains("experts.dat: weight"), "{refused:?}");
        let merged = merge("dense.gguf", "old.dat");
        assert_eq!(merged.status.code(), Some(0), "{merged:?}");
        let merged = Imatrix::open(&out).unwrap();
        assert_eq!((merged.chunk_count, merged.weights().len()), (6, dense.weights().len()));
        let names = folder.names();
        assert!(!names.iter().any(|name| name.ends_with(".teff-part")), "{names:?}");
    }

    #[test]
    fn what_cannot_be_collected_is_named() {
        let folder = Folder::new("imatrix-bad");
        let (model, input) = (golden("dense-model.gguf"), golden("text.txt"));
        let out = folder.0.join("x.gguf");
        let base = ["imatrix", "-m", text(&model), "-o", text(&out)];
        let with = |more: &[&str]| teff(&[&base[..], more].concat(), "");
        assert_eq!(with(&[]).status.code(), Some(2));
        let file = ["-f", text(&input), "--ctx", "64"];
        let beyond = with(&[&file[..], &["--from-chunk", "99"]].concat());
        assert!(error_of(&beyond, 1).contains("the text has 15 chunks"));
        let foreign = with(&[&file[..], &["--merge", text(&model)]].concat());
        assert!(error_of(&foreign, 1).contains("dense-model.gguf"));
        assert!(!out.exists());
    }
}
