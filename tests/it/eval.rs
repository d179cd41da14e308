//! Measures held against llama.cpp's on the same tokens, and against plain definitions.
//!
//! `tests/golden/imatrix` has a dense model and one with experts, whose random weights are kept in BF16,
//! and the text that llama.cpp's tools ran through them in chunks of 64 tokens.

use crate::folder::Folder;
use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter, OwnedValue};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use teff::decoder::{Outputs, SequenceChunk};
use teff::engine::{Engine, EngineOptions, Model};
use teff::eval::{
    self, Accuracy, Chunks, EvalError, LogitsFile, LogitsWriter, Options, Question, Report, Teacher,
};
use teff_kernels::KernelTable;

/// Perplexity after each chunk, by llama.cpp on the model in F32.
const RUNNING: [f64; 15] = [
    4324.9506, 4077.4067, 4843.0053, 5774.7058, 5578.258, 5117.7856, 5454.4874, 5748.9056,
    5318.716, 5193.8138, 5291.959, 4806.8023, 4971.5748, 5170.4397, 4836.2037,
];
/// The standard error of the last one.
const ERROR: f64 = 502.80648;

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/imatrix").join(name)
}

pub fn text() -> String {
    std::fs::read_to_string(golden("text.txt")).unwrap().trim_end_matches('\n').to_string()
}

/// The golden model with its matrices in another type.
pub fn model(name: &str, ty: GgmlType) -> Model {
    let file = GgufFile::open(golden(name)).unwrap();
    let kernels = KernelTable::detect();
    let mut writer = GgufWriter::new(Vec::new());
    for (key, value) in file.entries() {
        writer.add(key, OwnedValue::from(value)).unwrap();
    }
    let type_of = |info: &gguf_rs_lite::TensorInfo| match info.dims.len() {
        1 => info.ty,
        _ if info.cols().is_multiple_of(ty.block_len() as u64) => ty,
        // As llama-quantize falls back.
        _ => GgmlType::F16,
    };
    for info in file.tensors() {
        writer.declare(&info.name[..], type_of(info), &info.dims).unwrap();
    }
    let mut data = writer.write_header().unwrap();
    for info in file.tensors() {
        let n = info.dims.iter().product::<u64>() as usize;
        let mut values = vec![0.0; n];
        kernels.types(info.ty).unwrap().dequantize(file.data(info), &mut values);
        let ty = type_of(info);
        let mut bytes = vec![0; ty.bytes_of(n as u64).unwrap() as usize];
        match ty {
            GgmlType::F32 => bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            _ => kernels.types(ty).unwrap().quantize(&values, None, &mut bytes).unwrap(),
        }
        data.write_tensor(&bytes).unwrap();
    }
    let file = Arc::new(GgufFile::from_bytes(data.finish().unwrap()).unwrap());
    Model::from_file(file, Path::new(name)).unwrap()
}

pub fn engine(model: &Model, n_ctx: usize, threads: usize, max_batch: usize) -> Engine {
    let base = crate::changed(EngineOptions::default(), |options| {
        options.threads = Some(threads);
        options.max_batch = max_batch;
    });
    Engine::new(model, &eval::engine_options(model, n_ctx, &base)).unwrap()
}

fn chunks(model: &Model) -> Chunks {
    Chunks::of_text(&model.tokenizer().unwrap(), &text(), 64).unwrap()
}

fn near(found: f64, expected: f64, relative: f64) {
    assert!((found - expected).abs() <= relative * expected.abs(), "{found} is not {expected}");
}

/// The figures of a model beside a teacher, in steps of `max_batch` tokens.
fn measure(model: &Model, teacher: &Model, threads: usize, max_batch: usize) -> Report {
    let mut engine_of = [model, teacher].map(|model| engine(model, 64, threads, max_batch));
    let [engine, teacher] = &mut engine_of;
    let options = Options { teacher: Teacher::Engine(teacher), ..Options::default() };
    eval::perplexity(engine, &chunks(model), options).unwrap()
}

#[test]
fn perplexity_is_llama_cpps() {
    let model = model("dense-model.gguf", GgmlType::F32);
    let mut running = Vec::new();
    let mut on_chunk = |report: &Report| {
        running.push(report.perplexity.value());
        ControlFlow::Continue(())
    };
    let options = Options { on_chunk: Some(&mut on_chunk), ..Options::default() };
    let report =
        eval::perplexity(&mut engine(&model, 64, 2, 512), &chunks(&model), options).unwrap();
    assert_eq!((report.n_chunks, report.perplexity.tokens()), (15, 15 * 31));
    running.iter().zip(RUNNING).for_each(|(&found, expected)| near(found, expected, 1e-3));
    assert_eq!(running.len(), RUNNING.len());
    near(report.perplexity.error(), ERROR, 1e-3);
    assert!(report.divergence.is_none());
}

/// llama.cpp's figures for files that it quantized itself: mean, median and 99 % of the divergence, and
/// the share of equal favourites.
#[test]
fn divergence_is_llama_cpps_and_none_from_oneself() {
    let exact = model("dense-model.gguf", GgmlType::F32);
    let itself = measure(&exact, &exact, 2, 512).divergence.unwrap();
    assert_eq!(itself.kl_quantiles([0.0, 0.5, 1.0]), [0.0; 3]);
    assert_eq!((itself.same_top(), itself.dp_mean(), itself.dp_rms()), (1.0, 0.0, 0.0));
    for (ty, [mean, median, p99], same_top) in [
        (GgmlType::Q8_0, [0.002401, 0.001914, 0.009783], 0.929),
        (GgmlType::Q4_0, [0.365349, 0.311119, 1.286845], 0.441),
    ] {
        let quantized = measure(&model("dense-model.gguf", ty), &exact, 2, 512);
        let divergence = quantized.divergence.unwrap();
        near(divergence.kl_mean(), mean, 0.1);
        near(divergence.kl_quantiles([0.5])[0], median, 0.15);
        near(divergence.kl_quantiles([0.99])[0], p99, 0.2);
        near(divergence.same_top(), same_top, 0.05);
        near(divergence.teacher_perplexity(), RUNNING[14], 1e-3);
    }
}

#[test]
fn figures_do_not_depend_on_threads_and_steps() {
    let [exact, coarse] = [GgmlType::F32, GgmlType::Q4_0].map(|ty| model("experts-model.gguf", ty));
    let first = measure(&coarse, &exact, 1, 512);
    for (threads, max_batch) in [(2, 7), (3, 64)] {
        assert_eq!(measure(&coarse, &exact, threads, max_batch), first);
    }
}

#[test]
fn kept_answers_stand_for_the_teacher() {
    let folder = Folder::new("logits");
    let path = folder.0.join("teacher.logits");
    let [exact, coarse] = [GgmlType::F32, GgmlType::Q4_0].map(|ty| model("dense-model.gguf", ty));
    let chunks = chunks(&exact);
    let n_vocab = engine(&exact, 64, 1, 512).decoder().n_vocab();
    let mut writer = LogitsWriter::create(&path, &chunks, n_vocab, exact.file()).unwrap();
    let options = Options { save: Some(&mut writer), ..Options::default() };
    eval::perplexity(&mut engine(&exact, 64, 2, 512), &chunks, options).unwrap();
    assert!(!path.exists(), "no name before it is whole");
    writer.finish().unwrap();

    let beside = |student: &Model| {
        let mut file = LogitsFile::open(&path, &chunks).unwrap();
        file.check_teacher(exact.file()).unwrap();
        assert!(file.check_teacher(coarse.file()).is_err());
        let options = Options { teacher: Teacher::File(&mut file), ..Options::default() };
        let report = eval::perplexity(&mut engine(student, 64, 1, 33), &chunks, options).unwrap();
        report.divergence.unwrap()
    };
    let itself = beside(&exact);
    assert!(itself.kl_mean().abs() < 1e-7, "{}", itself.kl_mean());
    let live = measure(&coarse, &exact, 1, 512).divergence.unwrap();
    let kept = beside(&coarse);
    near(kept.kl_mean(), live.kl_mean(), 1e-4);
    near(kept.dp_rms(), live.dp_rms(), 1e-3);
    refused_files(&path, &chunks);
    // A writer that is given up leaves nothing.
    drop(LogitsWriter::create(&path.with_extension("x"), &chunks, 9, exact.file()).unwrap());
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
}

/// Files that are cut, of another text or of no sense are named, and nothing panics.
fn refused_files(path: &Path, chunks: &Chunks) {
    let whole = std::fs::read(path).unwrap();
    let bad = path.with_extension("bad");
    let open = |bytes: &[u8]| {
        std::fs::write(&bad, bytes).unwrap();
        LogitsFile::open(&bad, chunks).unwrap_err().to_string()
    };
    assert!(open(&whole[..whole.len() - 1]).contains("not what its header says"));
    assert!(open(&whole[..20]).contains("less than a header"));
    assert!(open(b"").contains("less than a header"));
    let mut other = whole.clone();
    other[0] = b'X';
    assert!(open(&other).contains("does not begin with"));
    other = whole.clone();
    other[32] ^= 1;
    assert!(open(&other).contains("another text"));
    other = whole.clone();
    other[8..12].fill(0xff);
    assert!(open(&other).contains("not what its header says"));
    // A row whose step is no number.
    other = whole;
    other[40..44].fill(0xff);
    std::fs::write(&bad, &other).unwrap();
    let mut file = LogitsFile::open(&bad, chunks).unwrap();
    let exact = model("dense-model.gguf", GgmlType::F32);
    let options = Options { teacher: Teacher::File(&mut file), ..Options::default() };
    let error = eval::perplexity(&mut engine(&exact, 64, 1, 512), chunks, options).unwrap_err();
    assert!(error.to_string().contains("row 1 of chunk 1 has a bad step"), "{error}");
    std::fs::remove_file(&bad).unwrap();
}

#[test]
fn what_cannot_be_measured_is_named() {
    let model = model("dense-model.gguf", GgmlType::F32);
    let mut engine = engine(&model, 64, 1, 512);
    let stop = &mut |_: &Report| ControlFlow::Break(());
    let options = Options { on_chunk: Some(stop), ..Options::default() };
    let stopped = eval::perplexity(&mut engine, &chunks(&model), options);
    assert!(matches!(stopped, Err(EvalError::Stopped)));
    let foreign = Chunks::of_tokens(vec![7, 1_000_000, 1, 1], None, 4).unwrap();
    let refused = eval::perplexity(&mut engine, &foreign, Options::default());
    assert!(matches!(refused, Err(EvalError::Engine(_))));
    // The engine goes on.
    assert!(eval::perplexity(&mut engine, &chunks(&model), Options::default()).is_ok());
    assert_eq!(engine.decoder().kv().kv_bytes(), 0);
}

/// The log-likelihoods of the tokens of `text` from `from` on, one sequence in one step.
fn log_likelihoods(engine: &mut Engine, text: &[u32], from: usize) -> Vec<f64> {
    let rows: Vec<f32> = engine.lead(|stepper| {
        let sequence = stepper.kv_mut().create();
        let run = SequenceChunk { sequence, tokens: text, outputs: Outputs::All };
        let rows = stepper.step(&[run]).unwrap().to_vec();
        stepper.kv_mut().remove(sequence);
        rows
    });
    let n_vocab = rows.len() / text.len();
    let of = |(row, &token): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        f64::from(row[token as usize]) - sum.ln()
    };
    rows.chunks(n_vocab).zip(&text[1..]).skip(from - 1).map(of).collect()
}

/// Questions whose right answer is what the definition finds likeliest are all answered rightly.
#[test]
fn choices_are_the_likeliest_texts() {
    let model = model("dense-model.gguf", GgmlType::F32);
    let tokenizer = model.tokenizer().unwrap();
    let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
    let endings = texts(&["a cat", "the long tail of it all", "of", "mice and men and mice"]);
    let contexts = texts(&["She gave him", "They took it from her", "It"]);
    let ask = |i: usize, label: usize| match i % 2 {
        0 => Question::endings(&tokenizer, &format!("Number {i} was"), &endings, label).unwrap(),
        _ => Question::contexts(&tokenizer, &contexts, &format!("the {i} ball"), label).unwrap(),
    };
    let encode = |text: &str| {
        let plain = teff::text::EncodeOptions { add_special: false, parse_special: false };
        [vec![tokenizer.bos().unwrap()], tokenizer.encode(text, plain).unwrap()].concat()
    };
    let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let mut wide = engine(&model, 64, 2, 512);
    let (mut by_sum, mut by_mean) = (Vec::new(), Vec::new());
    for i in 0..6 {
        let sums: Vec<(f64, f64)> = match i % 2 {
            0 => {
                let all: Vec<Vec<u32>> =
                    endings.iter().map(|e| encode(&format!("Number {i} was {e}"))).collect();
                let from = all.iter().map(|text| common(text, &all[0])).min().unwrap();
                all.iter().map(|text| score(&mut wide, text, from)).collect()
            }
            _ => contexts
                .iter()
                .map(|context| {
                    let text = encode(&format!("{context} the {i} ball"));
                    let from = common(&text, &encode(context));
                    score(&mut wide, &text, from)
                })
                .collect(),
        };
        let best = |of: fn(&(f64, f64)) -> f64| {
            (0..sums.len()).max_by(|&a, &b| of(&sums[a]).total_cmp(&of(&sums[b]))).unwrap()
        };
        by_sum.push(ask(i, best(|sum| sum.0)));
        by_mean.push(ask(i, best(|sum| sum.1)));
    }
    for (threads, max_batch) in [(1, 512), (2, 5)] {
        let mut engine = engine(&model, 64, threads, max_batch);
        let mut answer = |questions: &[Question]| -> Accuracy {
            eval::choose(&mut engine, questions, &mut |_| ControlFlow::Continue(())).unwrap()
        };
        assert_eq!((answer(&by_sum).n, answer(&by_sum).by_sum()), (6, 1.0));
        assert_eq!(answer(&by_mean).by_mean(), 1.0);
        assert_eq!(engine.decoder().kv().kv_bytes(), 0);
    }
    let mut short = engine(&model, 6, 1, 512);
    let error = eval::choose(&mut short, &by_sum, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(EvalError::Question { question: 0, .. })));
}

/// Sum and mean of the log-likelihoods.
fn score(engine: &mut Engine, text: &[u32], from: usize) -> (f64, f64) {
    let found = log_likelihoods(engine, text, from);
    let sum: f64 = found.iter().sum();
    (sum, sum / found.len() as f64)
}

#[cfg(feature = "cli")]
mod program {
    use super::{RUNNING, golden, near};
    use crate::cli::{error_of, teff, text};
    use crate::folder::Folder;
    use serde_json::Value;
    use std::process::Output;

    fn json(output: &Output) -> Value {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[test]
    fn perplexity_prints_what_the_contract_names() {
        let folder = Folder::new("program");
        let (model, input) = (golden("dense-model.gguf"), golden("text.txt"));
        let logits = folder.0.join("x.logits");
        let questions = folder.0.join("q.jsonl");
        let lines = [
            r#"{"context": "It was", "endings": ["a cat", "the dog"], "label": 0}"#,
            r#"{"ctx": "It was", "endings": ["a cat", "the dog"], "label": "1"}"#,
            r#"{"sentence": "Ann met Bob as _ was late.", "option1": "Ann", "option2": "Bob", "answer": "2"}"#,
            r#"{"question": {"stem": "Who?", "choices": [{"text": "me", "label": "A"}, {"text": "you", "label": "B"}]}, "answerKey": "B"}"#,
        ];
        std::fs::write(&questions, lines.join("\n")).unwrap();
        let common =
            ["perplexity", "-m", text(&model), "-f", text(&input), "--ctx", "64", "--json"];
        let run = |more: &[&str]| teff(&[&common[..], more].concat(), "");
        let found = json(&run(&["--save-logits", text(&logits), "--choices", text(&questions)]));
        near(found["perplexity"].as_f64().unwrap(), RUNNING[14], 1e-3);
        assert_eq!(found["tokens"], 465);
        assert!(found["error"].as_f64().unwrap() > 0.0);
        assert_eq!(found["choices"], 4);
        let beside = json(&run(&["--teacher", text(&model), "--chunks", "2"]));
        for key in ["kl_mean", "kl_median", "kl_p99", "dp_rms"] {
            assert_eq!(beside[key].as_f64(), Some(0.0), "{key}");
        }
        assert_eq!(beside["top1"], 1.0);
        let kept = json(&run(&["--teacher-logits", text(&logits), "--teacher", text(&model)]));
        assert!(kept["kl_mean"].as_f64().unwrap() < 1e-7);
        let refused = run(&["--teacher-logits", text(&logits), "--chunks", "2"]);
        assert!(error_of(&refused, 1).contains("another text"));
        let short = teff(&["perplexity", "-m", text(&model), "-f", "-"], "too short");
        let told = error_of(&short, 1);
        assert!(told.contains("fill no chunk of 512"), "{told}");
        assert!(told.trim_end().ends_with("(--ctx)"), "{told}");
        assert_eq!(teff(&["perplexity", "-m", text(&model)], "").status.code(), Some(2));
        std::fs::write(&questions, "{\"context\": \"x\"}\n").unwrap();
        let bad = teff(&["perplexity", "-m", text(&model), "--choices", text(&questions)], "");
        assert!(error_of(&bad, 1).contains("line 1: none of"));
    }
}
