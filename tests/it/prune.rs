//! `teff prune`: exact numbers of zeros, the right ones, and that they stay.

use crate::cli::{json_and_notes, program, teff, text};
use crate::fixture_model::load;
use crate::folder::Folder;
use crate::target::{check_runs, error_of, speaking};
use gguf_rs_lite::{GgmlType, GgufFile, TensorInfo};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use teff::quantize::imatrix::{Imatrix, Statistics};
use teff_kernels::KernelTable;

/// A model of three layers in F32 without a vocabulary.
fn model(folder: &Folder) -> PathBuf {
    let path = folder.0.join("model.gguf");
    fs::write(&path, load("llama-dense").gguf).unwrap();
    path
}

/// Runs a verb that tells in JSON; returns that and what it said besides.
fn run(args: &[&str]) -> (Value, String) {
    json_and_notes(&[args, &["--json"]].concat())
}

fn prune(input: &Path, out: &Path, method: &str, sparsity: &str, more: &[&str]) -> Value {
    let own = ["prune", text(input), text(out), "--method", method, "--sparsity", sparsity];
    run(&[&own[..], more].concat()).0
}

fn values(file: &GgufFile, info: &TensorInfo) -> Vec<f32> {
    let mut x = vec![0.0; info.dims.iter().product::<u64>() as usize];
    KernelTable::detect().types(info.ty).unwrap().dequantize(file.data(info), &mut x);
    x
}

/// Whether a tensor of the fixtures is one of those that are pruned.
fn is_pruned(name: &str) -> bool {
    let is_matrix = name.starts_with("blk.") && name.ends_with(".weight");
    is_matrix && !name.contains("norm") && !name.contains("ffn_gate_inp")
}

/// Calls with each pruned tensor's columns, values before and after; others must be the same bytes.
fn compare(before: &Path, after: &Path, mut check: impl FnMut(&str, usize, &[f32], &[f32])) {
    let [before, after] = [before, after].map(|path| GgufFile::open(path).unwrap());
    for info in before.tensors() {
        let new = after.tensor(&info.name).unwrap();
        if !is_pruned(&info.name) {
            assert!(before.data(info) == after.data(new), "{}", info.name);
            continue;
        }
        let (x, y) = (values(&before, info), values(&after, new));
        check(&info.name, info.cols() as usize, &x, &y);
    }
}

/// Columns that are zero in a row.
fn zeros(row: &[f32]) -> Vec<usize> {
    (0..row.len()).filter(|&c| row[c] == 0.0).collect()
}

/// The columns of the least scores of each group, in plain sorting.
fn least(scores: &[f32], n: usize, group: usize) -> Vec<usize> {
    let mut all = Vec::new();
    for start in (0..scores.len()).step_by(group) {
        let mut columns: Vec<usize> = (start..start + group).collect();
        columns.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        all.extend(&columns[..n]);
    }
    all.sort_unstable();
    all
}

/// Every row has exactly as many zeros as asked for, and its smallest weights are those; what stays is the
/// same, and files do not depend on threads.
#[test]
fn rows_lose_exactly_their_smallest_weights() {
    let folder = Folder::new("prune-magnitude");
    let input = model(&folder);
    for (sparsity, group, kept) in [
        ("0.5", None, 0.5),
        ("0.3", None, 0.7),
        ("0.99", None, 0.01),
        ("2:4", Some(4), 0.5),
        ("4:8", Some(8), 0.5),
        ("1:4", Some(4), 0.25),
    ] {
        let [out, again] = ["out.gguf", "again.gguf"].map(|name| folder.0.join(name));
        let told = prune(&input, &out, "magnitude", sparsity, &["-t", "1"]);
        prune(&input, &again, "magnitude", sparsity, &["-t", "3"]);
        assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap(), "{sparsity}: threads");
        let (mut n_tensors, mut all) = (0, 0);
        compare(&input, &out, |name, cols, x, y| {
            let group = group.unwrap_or(cols);
            let n = group - (kept * group as f64).round() as usize;
            for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact(cols)) {
                let sizes: Vec<f32> = x.iter().map(|x| x.abs()).collect();
                assert_eq!(zeros(y), least(&sizes, n, group), "{name} {sparsity}");
                assert!(x.iter().zip(y).all(|(x, y)| *y == 0.0 || x == y), "{name} {sparsity}");
                all += zeros(y).len() as u64;
            }
            n_tensors += 1;
        });
        assert!(n_tensors > 15 && told["zeros"] == all, "{told}");
        let shown = run(&["inspect", text(&out), "--sparsity", "--tensors"]).0;
        // Of floats all zeros are those that were pruned: both count the same.
        assert_eq!(shown["zeros"]["zeros"], told["zeros"], "{sparsity}");
        assert_eq!(shown["zeros"]["weights"], told["weights"], "{sparsity}");
        assert!(shown["zeros"]["zeros"].as_u64().unwrap() >= all, "{shown}");
        let rows = shown["tensors"].as_array().unwrap().iter();
        let counted: u64 = rows
            .filter(|row| is_pruned(row["name"].as_str().unwrap()))
            .map(|row| row["zeros"].as_u64().unwrap())
            .sum();
        assert_eq!(counted, all);
        let verified = teff(&["verify", text(&out), "--source", text(&input)], "");
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        let file = GgufFile::open(&out).unwrap();
        let told = |key: &str| {
            file.get(&format!("teff.receipt.{key}")).unwrap().as_str().unwrap().to_owned()
        };
        assert_eq!([told("method"), told("sparsity")], ["magnitude", sparsity]);
    }
}

/// Wanda's zeros are those of the least `|w| * norm`, by a file of importances.
#[test]
fn wanda_goes_by_weights_times_inputs() {
    let folder = Folder::new("prune-wanda");
    let input = model(&folder);
    let file = GgufFile::open(&input).unwrap();
    let mut imatrix = Imatrix::new(vec!["drawn".into()], 1, 64);
    let mut all = std::collections::HashMap::new();
    for (number, info) in file.tensors().iter().filter(|info| is_pruned(&info.name)).enumerate() {
        let draw = |c: u64| ((c * 37 + number as u64) % 23) as f32 * 0.5 + 0.25;
        let sums: Vec<f32> = (0..info.cols()).map(draw).collect();
        imatrix.add(&info.name, Statistics::new(sums.clone(), vec![2.0]).unwrap()).unwrap();
        all.insert(info.name.clone(), sums);
    }
    let [statistics, out] = ["drawn.imatrix.gguf", "out.gguf"].map(|name| folder.0.join(name));
    imatrix.write_gguf(fs::File::create(&statistics).unwrap()).unwrap();
    for (sparsity, group) in [("0.5", None), ("2:4", Some(4))] {
        prune(&input, &out, "wanda", sparsity, &["--imatrix", text(&statistics)]);
        let mut n_other = 0;
        compare(&input, &out, |name, cols, x, y| {
            let group = group.unwrap_or(cols);
            for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact(cols)) {
                let norms = all[name].iter().map(|sum| (sum / 2.0).sqrt());
                let scores: Vec<f32> =
                    x.iter().zip(norms).map(|(x, norm)| x.abs() * norm).collect();
                assert_eq!(zeros(y), least(&scores, group / 2, group), "{name} {sparsity}");
                let sizes: Vec<f32> = x.iter().map(|x| x.abs()).collect();
                n_other += usize::from(zeros(y) != least(&sizes, group / 2, group));
            }
        });
        assert!(n_other > 100, "{n_other}");
    }
    // A tensor without importances has none to go by.
    let mut partial = Imatrix::new(vec!["drawn".into()], 1, 64);
    let (name, sums) = all.iter().next().unwrap();
    partial.add(name, Statistics::new(sums.clone(), vec![2.0]).unwrap()).unwrap();
    partial.write_gguf(fs::File::create(&statistics).unwrap()).unwrap();
    let args = ["prune", text(&input), text(&out), "--method", "wanda", "--sparsity", "0.5"];
    let error = error_of(&teff(&[&args[..], &["--imatrix", text(&statistics)]].concat(), ""));
    assert!(error.contains("blk.") && error.contains("wanda"), "{error}");
}

/// By a text, outputs lose less by Wanda than by magnitudes, and by SparseGPT less than by Wanda; counts
/// are exact, files do not depend on threads, nothing is left beside them, and they run.
#[test]
fn outputs_lose_less_at_the_inputs_of_a_text() {
    let folder = Folder::new("prune-text");
    let [input, words] = speaking(&folder);
    for sparsity in ["0.5", "2:4"] {
        let mut sums = Vec::new();
        for method in ["wanda", "sparsegpt"] {
            let mut files = Vec::new();
            for threads in ["1", "3"] {
                let out = folder.0.join(format!("{threads}.gguf"));
                let told = prune(
                    &input,
                    &out,
                    method,
                    sparsity,
                    &["--calibrate", text(&words), "-t", threads, "--type", "F32"],
                );
                let mut sum = [0.0; 2];
                for tensor in told["tensors"].as_array().unwrap() {
                    let Some(error) = tensor.get("output_error") else { continue };
                    let own = ["magnitude", "written"].map(|key| error[key].as_f64().unwrap());
                    (0..2).for_each(|i| sum[i] += own[i].powi(2));
                }
                assert!(0.0 < sum[1] && sum[1] < sum[0], "{method} {sparsity}: {sum:?}");
                sums.push(sum[1]);
                compare(&input, &out, |name, cols, _, y| {
                    for y in y.chunks_exact(cols) {
                        assert_eq!(zeros(y).len(), cols / 2, "{name} {method} {sparsity}");
                        let is_even = |y: &[f32]| sparsity == "0.5" || zeros(y).len() == 2;
                        assert!(y.chunks_exact(4).all(is_even), "{name} {method} {sparsity}");
                    }
                });
                files.push(fs::read(&out).unwrap());
            }
            assert!(files[0] == files[1], "{method}: bytes by threads");
        }
        assert!(sums[2] < 0.9 * sums[0], "{sparsity}: {sums:?}");
    }
    assert_eq!(folder.names(), ["1.gguf", "3.gguf", "text.txt", "tiny.gguf"]);
    check_runs(&folder.file("1.gguf"));
}

/// A pruned file keeps its zeros in every type that `teff quantize` makes of it and that has a zero, by
/// itself; a file that is not pruned gets the same bytes with and without.
#[test]
fn zeros_survive_quantizing() {
    let folder = Folder::new("prune-quantize");
    let [dense, words] = speaking(&folder);
    let [input, out, other] = ["in.gguf", "out.gguf", "other"].map(|name| folder.0.join(name));
    prune(&dense, &input, "magnitude", "0.5", &["--type", "F32"]);
    let quantize = |input: &Path, out: &Path, more: &[&str]| {
        run(&[&["quantize", text(input), text(out)], more].concat()).1
    };
    let check = |more: &[&str]| {
        quantize(&input, &out, more);
        compare_zeros(&input, &out, &format!("{more:?}"));
    };
    for ty in [
        "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K",
        "F16", "BF16",
    ] {
        check(&["--type", ty]);
        quantize(&dense, &out, &["--type", ty]);
        quantize(&dense, &other, &["--type", ty, "--keep-zeros", "off"]);
        let [a, b] = [&out, &other].map(|path| GgufFile::open(path).unwrap());
        for (x, y) in a.tensors().iter().zip(b.tensors()) {
            assert!(a.data(x) == b.data(y), "{ty}: {}", x.name);
        }
    }
    for ty in ["Q4_0", "Q4_1", "Q4_K_M"] {
        check(&["--type", ty, "--method", "rtn"]);
        for method in ["gptq", "awq+gptq+refit"] {
            check(&["--type", ty, "--method", method, "--calibrate", text(&words)]);
        }
    }
    let told = quantize(&input, &out, &["--type", "IQ4_NL"]);
    assert!(told.contains("IQ4_NL has no code for zero"), "{told}");
    let args = ["quantize", text(&input), text(&out), "--type", "IQ4_NL", "--keep-zeros", "on"];
    let error = error_of(&teff(&args, ""));
    assert!(error.contains("IQ4_NL has no code for zero") && error.contains("--keep-zeros"));
}

/// All zeros of pruned tensors are zeros of another file.
fn compare_zeros(before: &Path, after: &Path, told: &str) {
    let [before, after] = [before, after].map(|path| GgufFile::open(path).unwrap());
    for info in before.tensors().iter().filter(|info| is_pruned(&info.name)) {
        let new = after.tensor(&info.name).unwrap();
        let (x, y) = (values(&before, info), values(&after, new));
        let lost = x.iter().zip(&y).filter(|(x, y)| **x == 0.0 && **y != 0.0).count();
        assert_eq!(lost, 0, "{told}: {} {}", info.name, new.ty);
        assert!(y.iter().any(|y| *y != 0.0), "{told}: {}", info.name);
    }
}

/// Blocks stay as they are but for their zeros where the type is the same; a type without a zero is
/// refused by name, and made another when asked.
#[test]
fn quantized_files_are_pruned_in_their_blocks() {
    let folder = Folder::new("prune-blocks");
    let dense = model(&folder);
    let [input, out] = ["in.gguf", "out.gguf"].map(|name| folder.0.join(name));
    for ty in ["Q4_0", "Q8_0", "Q4_1"] {
        run(&["quantize", text(&dense), text(&input), "--type", ty, "--pure"]);
        prune(&input, &out, "magnitude", "2:4", &[]);
        compare(&input, &out, |name, _, x, y| {
            let n_zeros = y.chunks_exact(4).all(|y| zeros(y).len() >= 2);
            let is_same = x.iter().zip(y).all(|(x, y)| *y == 0.0 || x == y);
            assert!(n_zeros && (is_same || ty == "Q4_1"), "{name} {ty}");
        });
    }
    run(&["quantize", text(&dense), text(&input), "--type", "IQ4_NL", "--pure"]);
    let args = ["prune", text(&input), text(&out), "--method", "magnitude", "--sparsity", "0.5"];
    let error = error_of(&teff(&args, ""));
    assert!(error.contains("blk.0.") && error.contains("IQ4_NL has no code for zero"), "{error}");
    assert!(error.contains("--type"), "{error}");
    prune(&input, &out, "magnitude", "0.5", &["--type", "q8_0"]);
    let file = GgufFile::open(&out).unwrap();
    let types = file.tensors().iter().filter(|info| is_pruned(&info.name)).map(|info| info.ty);
    assert!(types.clone().count() > 15 && types.clone().all(|ty| ty == GgmlType::Q8_0));
}

/// Only what a pattern finds is pruned, and a trial writes nothing.
#[test]
fn tensors_are_chosen_by_name() {
    let folder = Folder::new("prune-names");
    let input = model(&folder);
    let out = folder.0.join("out.gguf");
    let told = prune(&input, &out, "magnitude", "0.5", &["--dry-run"]);
    assert!(!out.exists() && told["dry_run"] == true && told["zeros"].as_u64() > Some(0));
    prune(
        &input,
        &out,
        "magnitude",
        "0.5",
        &["--tensor", r"ffn_up", "--tensor", r"blk\.1\.attn_q"],
    );
    let [before, after] = [&input, &out].map(|path| GgufFile::open(path).unwrap());
    for (x, y) in before.tensors().iter().zip(after.tensors()) {
        let is_named = x.name.contains("ffn_up") || x.name.contains("blk.1.attn_q.");
        let is_chosen = is_named && is_pruned(&x.name);
        assert_eq!(before.data(x) != after.data(y), is_chosen, "{}", x.name);
    }
}

/// Experts have zeros of their own, routers none; those that a text never chose are told of.
#[test]
fn experts_are_pruned_and_routers_are_not() {
    let folder = Folder::new("prune-experts");
    let [input, out] = ["in.gguf", "out.gguf"].map(|name| folder.0.join(name));
    fs::write(&input, load("llama-moe").gguf).unwrap();
    prune(&input, &out, "magnitude", "0.5", &[]);
    let mut experts = 0;
    compare(&input, &out, |name, cols, _, y| {
        assert!(y.chunks_exact(cols).all(|y| zeros(y).len() == cols / 2), "{name}");
        experts += usize::from(name.contains("_exps"));
    });
    assert!(experts >= 6, "{experts}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = Folder::new("prune-refused");
    let [input, words] = speaking(&folder);
    let (input, words) = (text(&input), text(&words));
    let out = folder.0.join("out.gguf");
    let out = text(&out);
    let cases = [
        (&["--method", "wanda", "--sparsity", "0.5"][..], 2, "--imatrix FILE or --calibrate TEXT"),
        (&["--method", "sparsegpt", "--sparsity", "0.5"], 2, "--calibrate TEXT"),
        (
            &["--method", "sparsegpt", "--sparsity", "0.5", "--imatrix", words],
            2,
            "--calibrate TEXT",
        ),
        (&["--method", "magnitude", "--sparsity", "0.5", "--calibrate", words], 2, "see a text"),
        (&["--method", "magnitude", "--sparsity", "1.5"], 2, "must be a part"),
        (&["--method", "random", "--sparsity", "0.5"], 2, "none of magnitude"),
        (&["--method", "magnitude", "--sparsity", "3:7"], 1, "no whole groups of 7"),
        (&["--method", "magnitude", "--sparsity", "0.5", "--tensor", "output"], 0, ""),
        (&["--method", "magnitude", "--sparsity", "0.5", "--tensor", "token_embd"], 1, "--tensor"),
        (&["--method", "magnitude", "--sparsity", "0.5", "--tensor", "("], 1, "no regular"),
        (
            &["--method", "magnitude", "--sparsity", "0.5", "--type", "IQ4_NL"],
            1,
            "no code for zero",
        ),
    ];
    for (args, code, expected) in cases {
        let output = teff(&[&["prune", input, out], args].concat(), "");
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(expected), "{args:?}: {told}");
    }
    let own = ["prune", input, input, "--method", "magnitude", "--sparsity", "0.5"];
    let error = error_of(&teff(&own, ""));
    assert!(error.contains("is the input too"), "{error}");
    assert!(program().args(own).output().is_ok());
}
