//! `teff quantize --method gptq`: layers at the inputs that a text gives them.

use crate::cli::{json, teff, text};
use crate::fixture_model::load;
use crate::folder::Folder;
use crate::target::{check_runs, error_of, speaking};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use teff::calibrate::{CalibrateError, Calibration, LayerFolder, quantize_layers};
use teff::quantize::{Method, Options, OutputLoss, Plan, mix::Mix};

fn args<'a>(input: &'a Path, out: &'a Path, words: &'a Path) -> Vec<&'a str> {
    args_of("gptq", input, out, words)
}

fn args_of<'a>(method: &'a str, input: &'a Path, out: &'a Path, words: &'a Path) -> Vec<&'a str> {
    let method = ["--type", "Q4_0", "--method", method, "--calibrate"];
    [&["quantize", "--json", text(input), text(out)], &method[..], &[text(words)]].concat()
}

/// Every tensor of a layer loses no more of its outputs than by the method alone, some less; bytes do
/// not depend on threads, and nothing is left beside the file, which runs.
#[test]
fn outputs_of_layers_lose_less() {
    let folder = Folder::new("gptq");
    let [input, words] = speaking(&folder);
    let mut files = Vec::new();
    for threads in ["1", "3"] {
        let out = folder.0.join(format!("{threads}.gguf"));
        let report = folder.0.join("report");
        let more = ["-t", threads, "--report", text(&report)];
        let told = json(&[&args(&input, &out, &words)[..], &more].concat());
        let lines = fs::read_to_string(&report).unwrap();
        let lines: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(Value::Array(lines), told["tensors"]);
        fs::remove_file(report).unwrap();
        assert_eq!(told["method"], "gptq");
        let tensors = told["tensors"].as_array().unwrap();
        let is_of_layer = |tensor: &&Value| {
            tensor["name"].as_str().unwrap().starts_with("blk.") && tensor["type"] != tensor["from"]
        };
        let errors: Vec<[f64; 2]> = tensors
            .iter()
            .filter(is_of_layer)
            .map(|tensor| {
                let error = &tensor["output_error"];
                ["method_alone", "written"].map(|key| error[key].as_f64().unwrap())
            })
            .collect();
        assert!(errors.len() > 6, "{told}");
        assert!(errors.iter().all(|[alone, fed]| fed <= alone && *fed > 0.0), "{errors:?}");
        let less = errors.iter().filter(|[alone, fed]| fed < alone).count();
        assert!(2 * less > errors.len(), "{errors:?}");
        files.push(fs::read(&out).unwrap());
    }
    assert!(files[0] == files[1], "bytes by threads");
    assert_eq!(folder.names(), ["1.gguf", "3.gguf", "text.txt", "tiny.gguf"]);
    check_runs(&folder.file("1.gguf"));
}

/// Every method that sees a text writes a file that runs, of the same bytes for any number of threads;
/// its outputs lose less together than by the search, and refitting never loses more.
#[test]
fn methods_go_together() {
    let folder = Folder::new("methods");
    let [input, words] = speaking(&folder);
    let mut sums = Vec::new();
    for method in [
        "refit",
        "gptq",
        "gptq+refit",
        "awq",
        "awq+clip",
        "awq+clip+refit",
        "awq+refit",
        "awq+gptq",
        "awq+gptq+refit",
    ] {
        let mut files = Vec::new();
        for threads in ["1", "3"] {
            let out = folder.0.join(format!("{threads}.gguf"));
            let args = [&args_of(method, &input, &out, &words)[..], &["-t", threads]].concat();
            let told = json(&args);
            let tensors = told["tensors"].as_array().unwrap();
            let mut sum = [0.0; 2];
            for tensor in tensors.iter().filter(|tensor| tensor["output_error"].is_object()) {
                let error = |key: &str| tensor["output_error"][key].as_f64().unwrap();
                let [alone, written] = ["method_alone", "written"].map(error);
                // Factors are a matter of all readers of an input together.
                assert!(written <= alone || method.contains("awq"), "{method}: {tensor}");
                assert!(tensor["relative_error"].as_f64().unwrap() < 0.3, "{method}: {tensor}");
                sum[0] += alone.powi(2);
                sum[1] += written.powi(2);
            }
            assert!(sum[1] < sum[0], "{method}: {sum:?}");
            sums.push((method, sum[1]));
            files.push(fs::read(&out).unwrap());
        }
        assert!(files[0] == files[1], "{method}: bytes by threads");
        let [made, logits] = ["1.gguf", "logits"].map(|name| folder.0.join(name));
        let run = teff(&["logits", "-m", text(&made), "--tokens", "1,2", "-o", text(&logits)], "");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
    let of = |wanted: &str| sums.iter().find(|(method, _)| *method == wanted).unwrap().1;
    assert!(of("gptq+refit") < of("gptq") && of("gptq") < of("refit"), "{sums:?}");
    assert!(of("awq+clip") < of("awq") && of("awq+clip+refit") < of("awq+clip"), "{sums:?}");
}

/// Factors fold in experts, and a model whose norms come behind products says what has none.
#[test]
fn factors_of_experts_fold() {
    let folder = Folder::new("awq-experts");
    let (_, losses) = Case::by(&folder, "llama-moe", "awq").run(usize::MAX).unwrap();
    let sum = |of: fn(&OutputLoss) -> f64| -> f64 {
        losses.iter().filter(|(.., loss)| loss.size > 0.0).map(|(.., loss)| of(loss)).sum()
    };
    assert!(sum(|loss| loss.after) < sum(|loss| loss.before), "{losses:?}");
    let case = Case::by(&folder, "olmo2-dense", "awq");
    let plan = Plan::new(case.model.file(), &case.options).unwrap();
    let tokens = [1, 2];
    let (model, kernels) = (&case.model, case.options.kernels);
    let calibration = Calibration { model, chunks: &[&tokens], threads: 1, kernels };
    let left = calibration.unfolded(&plan).unwrap();
    let has = |name: &str| left.iter().any(|left| left == name);
    assert!(has("blk.0.attn_q.weight") && has("blk.0.ffn_up.weight"), "{left:?}");
    assert!(!has("blk.0.ffn_down.weight"), "{left:?}");
}

/// A folder with something else in it is refused and stays as it is.
#[test]
fn layers_of_something_else_are_refused() {
    let folder = Folder::new("gptq-foreign");
    let [input, words] = speaking(&folder);
    let out = folder.0.join("out.gguf");
    let kept = folder.0.join("out.gguf.layers");
    fs::create_dir(&kept).unwrap();
    let layer = kept.join("00000.gguf");
    fs::copy(&input, &layer).unwrap();
    let error = error_of(&teff(&args(&input, &out, &words), ""));
    assert!(error.contains("out.gguf.layers") && error.contains("another model"), "{error}");
    fs::write(&layer, "no GGUF").unwrap();
    error_of(&teff(&args(&input, &out, &words), ""));
    assert!(!out.exists() && fs::read(&layer).unwrap() == b"no GGUF");
}

/// A text and methods that see none, and the other way round.
#[test]
fn texts_and_methods_go_together() {
    let base = ["quantize", "in.gguf", "out.gguf", "--type", "Q4_0"];
    for more in [&["--method", "gptq"][..], &["--calibrate", "text.txt"]] {
        let output = teff(&[&base[..], more].concat(), "");
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("--calibrate") && told.contains("--method"), "{told}");
    }
    let method = ["--method", "awq+clip+gptq", "--calibrate", "text.txt"];
    let output = teff(&[&base[..], &method].concat(), "");
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("awq+clip+refit") && told.contains("has no effect"), "{told}");
}

/// A model and its plan to become Q4_0 with error feedback, and what came of its layers.
struct Case {
    model: teff::Model,
    options: Options,
    folder: PathBuf,
}

type Losses = Vec<(String, bool, OutputLoss)>;

impl Case {
    fn new(folder: &Folder, name: &str) -> Case {
        Case::by(folder, name, "gptq")
    }

    fn by(folder: &Folder, name: &str, method: &str) -> Case {
        let path = folder.0.join(format!("{name}.gguf"));
        fs::write(&path, load(name).gguf).unwrap();
        let method = Method::from_name(method).unwrap();
        let mix = Mix::from_name("Q4_0").unwrap();
        Case {
            model: teff::Model::open(&path).unwrap(),
            options: Options { method, force: true, ..Options::new(mix) },
            folder: folder.0.join(format!("{name}.layers")),
        }
    }

    /// Runs until `n` tensors are finished, or all.
    fn run(&self, n: usize) -> Result<(Vec<Vec<u8>>, Losses), CalibrateError> {
        let plan = Plan::new(self.model.file(), &self.options).unwrap();
        let tokens: Vec<u32> = (0..48).map(|i| (i * 7 + i * i) % 31).collect();
        let chunks = [&tokens[..24], &tokens[24..]];
        let (model, kernels) = (&self.model, self.options.kernels);
        let calibration = Calibration { model, chunks: &chunks, threads: 2, kernels };
        let layers = LayerFolder::open(&self.folder, 1).unwrap();
        let mut losses = Vec::new();
        let made = quantize_layers(calibration, &plan, &layers, &mut |step| {
            losses.push((step.made.weight.name.clone(), step.kept, step.made.outputs));
            losses.len() < n
        })?;
        Ok((made.iter().map(|made| made.weight.bytes().to_vec()).collect(), losses))
    }
}

/// Work that is stopped goes on behind the layers that are finished, to the same bytes.
#[test]
fn finished_layers_are_kept() {
    let folder = Folder::new("gptq-kept");
    let whole = Case::new(&folder, "llama-dense");
    let (blocks, losses) = whole.run(usize::MAX).unwrap();
    assert!(losses.len() > 12 && losses.iter().all(|(_, kept, _)| !kept));
    let broken = Case { folder: folder.0.join("again.layers"), ..whole };
    let error = broken.run(losses.len() / 2).unwrap_err();
    assert!(matches!(error, CalibrateError::Stopped), "{error}");
    let (again, told) = broken.run(usize::MAX).unwrap();
    assert!(again == blocks);
    let kept = told.iter().filter(|(_, kept, _)| *kept).count();
    assert!(kept > 0 && kept < told.len(), "{told:?}");
    // What is kept is told with what it lost.
    let lost = |all: &Losses| all.iter().map(|(.., loss)| *loss).collect::<Vec<_>>();
    assert_eq!(lost(&told), lost(&losses));
}

/// Experts have Hessians of their own, and layers that read more than the stream are refused by name.
#[test]
fn experts_are_fed_back_and_others_refused() {
    let folder = Folder::new("gptq-experts");
    let (_, losses) = Case::new(&folder, "llama-moe").run(usize::MAX).unwrap();
    assert!(losses.iter().filter(|(name, ..)| name.contains("_exps")).count() > 2, "{losses:?}");
    for (name, _, loss) in losses {
        assert!(loss.after <= loss.before && loss.after > 0.0, "{name}: {loss:?}");
    }
    let error = Case::new(&folder, "gemma3n-dense").run(usize::MAX).unwrap_err();
    assert!(error.to_string().contains("one by one"), "{error}");
}
