//! Tuning against the decoder's logits, differences, and itself.

use crate::decoder::model;
use crate::fixture_model::{load, names};
use crate::folder::Folder;
use crate::measure::nmse_max;
use std::sync::Mutex;
use teff::engine::Model;
use teff::quantize::{Options, Plan, mix::Mix};
use teff::tune::{
    Course, Event, LoraShape, Schedule, Sequence, State, Trainable, TuneError, Tuner, train,
};
use teff_kernels::KernelTable;

const NORMS: Trainable = Trainable { scales: false, norms: true, lora: None };
const LORA: Trainable =
    Trainable { scales: false, norms: false, lora: Some(LoraShape { rank: 2, alpha: 3.0 }) };

/// As the decoder differs from the reference: GELU is a table of halves there.
const NMSE_MAX: f64 = 1e-5;

/// Families whose operations all have gradients: those that no sum, choice or recurrence is new in.
const TUNED: &[&str] = &[
    "arcee-dense",
    "baichuan-dense",
    "bloom-dense",
    "command-r-dense",
    "exaone-dense",
    "falcon-dense",
    "gemma-dense",
    "gemma2-dense",
    "gemma3-dense",
    "glm4-dense",
    "gpt2-dense",
    "granite-dense",
    "internlm2-dense",
    "llama-dense",
    "llama-dense-linear",
    "llama-dense-yarn",
    "minicpm-dense",
    "mistral3-dense",
    "olmo2-dense",
    "phi3-dense",
    "qwen2-dense",
    "qwen3-dense",
    "smollm3-dense",
    "stablelm-dense",
    "starcoder2-dense",
];

fn tuner_of(model: &Model, what: Trainable, threads: usize) -> Result<Tuner, TuneError> {
    let n_ctx = model.spec().n_ctx_max.unwrap_or(2 * model.spec().n_ctx_train);
    Tuner::new(model, n_ctx, what, &|_| true, (KernelTable::detect(), threads), 1)
}

/// The forward pass is the decoder's; what cannot be tuned is refused by the operation's name.
#[test]
fn logits_are_the_references() {
    let mut tuned = Vec::new();
    for name in names() {
        let fixture = load(&name);
        let model = model(fixture.gguf);
        match tuner_of(&model, LORA, 2) {
            Ok(tuner) => {
                let logits = tuner.logits(&fixture.tokens).unwrap();
                let error = nmse_max(&logits, &fixture.logits, fixture.n_vocab);
                assert!(error <= NMSE_MAX, "{name}: NMSE {error:.2e}");
                tuned.push(name);
            }
            Err(TuneError::Operation { op }) => assert!(!op.is_empty()),
            Err(TuneError::NoLogits) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
    for name in TUNED {
        assert!(tuned.iter().any(|tuned| tuned == name), "{name}: not among {tuned:?}");
    }
    for name in ["llama-moe", "mamba-dense", "gemma3n-dense", "lfm2-dense", "apertus-dense"] {
        assert!(!tuned.iter().any(|tuned| tuned == name), "{name}: among {tuned:?}");
    }
}

/// The loss of a sequence as a function of the parameters has the gradient that is told.
#[test]
fn gradients_are_those_of_differences() {
    for name in ["llama-dense", "gemma3-dense", "olmo2-dense", "gpt2-dense", "gemma2-dense"] {
        let fixture = load(name);
        let model = model(fixture.gguf);
        let sequence = Sequence::of_text(&fixture.tokens);
        for what in [NORMS, LORA] {
            let mut tuner = tuner_of(&model, what, 2).unwrap();
            // Away from the start, where half of an adapter is zero.
            let start: Vec<Vec<f32>> = tuner.values().iter().map(|x| moved(x, 1, 0.05)).collect();
            tuner.set_values(&start).unwrap();
            tuner.learn(&sequence, None, 1.0).unwrap();
            let gradients = tuner.gradients().to_vec();
            for seed in 2..5 {
                let told: f64 = gradients
                    .iter()
                    .flat_map(|g| g.iter().zip(moved(&vec![0.0; g.len()], seed, 1.0)))
                    .map(|(g, d)| f64::from(*g) * f64::from(d))
                    .sum();
                let mut at = |h: f32| {
                    let values: Vec<Vec<f32>> = start.iter().map(|x| moved(x, seed, h)).collect();
                    tuner.set_values(&values).unwrap();
                    tuner.score(&sequence, None).unwrap().sum
                };
                let h = 1e-3;
                let difference = (at(h) - at(-h)) / f64::from(2.0 * h);
                let error = (told - difference).abs();
                assert!(error <= 0.01 * told.abs() + 0.1, "{name} {what:?}: {told} {difference}");
            }
        }
    }
}

/// Numbers moved by `h` times drawn ones between -1 and 1.
fn moved(x: &[f32], seed: u64, h: f32) -> Vec<f32> {
    let drawn =
        (0..x.len() as u64).map(|i| crate::fixture_model::weight(seed, "moved", &[3, 1], i));
    x.iter().zip(drawn).map(|(x, d)| x + h * d).collect()
}

/// A model in Q4_0, and the logits of the model that it was made of.
fn student(name: &str) -> (Model, Model, Vec<u32>) {
    let fixture = load(name);
    let teacher = model(fixture.gguf);
    let options = Options::new(Mix::from_name("Q4_0").unwrap());
    let plan = Plan::new(teacher.file(), &options).unwrap();
    let folder = Folder::new("tune-student");
    let path = folder.file("model.gguf");
    plan.write(&path, &mut |_| true).unwrap();
    (model(std::fs::read(&path).unwrap()), teacher, fixture.tokens)
}

const COURSE: Course = Course {
    schedule: Schedule { steps: 12, warmup: 2, rate: 5e-3, decay: 0.0, clip: 1.0 },
    batch: 2,
    eval_every: 4,
    seed: 3,
};

/// Sequences of tokens that are drawn.
fn sequences(n: usize, seed: u32) -> Vec<Sequence> {
    let tokens =
        |i: u32| (0..24).map(|t| (t * 7 + t * t * (i + seed) + i) % 31).collect::<Vec<u32>>();
    (0..n as u32).map(|i| Sequence::of_text(&tokens(i))).collect()
}

/// Training makes the loss less; it goes on from any step to the same numbers, which do not depend on
/// threads.
#[test]
fn training_goes_on_where_it_was() {
    let (student, _, _) = student("llama-dense");
    let what = Trainable { scales: true, norms: true, lora: None };
    let (learned, held_out) = (sequences(6, 1), sequences(6, 1));
    let run = |threads, stop: u64, state: &Mutex<State>| {
        let mut tuner = tuner_of(&student, what, threads).unwrap();
        let data = (&learned[..], &held_out[..]);
        let report = train(
            &mut tuner,
            data,
            None,
            &COURSE,
            state,
            &mut |event| !matches!(event, Event::Step { step, .. } if step == stop),
        );
        (report, tuner)
    };
    let start = || Mutex::new(State::new(tuner_of(&student, what, 1).unwrap().values()));
    let whole = start();
    let (report, tuner) = run(1, 0, &whole);
    let report = report.unwrap();
    assert!(report.best.is_some_and(|(loss, _)| loss < report.before), "{report:?}");
    let made = tuner.made(&student).unwrap();
    assert!(made.iter().any(|made| made.weight.name == "blk.0.attn_norm.weight"));
    for made in &made {
        let source = student.file().tensor(&made.weight.name).unwrap();
        let is_same = student.file().data(source) == made.weight.bytes();
        assert!(!is_same && made.loss.relative() < 0.1, "{}: {:?}", made.weight.name, made.loss);
    }
    let parts = start();
    assert!(matches!(run(3, 5, &parts).0, Err(TuneError::Stopped)));
    assert_eq!(parts.lock().unwrap().steps(), 5);
    assert_eq!(run(2, 0, &parts).0.unwrap(), report);
    assert!(*parts.lock().unwrap() == *whole.lock().unwrap());
}

#[cfg(feature = "cli")]
mod program {
    use crate::cli::{json, teff, text};
    use crate::folder::Folder;
    use crate::target::{error_of, speaking};
    use gguf_rs_lite::{GgmlType, GgufFile};
    use serde_json::Value;
    use std::fs;
    use std::path::{Path, PathBuf};
    use teff_kernels::{KernelTable, Scales};

    /// The speaking model, its text, and itself in Q4_0.
    fn student(folder: &Folder) -> [PathBuf; 3] {
        let [input, words] = speaking(folder);
        let student = folder.0.join("student.gguf");
        json(&["quantize", "--json", text(&input), text(&student), "--type", "Q4_0"]);
        [input, words, student]
    }

    /// The speaking model with a chat template.
    fn talking(folder: &Folder, template: &str) -> PathBuf {
        let [input, _] = speaking(folder);
        let [file, model] = ["t.jinja", "talks.gguf"].map(|name| folder.file(name));
        fs::write(&file, template).unwrap();
        let edit = ["edit", text(&input), "--template", text(&file), "-o", text(&model)];
        assert!(teff(&edit, "").status.success());
        model
    }

    /// The codes of all tensors that have some.
    fn codes(path: &Path) -> Vec<(String, Vec<u8>)> {
        let file = GgufFile::open(path).unwrap();
        let of = |info: &gguf_rs_lite::TensorInfo| {
            let encoder = KernelTable::detect().types(info.ty)?.encoder().ok()?;
            let n = info.dims.iter().product::<u64>() as usize;
            let (mut codes, mut scales) = (vec![0; n], vec![Scales::default(); n / encoder.len]);
            encoder.take_apart(file.data(info), &mut codes, &mut scales);
            Some((info.name.clone(), codes))
        };
        file.tensors().iter().filter_map(of).collect()
    }

    /// A student comes nearer to its teacher by scales and norms alone; the same bytes come of any number
    /// of threads, with a receipt that holds.
    #[test]
    fn scales_come_nearer_to_a_teacher() {
        let folder = Folder::new("tune");
        let [teacher, words, student] = student(&folder);
        let mut files = Vec::new();
        for threads in ["1", "3"] {
            let out = folder.0.join(format!("{threads}.gguf"));
            let told = json(&[
                "tune",
                text(&student),
                "-o",
                text(&out),
                "-f",
                text(&words),
                "--teacher",
                text(&teacher),
                "--steps",
                "30",
                "--batch",
                "2",
                "--ctx",
                "32",
                "-t",
                threads,
                "--json",
                "--lr",
                "0.005",
            ]);
            let [before, after] = ["before", "after"].map(|key| told[key].as_f64().unwrap());
            assert!(after < 0.9 * before && after > 0.0, "{told}");
            assert_eq!(
                (&told["written"], &told["loss"]),
                (&Value::from(true), &"divergence".into())
            );
            files.push(fs::read(&out).unwrap());
        }
        assert!(files[0] == files[1], "bytes by threads");
        let out = folder.0.join("1.gguf");
        let found = codes(&out);
        assert!(found == codes(&student) && found.len() > 7);
        let [before, after] = [&student, &out].map(|file| {
            let args =
                ["perplexity", "-m", text(file), "-f", text(&words), "--ctx", "32", "--json"];
            json(&[&args[..], &["--teacher", text(&teacher)]].concat())["kl_mean"].as_f64().unwrap()
        });
        assert!(after < 0.95 * before, "{before} {after}");
        let verified = teff(&["verify", text(&out), "--source", text(&student)], "");
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        // Nothing is left beside the files.
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 5);
    }

    /// An adapter of answers makes them likelier; the file is one that the program takes.
    #[test]
    fn an_adapter_learns_a_text() {
        let folder = Folder::new("tune-lora");
        let [_, words, student] = student(&folder);
        let out = folder.0.join("adapter.gguf");
        let told = json(&[
            "tune",
            text(&student),
            "-o",
            text(&out),
            "-f",
            text(&words),
            "--train",
            "lora",
            "--rank",
            "4",
            "--steps",
            "30",
            "--batch",
            "2",
            "--ctx",
            "32",
            "--lr",
            "0.01",
            "--json",
        ]);
        let [before, after] = ["before", "after"].map(|key| told[key].as_f64().unwrap());
        assert!(after < 0.8 * before, "{told}");
        let perplexity = |more: &[&str]| {
            let args =
                ["perplexity", "-m", text(&student), "-f", text(&words), "--ctx", "32", "--json"];
            json(&[&args[..], more].concat())["perplexity"].as_f64().unwrap()
        };
        assert!(perplexity(&["--lora", text(&out)]) < 0.8 * perplexity(&[]));
        let file = GgufFile::open(&out).unwrap();
        assert!(file.tensors().iter().all(|tensor| tensor.ty == GgmlType::F32));
        let a = file.tensor("blk.0.attn_q.weight.lora_a").unwrap();
        assert_eq!(a.dims[1], 4);
        // It carries a receipt, which knows of the model.
        let n = file.tensors().len();
        let verified = teff(&["verify", text(&out), "--source", text(&student)], "");
        let told = String::from_utf8(verified.stdout).unwrap();
        assert!(verified.status.success(), "{told}");
        assert!(told.contains(&format!("{n} tensors as in the receipt")), "{told}");
        let mut bytes = fs::read(&out).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        let changed = folder.0.join("changed.gguf");
        fs::write(&changed, bytes).unwrap();
        let verified = teff(&["verify", text(&changed), "--source", text(&words)], "");
        assert_eq!(verified.status.code(), Some(1));
        let verified = teff(&["verify", text(&changed)], "");
        let told = String::from_utf8(verified.stdout).unwrap();
        assert!(told.contains("has been changed"), "{told}");
        let other = folder.0.join("tiny.gguf");
        let told = error_of(&teff(&["verify", text(&out), "--source", text(&other)], ""));
        assert!(told.ends_with(": 1 fault"), "{told}");
    }

    /// What has no effect is refused, what stays is named.
    #[test]
    fn options_without_effect_are_refused() {
        let folder = Folder::new("tune-unused");
        let [floats, words, student] = student(&folder);
        let out = folder.0.join("out.gguf");
        let tried = |model: &std::path::Path, more: &[&str]| {
            let base = ["tune", text(model), "-o", text(&out), "--ctx", "32", "--dry-run"];
            let output = teff(&[&base[..], more].concat(), "");
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(!out.exists());
            (output.status.code(), told)
        };
        let text_of = ["-f", text(&words)];
        for (more, code, expected) in [
            (&["--rank", "4"][..], 2, "--rank is for --train lora"),
            (&["--alpha", "4"], 2, "--alpha is for --train lora"),
            (&["--train", "norms", "--targets", "attn"], 2, "--targets chooses matrices"),
            (&["--targets", "zzz"], 1, "--targets zzz: no matrix of such a name"),
            (&["--targets", "zzz", "--train", "lora"], 1, "nothing to train"),
        ] {
            let (found, told) = tried(&student, &[&text_of[..], more].concat());
            assert!(found == Some(code) && told.contains(expected), "{more:?}: {told}");
        }
        let (code, told) = tried(&student, &[]);
        assert!(code == Some(2) && told.contains("--file") && told.contains("--chats"), "{told}");
        let (code, told) = tried(&student, &text_of);
        assert!(code == Some(0) && !told.contains("not trained"), "{told}");
        // Floats have no scales, and exponents do not move.
        let (code, told) = tried(&floats, &text_of);
        assert!(code == Some(0) && told.contains("of F32, which has no scales"), "{told}");
        let exponents = folder.0.join("mxfp4.gguf");
        json(&["quantize", "--json", text(&floats), text(&exponents), "--type", "MXFP4", "--pure"]);
        let (code, told) = tried(&exponents, &text_of);
        assert!(code == Some(0) && told.contains("of MXFP4, which has scales that no"), "{told}");
        let (code, told) = tried(&exponents, &[&text_of[..], &["--train", "scales"]].concat());
        assert!(code == Some(1) && told.contains("nothing to train"), "{told}");
    }

    /// An answer whose first letter makes one token with the space before it counts from that token on.
    #[test]
    fn answers_may_begin_within_a_token() {
        let folder = Folder::new("tune-merged");
        let [chats, out] = ["chats.jsonl", "out.gguf"].map(|name| folder.file(name));
        // The last space merges with what follows.
        let source = "{% for m in messages %}{{ 'A: ' if m.role == 'assistant' else 'Q: ' }}{{ m.content }}\n\
            {% endfor %}{{ 'A: ' if add_generation_prompt }}";
        let model = talking(&folder, source);
        let file = teff::engine::Model::open(&model).unwrap();
        let tokenizer = file.tokenizer().unwrap();
        let n = |text: &str| tokenizer.encode(text, Default::default()).unwrap().len();
        let answer = "a quick brown fox";
        let whole = format!("Q: what\nA: {answer}\n");
        assert!(n(&whole) < n("Q: what\nA: ") + n(&format!("{answer}\n")), "nothing merges");
        let chat = serde_json::json!({"messages": [
            {"role": "user", "content": "what"}, {"role": "assistant", "content": answer}]});
        fs::write(&chats, format!("{chat}\n{chat}\n")).unwrap();
        let told = json(&[
            "tune",
            text(&model),
            "-o",
            text(&out),
            "--chats",
            text(&chats),
            "--train",
            "lora",
            "--dry-run",
            "--json",
        ]);
        let common = n("Q: what\nA:");
        assert_eq!(told["predictions"], n(&whole) - common, "{told}");
    }

    /// A question of letters of one half of the alphabet, and its answer: which one.
    fn question(seed: u64) -> (String, &'static str) {
        let drawn = |i: u64| {
            let drawn = crate::fixture_model::weight(seed, "letter", &[3, 1], i);
            (((drawn + 1.0) * 6.5) as u8).min(12)
        };
        let is_first = drawn(0) < 6;
        let first = if is_first { b'a' } else { b'n' };
        let text = (1..6).map(|i| char::from(first + drawn(i))).collect();
        (text, if is_first { "+" } else { "-" })
    }

    /// An adapter learns answers from conversations, and then answers questions that it has not seen.
    #[test]
    fn an_adapter_answers_new_questions() {
        let folder = Folder::new("tune-chats");
        let [chats, asked, out] =
            ["chats.jsonl", "asked.jsonl", "adapter.gguf"].map(|name| folder.file(name));
        let model = talking(
            &folder,
            "{% for m in messages %}{{ '' if loop.first else ' ' }}{{ m.content }}{% endfor %}",
        );
        let chat = |seed| {
            let (question, answer) = question(seed);
            let user = serde_json::json!({"role": "user", "content": question});
            let answer = serde_json::json!({"role": "assistant", "content": answer});
            format!("{}\n", serde_json::json!({"messages": [user, answer]}))
        };
        fs::write(&chats, (0..300).map(chat).collect::<String>()).unwrap();
        let choice = |seed| {
            let (question, answer) = question(seed);
            let (endings, label) = (["+", "-"], usize::from(answer == "-"));
            let asked =
                serde_json::json!({"context": question, "endings": endings, "label": label});
            format!("{asked}\n")
        };
        fs::write(&asked, (1000..1100).map(choice).collect::<String>()).unwrap();
        let told = json(&[
            "tune",
            text(&model),
            "-o",
            text(&out),
            "--chats",
            text(&chats),
            "--train",
            "lora",
            "--steps",
            "60",
            "--batch",
            "8",
            "--lr",
            "0.01",
            "--json",
        ]);
        // All tokens were as likely.
        let [before, after] = ["before", "after"].map(|key| told[key].as_f64().unwrap());
        assert!(before > 2.0 && after < 0.2, "{told}");
        let accuracy = |more: &[&str]| {
            let args = ["perplexity", "-m", text(&model), "--choices", text(&asked), "--json"];
            json(&[&args[..], more].concat())["accuracy"].as_f64().unwrap()
        };
        let (before, after) = (accuracy(&[]), accuracy(&["--lora", text(&out)]));
        assert!(before < 0.7 && after > 0.95, "{before} {after}");
    }

    /// What does not get better is not written, what cannot be tuned is named, and a plan writes nothing.
    #[test]
    fn nothing_is_written_without_a_gain() {
        let folder = Folder::new("tune-none");
        let [teacher, words, student] = student(&folder);
        let out = folder.0.join("out.gguf");
        let base = ["-o", text(&out), "-f", text(&words), "--ctx", "32"];
        // From itself nothing is to be learned: what moves moves away.
        let more = ["--teacher", text(&teacher), "--steps", "2", "--train", "norms", "--json"];
        let tried = teff(&[&["tune", text(&teacher)][..], &base, &more].concat(), "");
        assert!(error_of(&tried).contains("nothing was written"));
        let told: Value = serde_json::from_slice(&tried.stdout).unwrap();
        assert!(told["written"] == false && told["after"].is_null() && !out.exists(), "{told}");
        let planned = json(&[&["tune", text(&student), "--dry-run", "--json"][..], &base].concat());
        assert!(planned["trained"].as_u64().unwrap() > 100 && !out.exists(), "{planned}");
        let floats = [&["tune", text(&teacher), "--train", "scales"][..], &base].concat();
        assert!(error_of(&teff(&floats, "")).contains("nothing to train"));
        let other =
            teff(&[&["tune", text(&student), "--train", "lora,norms"][..], &base].concat(), "");
        assert_eq!(other.status.code(), Some(2));
    }
}
