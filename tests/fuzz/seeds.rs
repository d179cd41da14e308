//! Writes the seed corpus into `corpus/open`: small valid files of every version and byte order,
//! with every metadata type, several tensor types, and a split model.

use std::fs;
use std::path::Path;

use gguf_rs_lite::{ByteOrder, Error, GgmlType, GgufWriter, OwnedArray, OwnedValue, WriteOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/open");
    fs::create_dir_all(&folder)?;
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
    println!("{} files in {}", fs::read_dir(&folder)?.count(), folder.display());
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
