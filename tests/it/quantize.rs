//! Quantizing: the types of the named mixes, and the program from file to file.

use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter};
use serde_json::Value;
use teff::quantize::mix::{Facts, Mix, Shape, Wishes, choose};

/// The choices that `llama-quantize` prints, for models of `tests/golden/mixes.json.xz`: to each mix a
/// letter per tensor, and what letters mean.
#[test]
fn mixes_choose_the_reference_types() {
    let golden = crate::tokenizers::unpacked("mixes.json.xz");
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let mut compared = 0;
    for (model, value) in golden["models"].as_object().unwrap() {
        let architecture = value["architecture"].as_str().unwrap();
        let facts = Facts::of(&metadata_of(architecture, &value["metadata"])).unwrap();
        let tensors: Vec<(&str, Vec<u64>)> = value["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tensor| {
                let dims = tensor[1].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
                (tensor[0].as_str().unwrap(), dims.collect())
            })
            .collect();
        let shapes: Vec<Shape<'_>> =
            tensors.iter().map(|(name, dims)| Shape { name, dims, ty: GgmlType::F32 }).collect();
        for (mix, letters) in value["types"].as_object().unwrap() {
            let name = mix.strip_suffix("+imatrix").unwrap_or(mix);
            let has_imatrix = name != mix;
            let chosen = choose(
                Mix::from_name(name).unwrap(),
                &facts,
                has_imatrix,
                &Wishes::default(),
                &shapes,
            )
            .unwrap();
            let letters = letters.as_str().unwrap();
            assert_eq!(letters.len(), chosen.len());
            for ((choice, letter), shape) in chosen.iter().zip(letters.chars()).zip(&shapes) {
                let expected = golden["letters"][letter.to_string()].as_str().unwrap();
                assert_eq!(choice.ty.name(), expected, "{model}, {mix}, {}", shape.name);
                compared += 1;
            }
            // What no choice of the reference's depends on.
            if value["types"].get(format!("{mix}+imatrix")).is_none() {
                let other = choose(
                    Mix::from_name(name).unwrap(),
                    &facts,
                    true,
                    &Wishes::default(),
                    &shapes,
                );
                assert_eq!(other.unwrap(), chosen, "{model}, {mix}");
            }
        }
    }
    assert_eq!(compared, 155_665, "choices");
}

/// A file of metadata alone.
fn metadata_of(architecture: &str, metadata: &Value) -> GgufFile {
    let mut writer = GgufWriter::new(Vec::new());
    writer.add("general.architecture", architecture).unwrap();
    for (key, value) in metadata.as_object().unwrap() {
        let key = format!("{architecture}.{key}");
        let number = |value: &Value| value.as_u64().unwrap() as u32;
        match value.as_array() {
            Some(values) => writer.add(key, values.iter().map(number).collect::<Vec<u32>>()),
            None => writer.add(key, number(value)),
        }
        .unwrap();
    }
    GgufFile::from_bytes(writer.write_header().unwrap().finish().unwrap()).unwrap()
}

#[cfg(feature = "cli")]
mod program {
    use super::*;
    use crate::cli::{error_of, program, teff, text};
    use crate::fixture_model::{load, weight};
    use crate::folder::Folder;
    use crate::measure::nmse_max;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::time::Duration;
    use teff::quantize::imatrix::{Imatrix, Statistics};

    /// A model of three layers in F32, 256 columns wide and 384 in its feed-forward parts.
    fn model(folder: &Folder, name: &str) -> PathBuf {
        let path = folder.0.join(format!("{name}.gguf"));
        fs::write(&path, load(name).gguf).unwrap();
        path
    }

    /// Importances of every matrix of a file.
    fn imatrix(folder: &Folder, model: &Path) -> PathBuf {
        let file = GgufFile::open(model).unwrap();
        let mut imatrix = Imatrix::new(vec!["text.txt".into()], 2, 64);
        for tensor in file.tensors().iter().filter(|t| t.dims.len() > 1) {
            let matrices = tensor.dims.iter().skip(2).product::<u64>() as usize;
            let n = tensor.cols() as usize * matrices;
            let sums = (0..n).map(|i| weight(3, &tensor.name, &[3], i as u64).powi(2) * 64.0);
            let statistics = Statistics::new(sums.collect(), vec![64.0; matrices]).unwrap();
            imatrix.add(&tensor.name, statistics).unwrap();
        }
        let path = folder.0.join("model.imatrix.gguf");
        imatrix.write_gguf(fs::File::create(&path).unwrap()).unwrap();
        path
    }

    fn quantize(args: &[&str]) -> std::process::Output {
        teff(&[&["quantize"], args].concat(), "")
    }

    fn ok(args: &[&str]) -> (String, String) {
        let output = quantize(args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {told}");
        (String::from_utf8(output.stdout).unwrap(), told)
    }

    #[test]
    fn the_bytes_do_not_depend_on_threads_and_sizes_are_as_told() {
        let folder = Folder::new("quantize-threads");
        let models = ["llama-dense", "llama-moe"].map(|name| {
            let path = model(&folder, name);
            let importances = imatrix(&folder, &path);
            let own = folder.0.join(format!("{name}.imatrix"));
            fs::rename(importances, &own).unwrap();
            (path, own)
        });
        let dense = ["Q3_K_S", "Q8_0", "IQ4_XS", "IQ1_S", "IQ2_XS", "IQ3_M", "TQ1_0", "F16"];
        let mixes = dense.map(|mix| (&models[0], mix)).into_iter();
        for ((input, importances), mix) in mixes.chain([(&models[1], "Q4_K_M")]) {
            let mut all = Vec::new();
            for threads in ["1", "2", "3"] {
                let out = folder.0.join(format!("{mix}-{threads}.gguf"));
                let args = [text(input), text(&out), "--type", mix, "-t", threads];
                ok(&[&args[..], &["--imatrix", text(importances)]].concat());
                all.push(fs::read(&out).unwrap());
            }
            assert!(all[0] == all[1] && all[1] == all[2], "{mix}");
            let out = folder.0.join("none.gguf");
            let args = [text(input), text(&out), "--type", mix, "--dry-run", "--json"];
            let args = [&args[..], &["--imatrix", text(importances)]].concat();
            let plan: Value = serde_json::from_str(&ok(&args).0).unwrap();
            assert!(!out.exists());
            let file = GgufFile::from_bytes(all.remove(0)).unwrap();
            let bytes: u64 = file.tensors().iter().map(|tensor| tensor.bytes).sum();
            assert_eq!(plan["bytes"].as_u64(), Some(bytes), "{mix}");
            for (tensor, planned) in file.tensors().iter().zip(plan["tensors"].as_array().unwrap())
            {
                assert_eq!(tensor.ty.name(), planned["type"], "{mix}, {}", tensor.name);
            }
        }
    }

    #[test]
    fn metadata_stays_and_tells_of_the_types() {
        let folder = Folder::new("quantize-metadata");
        let input = model(&folder, "llama-dense");
        let importances = imatrix(&folder, &input);
        let out = folder.0.join("out.gguf");
        let args = [text(&input), text(&out), "--type", "q4_k"];
        ok(&[&args[..], &["--imatrix", text(&importances)]].concat());
        let (before, after) = (GgufFile::open(&input).unwrap(), GgufFile::open(&out).unwrap());
        let keys = |file: &GgufFile| -> Vec<String> {
            let own = file.entries().filter(|(key, _)| !key.starts_with("teff.receipt."));
            own.map(|(key, value)| format!("{key} {value:?}")).collect()
        };
        let (before, keys) = (keys(&before), keys(&after));
        assert_eq!(keys[..before.len()], before, "all of it in its order");
        let added = [
            "general.quantization_version U32(2)".to_string(),
            "general.file_type U32(15)".to_string(),
            format!("quantize.imatrix.file Str({:?})", text(&importances)),
            "quantize.imatrix.dataset Str(\"text.txt\")".to_string(),
            "quantize.imatrix.entries_count U32(23)".to_string(),
            "quantize.imatrix.chunks_count U32(2)".to_string(),
        ];
        assert_eq!(keys[before.len()..].len(), added.len(), "{:?}", &keys[before.len()..]);
        for (key, expected) in keys[before.len()..].iter().zip(added) {
            let cut = |text: &str| text.chars().take(100).collect::<String>();
            assert_eq!(cut(key), cut(&expected));
        }
        // Again, as they are: every byte.
        let copy = folder.0.join("copy.gguf");
        let (_, told) = ok(&[text(&out), text(&copy), "--type", "COPY"]);
        assert_eq!(told, "");
        assert!(fs::read(&out).unwrap() == fs::read(&copy).unwrap());
        // All but what is wanted otherwise.
        let wish = ["--type", "COPY", "--tensor-type", "ffn_up.weight=Q8_0", "--allow-requantize"];
        ok(&[&[text(&out), text(&copy)], &wish[..]].concat());
        let copy = GgufFile::open(&copy).unwrap();
        for (old, new) in after.tensors().iter().zip(copy.tensors()) {
            let ty = if old.name.ends_with("ffn_up.weight") { GgmlType::Q8_0 } else { old.ty };
            assert_eq!((&new.name, new.ty), (&old.name, ty));
        }
    }

    #[test]
    fn quantized_models_run_and_come_near() {
        let folder = Folder::new("quantize-runs");
        let input = model(&folder, "llama-dense");
        let fixture = load("llama-dense");
        let tokens: Vec<String> = fixture.tokens.iter().map(u32::to_string).collect();
        for (mix, method, bar) in [
            ("F16", "search", 1e-5),
            ("Q8_0", "search", 2e-3),
            ("Q8_0", "rtn", 2e-3),
            ("Q6_K", "search", 1e-2),
            ("Q4_K_M", "search", 5e-2),
            ("Q4_K_M", "rtn", 1e-1),
            ("Q4_K_M", "hqq", 1e-1),
            ("IQ3_S", "search", 3e-1),
        ] {
            let out = folder.0.join("out.gguf");
            let args = [text(&input), text(&out), "--type", mix, "--method", method, "--json"];
            let report: Value = serde_json::from_str(&ok(&args).0).unwrap();
            let losses = report["tensors"].as_array().unwrap();
            assert!(losses.iter().any(|t| t["rms_error"].as_f64().is_some_and(|e| e > 0.0)));
            let logits = folder.0.join("out.f32");
            let output = teff(
                &["logits", "-m", text(&out), "--tokens", &tokens.join(","), "-o", text(&logits)],
                "",
            );
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let logits: Vec<f32> = fs::read(&logits)
                .unwrap()
                .as_chunks()
                .0
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect();
            let nmse = nmse_max(&logits, &fixture.logits, fixture.n_vocab);
            assert!(nmse < bar, "{mix}, {method}: {nmse}");
        }
    }

    #[test]
    fn wishes_come_before_the_mix() {
        let folder = Folder::new("quantize-wishes");
        let input = model(&folder, "llama-dense");
        let types = |args: &[&str]| -> Vec<(String, String)> {
            let base = [text(&input), "out", "--dry-run", "--json", "--type", "Q4_K_M"];
            let plan: Value = serde_json::from_str(&ok(&[&base[..], args].concat()).0).unwrap();
            let own = |value: &Value| value.as_str().unwrap().to_string();
            let tensors = plan["tensors"].as_array().unwrap().iter();
            tensors.map(|t| (own(&t["name"]), own(&t["type"]))).collect()
        };
        let ty = |types: &[(String, String)], name: &str| {
            types.iter().find(|(own, _)| own == name).unwrap().1.clone()
        };
        let plain = types(&[]);
        assert_eq!(ty(&plain, "output.weight"), "Q6_K");
        assert_eq!(ty(&plain, "blk.1.attn_q.weight"), "Q4_K");
        let wished = types(&[
            "--tensor-type",
            r"blk\.1\.attn_.=Q8_0",
            "--tensor-type",
            "attn_q=q5_k",
            "--output-tensor-type",
            "F16",
            "--token-embedding-type",
            "Q5_0",
        ]);
        assert_eq!(ty(&wished, "blk.1.attn_q.weight"), "Q8_0");
        assert_eq!(ty(&wished, "blk.2.attn_q.weight"), "Q5_K");
        assert_eq!(ty(&wished, "output.weight"), "F16");
        assert_eq!(ty(&wished, "token_embd.weight"), "Q5_0");
        assert_eq!(ty(&types(&["--leave-output-tensor"]), "output.weight"), "F32");
        let pure = types(&["--pure"]);
        assert_eq!(ty(&pure, "output.weight"), "Q4_K");
        assert_eq!(ty(&pure, "blk.0.ffn_down.weight"), "Q5_0", "rows of 384");
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let folder = Folder::new("quantize-errors");
        let input = model(&folder, "llama-dense");
        let out = folder.0.join("out.gguf");
        let fails = |args: &[&str], code: i32, parts: &[&str]| {
            let output = quantize(args);
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
            // Behind progress, if there was any; wrong usage is told in several lines.
            let last = told.lines().last().unwrap_or_default();
            let error = if code == 2 { &told[..] } else { last };
            assert!(error.starts_with("error: "), "{args:?}: {told}");
            for part in parts {
                assert!(error.contains(part), "{args:?}: {error}");
            }
            assert!(!out.exists() && !folder.0.join("out.gguf.teff-part").exists(), "{args:?}");
        };
        let (i, o) = (text(&input), text(&out));
        fails(&[i, i, "--type", "Q4_0"], 1, &["is the input too"]);
        let linked = folder.0.join("linked.gguf");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&input, &linked).unwrap();
            fails(&[i, text(&linked), "--type", "Q4_0"], 1, &["is the input too"]);
        }
        let low = ["blk.0.attn_q.weight", "IQ2_XXS", "--imatrix", "--force"];
        fails(&[i, o, "--type", "IQ2_XXS", "--pure"], 1, &low);
        // A dry run says what the run would.
        fails(&[i, o, "--type", "IQ2_XXS", "--pure", "--dry-run"], 1, &low);
        let idle = ["--tensor-type", r"blk\.9\.=Q8_0"];
        for more in
            [&["--type", "Q4_0"][..], &["--type", "Q4_0", "--dry-run"], &["--target-bpw", "5"]]
        {
            fails(
                &[&[i, o], more, &idle].concat(),
                1,
                &[r"blk\\.9\\.", "no tensor", "--tensor-type"],
            );
        }
        fails(&[i, o], 2, &["--type", "--target-size", "--target-bpw"]);
        fails(&[i, "new/", "--type", "Q4_0"], 1, &["new/: names a folder"]);
        fails(&[i, o, "--target-bpw", "0.6"], 1, &["are too few", "--imatrix"]);
        fails(&[i, o, "--type", "Q9_K"], 2, &["Q9_K", "Q4_K_M"]);
        fails(&[i, o, "--type", "Q4_0", "--method", "none"], 2, &["gptq", "search, rtn, hqq"]);
        fails(
            &[i, o, "--type", "Q4_0", "--tensor-type", "a(=Q4_0"],
            2,
            &["a(", "regular expression"],
        );
        fails(&[i, "/no/such/folder/x.gguf", "--type", "Q4_0"], 1, &["/no/such/folder: there"]);
        fails(&[i, o, "--type", "Q4_0", "--imatrix", i], 1, &[i, "not an importance matrix"]);
        // Importances of another model.
        let mut foreign = Imatrix::new(vec![], 1, 64);
        let statistics = Statistics::new(vec![1.0; 128], vec![64.0]).unwrap();
        foreign.add("blk.0.attn_q.weight", statistics).unwrap();
        let path = folder.0.join("foreign.gguf");
        foreign.write_gguf(fs::File::create(&path).unwrap()).unwrap();
        let parts = ["blk.0.attn_q.weight", "128 columns"];
        fails(&[i, o, "--type", "Q4_K_M", "--imatrix", text(&path)], 1, &parts);
        let mut stranger = Imatrix::new(vec![], 1, 64);
        stranger.add("h.0.weight", Statistics::new(vec![1.0], vec![1.0]).unwrap()).unwrap();
        stranger.write_gguf(fs::File::create(&path).unwrap()).unwrap();
        let parts = ["nothing for tensor", "another model's", "--force"];
        fails(&[i, o, "--type", "Q4_K_M", "--imatrix", text(&path)], 1, &parts);
        fs::write(&path, "no matrix at all").unwrap();
        let parts = [text(&path), "not an importance matrix"];
        fails(&[i, o, "--type", "Q4_K_M", "--imatrix", text(&path)], 1, &parts);
        // A weight that is NaN, and one that is infinite, wherever they are.
        for (name, bad) in
            [("blk.2.ffn_up.weight", f32::NAN), ("output_norm.weight", f32::INFINITY)]
        {
            let mut bytes = fs::read(&input).unwrap();
            let file = GgufFile::open(&input).unwrap();
            let tensor = file.tensor(name).unwrap();
            let at = tensor.offset as usize + 4 * 5;
            bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
            let path = folder.0.join("bad.gguf");
            fs::write(&path, bytes).unwrap();
            fails(&[text(&path), o, "--type", "Q4_0"], 1, &[name, "row 0, column 5"]);
        }
    }

    /// A mix for experts says what it gives a model without any.
    #[test]
    fn mixes_for_experts_tell_what_others_get() {
        let folder = Folder::new("quantize-experts");
        let told = |name: &str| {
            let input = model(&folder, name);
            ok(&[text(&input), "out", "--type", "MXFP4", "--dry-run"]).1
        };
        let dense = told("llama-dense");
        let line =
            "mix MXFP4_MOE has MXFP4 for experts only, of which there are none: 23 tensors Q8_0";
        assert!(dense.contains(line), "{dense}");
        let experts = told("llama-moe");
        assert!(!experts.contains("for experts only"), "{experts}");
    }

    #[test]
    fn quantizing_twice_is_told() {
        let folder = Folder::new("quantize-again");
        let input = model(&folder, "llama-dense");
        let (first, second) = (folder.0.join("first.gguf"), folder.0.join("second.gguf"));
        ok(&[text(&input), text(&first), "--type", "Q8_0"]);
        let args = [text(&first), text(&second), "--type", "Q4_K_M"];
        let (_, told) = ok(&args);
        assert!(told.contains("quantized before (to Q8_0)"), "{told}");
        let (_, told) = ok(&[&args[..], &["--allow-requantize"]].concat());
        assert!(!told.contains("before"), "{told}");
        let (_, told) = ok(&[&args[..], &["--method", "hqq", "--dry-run"]].concat());
        assert!(told.contains("method hqq has no way to") && told.contains("search"), "{told}");
    }

    #[test]
    fn splits_are_joined_or_kept() {
        let folder = Folder::new("quantize-split");
        let whole = GgufFile::from_bytes(load("llama-dense").gguf).unwrap();
        let n = whole.tensors().len();
        let inputs: Vec<PathBuf> =
            (1..=2).map(|i| folder.0.join(format!("m-{i:05}-of-00002.gguf"))).collect();
        for (no, path) in inputs.iter().enumerate() {
            let mut writer = GgufWriter::new(fs::File::create(path).unwrap());
            if no == 0 {
                for (key, value) in whole.entries() {
                    writer.add(key, value).unwrap();
                }
            }
            writer.add("split.no", no as u16).unwrap();
            writer.add("split.count", 2u16).unwrap();
            writer.add("split.tensors.count", n as i32).unwrap();
            let own = || whole.tensors().iter().enumerate().filter(|(i, _)| i * 2 / n == no);
            for (_, tensor) in own() {
                writer.declare(&tensor.name[..], tensor.ty, &tensor.dims).unwrap();
            }
            let mut data = writer.write_header().unwrap();
            own().for_each(|(_, tensor)| data.write_tensor(whole.data(tensor)).unwrap());
            data.finish().unwrap();
        }
        let (joined, kept) = (folder.0.join("joined.gguf"), folder.0.join("kept.gguf"));
        ok(&[text(&inputs[0]), text(&joined), "--type", "Q4_K_M"]);
        ok(&[text(&inputs[0]), text(&kept), "--type", "Q4_K_M", "--keep-split"]);
        let joined = GgufFile::open(&joined).unwrap();
        let kept = GgufFile::open(folder.0.join("kept-00001-of-00002.gguf")).unwrap();
        assert_eq!((joined.shard_count(), kept.shard_count()), (1, 2));
        assert!(joined.get("split.count").is_none());
        assert_eq!(joined.tensors().len(), kept.tensors().len());
        for (a, b) in joined.tensors().iter().zip(kept.tensors()) {
            assert_eq!((&a.name, a.ty), (&b.name, b.ty));
            assert!(joined.data(a) == kept.data(b), "{}", a.name);
        }
        let error = error_of(
            &quantize(&[
                text(&inputs[0]),
                text(&folder.0.join("m.gguf")),
                "--type",
                "Q4_0",
                "--keep-split",
            ]),
            1,
        );
        assert!(error.contains("is the input too"), "{error}");
    }

    /// Ctrl-C and a kill at several moments: the old file stays, and nothing half-made has its name.
    #[test]
    fn a_kill_leaves_nothing_under_the_name() {
        let folder = Folder::new("quantize-kill");
        let path = folder.0.join("large.gguf");
        let rows = 40_000u64;
        let mut writer = GgufWriter::new(fs::File::create(&path).unwrap());
        writer.add("general.architecture", "llama").unwrap();
        writer.add("llama.block_count", 1u32).unwrap();
        writer.declare("blk.0.ffn_up.weight", GgmlType::F32, &[256, rows]).unwrap();
        let mut data = writer.write_header().unwrap();
        let row: Vec<u8> =
            (0..256).flat_map(|i| weight(1, "large", &[256, 2], i).to_le_bytes()).collect();
        (0..rows).for_each(|_| data.write_chunk(&row).unwrap());
        data.finish().unwrap();
        let out = folder.0.join("out.gguf");
        let part = folder.0.join("out.gguf.teff-part");
        fs::write(&out, b"old").unwrap();
        let mut came_in_time = 0;
        for (signal, wait_ms) in [("INT", 60), ("INT", 300), ("KILL", 60), ("KILL", 300)] {
            let args = ["quantize", text(&path), text(&out), "--type", "Q3_K_S", "--pure"];
            let mut child = program()
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(wait_ms));
            let pid = child.id().to_string();
            let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status();
            let status = child.wait().unwrap();
            if status.success() {
                // A fast machine was done; what it wrote is whole.
                assert_eq!(GgufFile::open(&out).unwrap().tensors().len(), 1);
                fs::write(&out, b"old").unwrap();
                continue;
            }
            came_in_time += 1;
            assert_eq!(fs::read(&out).unwrap(), b"old", "{signal} after {wait_ms} ms");
            if signal == "INT" {
                assert_eq!(status.code(), Some(130));
                assert!(!part.exists(), "{signal} after {wait_ms} ms");
            }
        }
        assert!(came_in_time > 0);
        // What a kill left does not stand in the way.
        fs::write(&part, vec![1; 100_000]).unwrap();
        ok(&[text(&path), text(&out), "--type", "F16"]);
        assert_eq!(GgufFile::open(&out).unwrap().tensors()[0].bytes, 256 * rows * 2);
        assert!(!part.exists());
    }
}
