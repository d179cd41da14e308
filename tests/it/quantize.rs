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
