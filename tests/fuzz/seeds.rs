//! Writes the seed corpora into `corpus`, a folder for each target: `open` gets small valid files of
//! every version and byte order, with every metadata type, several tensor types, and a split model; the
//! others what the program and its tests write and read.

mod common;

// Has what instrumented code calls, so that one build makes seeds and targets.
use libfuzzer_sys as _;

use gguf_rs_lite::{ByteOrder, Error, GgmlType, GgufWriter, OwnedArray, OwnedValue, WriteOptions};
use std::fs;
use std::path::{Path, PathBuf};
use teff::Request;
use teff::eval::{self, Chunks, LogitsWriter, Options};
use teff::quantize::imatrix::{Imatrix, Statistics};

/// Families that have seeds of their own; those that `checkpoint` does not have are others' again.
const FAMILIES: u8 = 14;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let targets: [(&str, fn(&Path) -> Outcome); 12] = [
        ("open", open),
        ("safetensors", safetensors),
        ("checkpoint", checkpoint),
        ("sentencepiece", sentencepiece),
        ("imatrix", imatrix),
        ("logits_file", logits_file),
        ("choices", choices),
        ("answers", answers),
        ("session", session),
        ("grammars", grammars),
        ("templates", templates),
        ("requests", requests),
    ];
    for (target, write) in targets {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        write(&folder)?;
        println!("{} files in {}", fs::read_dir(&folder)?.count(), folder.display());
    }
    Ok(())
}

fn open(folder: &Path) -> Outcome {
    for version in 1..=3 {
        for byte_order in [ByteOrder::Little, ByteOrder::Big] {
            let options = WriteOptions { version, byte_order };
            let name = format!("v{version}-{byte_order}");
            fs::write(folder.join(&name), model(options, &values(), &[])?)?;
            fs::write(folder.join(name + "-tensors"), model(options, &[], &TENSORS)?)?;
        }
    }
    let shards = [shard(0)?, shard(1)?].concat();
    fs::write(folder.join("split"), shards)?;
    Ok(())
}

fn safetensors(folder: &Path) -> Outcome {
    let weights = common::tiny_weights();
    let in_f16 = String::from_utf8_lossy(&weights[8..]).replace("BF16", "F16 ");
    fs::write(folder.join("bf16"), &weights)?;
    let (len, bytes) = weights.split_at(8);
    fs::write(folder.join("f16"), [len, in_f16.as_bytes()].concat())?;
    fs::write(folder.join("cut"), &bytes[..bytes.len() / 2])?;
    Ok(())
}

fn checkpoint(folder: &Path) -> Outcome {
    for family in 0..FAMILIES {
        fs::write(folder.join(format!("{family}-as-it-is")), [family, 0])?;
        // A change to each file, and the files as text.
        let changes: Vec<u8> = (0..5).flat_map(|file| [file, 3 * family, 0, family, 7]).collect();
        fs::write(folder.join(format!("{family}-changed")), [&[family, 2][..], &changes].concat())?;
        fs::write(folder.join(format!("{family}-text")), [family, 1])?;
    }
    for (number, name) in ["deepseek2-lite", "gpt2", "llama-spm", "mamba2"].iter().enumerate() {
        let of_family = common::golden("hf").join(name);
        let mut text = vec![number as u8, 1];
        text.extend(fs::read(of_family.join("config.json"))?);
        fs::write(folder.join(format!("{name}-config")), text)?;
    }
    Ok(())
}

fn sentencepiece(folder: &Path) -> Outcome {
    fs::copy(common::golden("hf/llama-spm/tokenizer.model"), folder.join("llama"))?;
    let piece = |text: &str, ty: u8| {
        let mut bytes = vec![0x0a, text.len() as u8];
        bytes.extend(text.bytes());
        bytes.extend([0x15, 0, 0, 0x80, 0xbf, 0x18, ty]);
        [&[0x0a, bytes.len() as u8][..], &bytes].concat()
    };
    let pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<0x0A>", 6), ("▁a", 1), ("é", 4)];
    for (name, kind) in [("unigram", 1), ("bpe", 2)] {
        let mut bytes: Vec<u8> = pieces.iter().flat_map(|(text, ty)| piece(text, *ty)).collect();
        bytes.extend([0x12, 2, 0x18, kind, 0x1a, 8, 0x12, 4, 0, 0, 0, 0, 0x18, 0]);
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

fn imatrix(folder: &Path) -> Outcome {
    for name in ["dense.gguf", "experts.gguf", "dense.dat"] {
        fs::copy(common::golden("imatrix").join(name), folder.join(name))?;
    }
    let mut small = Imatrix::new(vec!["text".into()], 2, 8);
    small.add("blk.0.attn_q.weight", Statistics::new(vec![1.0, 2.0], vec![16.0])?)?;
    small.add("blk.0.ffn_up_exps.weight", Statistics::new(vec![1.0; 4], vec![3.0, 0.0])?)?;
    let mut bytes = Vec::new();
    small.write_gguf(&mut bytes)?;
    fs::write(folder.join("small.gguf"), bytes)?;
    let mut bytes = Vec::new();
    small.write_dat(&mut bytes)?;
    fs::write(folder.join("small.dat"), bytes)?;
    Ok(())
}

fn logits_file(folder: &Path) -> Outcome {
    let (model, mut engine) = common::tiny_model(8);
    let chunks = Chunks::of_tokens((3..19).collect(), Some(1), 8)?;
    let path: PathBuf = folder.join("whole");
    let mut writer = LogitsWriter::create(&path, &chunks, 290, model.file())?;
    let options = Options { save: Some(&mut writer), ..Options::default() };
    eval::perplexity(&mut engine, &chunks, options)?;
    writer.finish()?;
    let bytes = fs::read(&path)?;
    fs::write(folder.join("header"), &bytes[..40])?;
    Ok(())
}

fn choices(folder: &Path) -> Outcome {
    let lines = [
        r#"{"context": "A", "endings": ["b", "c d"], "label": 1}"#,
        r#"{"ctx": "A man", "endings": ["runs", "sits", "é"], "label": "2"}"#,
        r#"{"contexts": ["A", "B"], "ending": "c", "label": 0}"#,
        r#"{"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "1"}"#,
        r#"{"question": {"stem": "s", "choices": [{"text": "t", "label": "A"},
            {"text": "u", "label": "B"}]}, "answerKey": "B"}"#,
    ];
    for (number, line) in lines.iter().enumerate() {
        fs::write(folder.join(number.to_string()), line.replace('\n', ""))?;
    }
    fs::write(folder.join("all"), lines.map(|line| line.replace('\n', "")).join("\n"))?;
    Ok(())
}

/// An answer for every format: its number, the size of pieces, the text.
fn answers(folder: &Path) -> Outcome {
    let json = "{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}";
    let texts = [
        format!("<think>x</think>y<tool_call>{json}</tool_call>"),
        format!("[TOOL_CALLS][{json}]</s>"),
        "[TOOL_CALLS]now[ARGS]{}".into(),
        format!("<|python_tag|>{json}; {json}"),
        "```tool_code\nadd(a=1, b='x')\n```".into(),
        "<|tool_call>call:set{city:<|\"|>x<|\"|>,tags:[1,{a:true}]}<tool_call|>".into(),
        "<|tool_call_start|>[now(), add(a=1, b=-2)]<|tool_call_end|>".into(),
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{}\n```\
         <｜tool▁call▁end｜><｜tool▁calls▁end｜>"
            .into(),
        "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary \
         to=functions.now <|constrain|>json<|message|>{}<|call|>"
            .into(),
        "<tool_call><function=add><parameter=a>\n1\n</parameter></function></tool_call>".into(),
        "<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>".into(),
        format!("{{\"tool_calls\": [{json}]}}"),
    ];
    for format in 0..32_u8 {
        for (number, text) in texts.iter().enumerate() {
            let bytes = [&[format, number as u8][..], text.as_bytes()].concat();
            fs::write(folder.join(format!("{format}-{number}")), bytes)?;
        }
    }
    Ok(())
}

fn session(folder: &Path) -> Outcome {
    let runner = common::tiny_runner();
    let mut session = runner.session();
    session.save(&folder.join("empty"), b"")?;
    let mut request = Request::new((3..43).collect());
    request.max_tokens = Some(5);
    session.generate(request).for_each(drop);
    session.save(&folder.join("pages"), br#"{"messages": []}"#)?;
    session.save_without_kv(&folder.join("text"), b"{}")?;
    Ok(())
}

fn requests(folder: &Path) -> Outcome {
    for (route, (_, body)) in common::bodies::BODIES.into_iter().enumerate() {
        let route = route as u8;
        fs::write(folder.join(format!("{route}-body")), [&[route, 1], body.as_bytes()].concat())?;
        for node in 0..24_u8 {
            let change = [route, 0, node, 0, node.wrapping_mul(7).wrapping_add(route), node + 1];
            fs::write(folder.join(format!("{route}-{node}")), change)?;
        }
    }
    Ok(())
}

type Tensor = (&'static str, GgmlType, &'static [u64]);

const TENSORS: [Tensor; 4] = [
    ("token_embd.weight", GgmlType::Q8_0, &[32, 2]),
    ("blk.0.attn_norm.weight", GgmlType::F32, &[3]),
    ("blk.0.ffn_up.weight", GgmlType::Q4_K, &[256]),
    ("blk.0.ffn_exps.weight", GgmlType::BF16, &[2, 2, 1, 2]),
];

/// One entry of every type.
fn values() -> Vec<(&'static str, OwnedValue)> {
    let tokens = ["<s>", "", "▁a", "é"].map(str::to_owned).to_vec();
    let nested = OwnedArray::Array(vec![
        OwnedArray::U16(vec![1, 2]),
        OwnedArray::Array(vec![OwnedArray::Str(vec!["x".to_owned()])]),
        OwnedArray::F64(Vec::new()),
    ]);
    vec![
        ("general.architecture", "llama".into()),
        ("general.alignment", 8u32.into()),
        ("tokenizer.ggml.tokens", tokens.into()),
        ("tokenizer.ggml.scores", vec![0.5f32, -1.0].into()),
        ("nested", nested.into()),
        ("flags", vec![true, false].into()),
        ("a", 1u8.into()),
        ("b", (-1i8).into()),
        ("c", 2u16.into()),
        ("d", (-2i16).into()),
        ("e", (-3i32).into()),
        ("f", 0.5f32.into()),
        ("g", true.into()),
        ("h", u64::MAX.into()),
        ("i", i64::MIN.into()),
        ("j", 0.25f64.into()),
    ]
}

fn model(
    options: WriteOptions,
    values: &[(&str, OwnedValue)],
    tensors: &[Tensor],
) -> Result<Vec<u8>, Error> {
    let mut writer = GgufWriter::with_options(Vec::new(), options)?;
    for (key, value) in values {
        writer.add(*key, value.clone())?;
    }
    for (name, ty, dims) in tensors {
        writer.declare(*name, *ty, dims)?;
    }
    let mut data = writer.write_header()?;
    for (_, ty, dims) in tensors {
        let bytes = ty.bytes_of(dims.iter().product()).unwrap_or(0);
        data.write_tensor(&vec![0x5A; bytes as usize])?;
    }
    data.finish()
}

fn shard(no: u16) -> Result<Vec<u8>, Error> {
    let values: [(&str, OwnedValue); 3] = [
        ("split.no", no.into()),
        ("split.count", 2u16.into()),
        ("split.tensors.count", 2i32.into()),
    ];
    let name = ["first.weight", "second.weight"][usize::from(no)];
    model(WriteOptions::default(), &values, &[(name, GgmlType::I8, &[4])])
}

fn templates(folder: &Path) -> Outcome {
    for template in teff::text::BUILTIN_TEMPLATES {
        fs::write(folder.join(template.name), template.source)?;
    }
    let cases = fs::read(common::golden("jinja/cases.json"))?;
    let cases: Vec<(String, Option<String>)> = serde_json::from_slice(&cases)?;
    for (number, (source, _)) in cases.iter().enumerate() {
        fs::write(folder.join(format!("case-{number}")), source)?;
    }
    Ok(())
}

fn grammars(folder: &Path) -> Outcome {
    let cases: serde_json::Value =
        serde_json::from_slice(&fs::read(common::golden("schemas.json"))?)?;
    for (number, case) in cases.as_array().into_iter().flatten().enumerate() {
        fs::write(folder.join(format!("schema-{number}")), format!("\0{}", case["schema"]))?;
    }
    let others = [
        (1, "root ::= \"a\" | \"(\" root \")\" [^\\n-z]{2,3} # x"),
        (1, "root ::= x+ .\nx ::= (\"\\u00e9\" | [a-c])?"),
        (2, "(yes|no)[0-9]{1,3}\\.?"),
        (2, "[^\"\\\\]*\\p{L}+"),
        (3, "start: \"[\" [N (\",\" N)*] \"]\"\nN: /[0-9]+/"),
        (3, "start: %json {\"type\": \"integer\"} | start \"+\""),
    ];
    for (number, (kind, text)) in others.into_iter().enumerate() {
        fs::write(folder.join(format!("{kind}-{number}")), [&[kind], text.as_bytes()].concat())?;
    }
    Ok(())
}
