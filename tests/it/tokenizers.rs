//! Token ids of whole vocabularies against the reference implementation's.
//!
//! `tests/golden/tokenizers` holds a few vocabularies, compressed; the full set is used where the
//! environment variable `TEFF_FIXTURES` or a sibling folder `shared/fixtures` offers it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use gguf_rs_lite::GgufFile;
use proptest::prelude::*;
use teff::text::{EncodeOptions, TextStream, Tokenizer};

/// Separates the texts of an `.inp` file.
const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

struct Case {
    text: String,
    ids: Vec<u32>,
}

fn cases(vocabulary: &Path) -> Vec<Case> {
    let read = |extension: &str| {
        let mut path = vocabulary.as_os_str().to_owned();
        path.push(extension);
        fs::read_to_string(path).unwrap()
    };
    let (texts, ids) = (read(".inp"), read(".out"));
    let texts: Vec<_> = texts.split(SEPARATOR).collect();
    // The reference's reader drops the one line break at the end of a file.
    let ids: Vec<_> = ids.lines().collect();
    assert_eq!(texts.len(), ids.len() + usize::from(texts.last() == Some(&"")), "{vocabulary:?}");
    let parse = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let pairs = texts.into_iter().zip(ids);
    pairs.map(|(text, line)| Case { text: text.to_owned(), ids: parse(line) }).collect()
}

/// Texts that cannot come back: what the vocabulary's own rules change.
fn loses_information(tokenizer: &Tokenizer, text: &str) -> bool {
    // SentencePiece spells a space "▁", so that character itself reads back as a space.
    tokenizer.token_id("▁").is_some() && text.contains('▁')
}

fn check(tokenizer: &Tokenizer, expected: &Path) {
    assert_eq!(tokenizer.warnings(), [""; 0], "{expected:?}");
    for case in cases(expected) {
        let ids = tokenizer.encode(&case.text, EncodeOptions::default()).unwrap();
        assert_eq!(ids, case.ids, "{expected:?}: {:?}", case.text);
        if !loses_information(tokenizer, &case.text) {
            assert_eq!(tokenizer.decode(&ids, false), case.text, "{expected:?}");
        }
    }
}

/// The folder of the full fixtures, where there is one.
pub fn fixtures(subject: &str) -> Option<PathBuf> {
    let sibling = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    let folder = std::env::var_os("TEFF_FIXTURES").map_or(sibling, PathBuf::from);
    let folder = folder.join(subject);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {} does not exist", folder.display());
    None
}

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers")
}

/// A committed vocabulary.
fn golden(name: &str) -> Tokenizer {
    let packed = fs::read(golden_folder().join(format!("{name}.gguf.xz"))).unwrap();
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut &packed[..], &mut bytes).unwrap();
    Tokenizer::from_gguf(&GgufFile::from_bytes(bytes).unwrap()).unwrap()
}

#[test]
fn committed_vocabularies_give_the_reference_ids() {
    for name in ["llama-spm", "phi-3", "gpt-2", "llama-bpe", "falcon", "deepseek-coder"] {
        check(&golden(name), &golden_folder().join(format!("{name}.gguf")));
    }
}

#[test]
fn full_fixtures_give_the_reference_ids() {
    let Some(folder) = fixtures("tokenizers") else { return };
    for name in [
        "llama-spm",
        "phi-3",
        "gpt-2",
        "llama-bpe",
        "qwen2",
        "falcon",
        "deepseek-coder",
        "command-r",
        "gemma-4",
    ] {
        let vocabulary = folder.join(format!("{name}.gguf"));
        let file = GgufFile::open(&vocabulary).unwrap();
        check(&Tokenizer::from_gguf(&file).unwrap(), &vocabulary);
    }
}

const PARSE: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const ADD: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };

#[test]
fn special_tokens_are_parsed_only_when_asked() {
    let tokenizer = golden("llama-spm");
    let (bos, eos) = (tokenizer.bos().unwrap(), tokenizer.eos().unwrap());
    let ids = tokenizer.encode("<s>hi</s>", PARSE).unwrap();
    assert_eq!((ids[0], *ids.last().unwrap(), ids.len()), (bos, eos, 3));
    assert_eq!(tokenizer.decode(&ids, true), "<s>hi</s>");
    assert_eq!(tokenizer.decode(&ids, false), "hi");
    let literal = tokenizer.encode("<s>hi</s>", EncodeOptions::default()).unwrap();
    assert!(!literal.contains(&bos) && !literal.contains(&eos));
    assert_eq!(tokenizer.decode(&literal, false), "<s>hi</s>");
    assert_eq!(tokenizer.encode("", ADD).unwrap(), [bos]);
    assert!(tokenizer.is_end_of_generation(eos) && !tokenizer.is_end_of_generation(bos));
}

#[test]
fn phi3_swallows_white_space_behind_its_special_tokens() {
    let tokenizer = golden("phi-3");
    let user = tokenizer.token_id("<|user|>").unwrap();
    let loose = tokenizer.encode("<|user|> \n hi", PARSE).unwrap();
    assert_eq!(loose, tokenizer.encode("<|user|>hi", PARSE).unwrap());
    assert_eq!(loose[0], user);
    let end = tokenizer.token_id("<|end|>").unwrap();
    assert!(tokenizer.is_end_of_generation(end));
}

#[test]
fn byte_level_specials_and_bos() {
    let tokenizer = golden("llama-bpe");
    let text = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>";
    let ids = tokenizer.encode(text, EncodeOptions { add_special: true, ..PARSE }).unwrap();
    assert_eq!(ids, [128_000, 128_006, 882, 128_007, 271, 13_347, 128_009]);
    assert_eq!(tokenizer.decode(&ids[1..], true), text);
    assert_eq!(tokenizer.decode(&ids, false), "user\n\nHi");
    assert_eq!(tokenizer.end_of_generation(), [128_001, 128_009]);
}

#[test]
fn streams_hold_back_incomplete_characters() {
    let tokenizer = Arc::new(golden("gpt-2"));
    let text = "naïve 🦙🦙 石臼";
    let ids = tokenizer.encode(text, EncodeOptions::default()).unwrap();
    let mut stream = TextStream::new(tokenizer.clone());
    let parts: Vec<_> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(parts.concat(), text);
    assert!(parts.iter().any(String::is_empty), "no token was part of a character");
    assert_eq!(stream.finish(), "");
}

#[test]
fn long_inputs_take_no_quadratic_time() {
    // 300 kB each; quadratic would be 10^11 steps.
    for name in ["llama-spm", "gpt-2"] {
        let tokenizer = golden(name);
        for unit in ["a", "ab", " ", "\n", "1", "<s>", "日本", "the quick "] {
            let text = unit.repeat(300_000 / unit.len());
            let ids = tokenizer.encode(&text, PARSE).unwrap();
            assert_eq!(tokenizer.decode(&ids, true).len(), text.len(), "{name} {unit:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_comes_back(texts in proptest::collection::vec("\\PC*|[ \\n\\ta-z0-9']*", 4)) {
        static TOKENIZERS: LazyLock<[Tokenizer; 2]> =
            LazyLock::new(|| ["llama-spm", "gpt-2"].map(|name| golden(name)));
        for tokenizer in &*TOKENIZERS {
            for text in &texts {
                let ids = tokenizer.encode(text, EncodeOptions::default()).unwrap();
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                if !loses_information(tokenizer, text) {
                    prop_assert_eq!(&tokenizer.decode(&ids, false), text);
                }
            }
        }
    }
}
