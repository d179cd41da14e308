//! Token ids of whole vocabularies against the reference implementation's.
//!
//! `tests/golden/tokenizers` holds a few vocabularies, compressed; the full set is used where the
//! environment variable `TEFF_FIXTURES` or a sibling folder `shared/fixtures` offers it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use gguf_rs_lite::{GgufFile, GgufWriter, OwnedValue};
use proptest::prelude::*;
use teff::text::{EncodeOptions, TextError, TextStream, Tokenizer};

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
    Tokenizer::from_gguf(&GgufFile::from_bytes(golden_bytes(name)).unwrap()).unwrap()
}

fn golden_bytes(name: &str) -> Vec<u8> {
    let packed = fs::read(golden_folder().join(format!("{name}.gguf.xz"))).unwrap();
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut &packed[..], &mut bytes).unwrap();
    bytes
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

#[test]
fn long_texts_give_the_ids_of_their_sentences() {
    // Far beyond what goes through the pipeline at once; one text has no line breaks.
    for sentence in ["It's 12345 wörlds,  and 石臼.\n", "Once upon a time there was a fox. "] {
        for name in ["llama-spm", "gpt-2", "llama-bpe", "falcon", "deepseek-coder"] {
            let tokenizer = golden(name);
            let ids = |n| tokenizer.encode(&sentence.repeat(n), EncodeOptions::default()).unwrap();
            let (two, three, long) = (ids(2), ids(3), ids(3000));
            let period = three.len() - two.len();
            let from = two.len() - period;
            assert_eq!(long.len(), two.len() + 2998 * period, "{name} {sentence:?}");
            assert_eq!(long[..three.len() - period], three[..three.len() - period]);
            let inside = from..long.len() - 2 * period;
            assert!(inside.clone().all(|at| long[at] == long[at + period]), "{name} {sentence:?}");
            assert_eq!(tokenizer.decode(&long, false), sentence.repeat(3000));
        }
    }
}

fn with_keys(keys: &[(&str, OwnedValue)]) -> Result<Tokenizer, TextError> {
    let mut writer = GgufWriter::new(Vec::new());
    for (key, value) in keys {
        writer.add(*key, value.clone()).unwrap();
    }
    let bytes = writer.write_header().unwrap().finish().unwrap();
    Tokenizer::from_gguf(&GgufFile::from_bytes(bytes).unwrap())
}

fn strings(list: &[&str]) -> OwnedValue {
    list.iter().map(|s| s.to_string()).collect::<Vec<_>>().into()
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

#[test]
fn what_is_unsupported_is_refused_by_name() {
    let refused = |keys: &[(&str, OwnedValue)]| with_keys(keys).unwrap_err().to_string();
    assert_eq!(refused(&[]), "metadata key `tokenizer.ggml.model` is missing");
    assert_eq!(
        refused(&[(MODEL, "rwkv".into())]),
        "unsupported tokenizer model `rwkv` (tokenizer.ggml.model)"
    );
    assert_eq!(
        refused(&[(MODEL, 7u32.into())]),
        "metadata key `tokenizer.ggml.model` must be a string"
    );
    let gpt2 = |pre: &str, tokens: &[&str]| {
        let keys = [(MODEL, "gpt2".into()), (PRE, pre.into()), (TOKENS, strings(tokens))];
        with_keys(&keys).unwrap_err().to_string()
    };
    assert_eq!(gpt2("gpt-5", &["a"]), "unknown pre-tokenizer `gpt-5` (tokenizer.ggml.pre)");
    assert_eq!(gpt2("gpt-2", &["a"]), "metadata key `tokenizer.ggml.merges` is missing");
    assert_eq!(
        gpt2("gpt-2", &["b", "a", "a"]),
        r#"tokenizer.ggml.tokens: ids 1 and 2 are both "a""#
    );
    assert_eq!(
        refused(&[(MODEL, "llama".into()), (TOKENS, vec![1u32, 2].into())]),
        "metadata key `tokenizer.ggml.tokens` must be an array of strings"
    );
    let scores = "tokenizer.ggml.scores";
    assert_eq!(
        refused(&[
            (MODEL, "llama".into()),
            (TOKENS, strings(&["a", "b"])),
            (scores, vec![1.0f32].into())
        ]),
        "metadata key `tokenizer.ggml.scores` must be an array of 2 numbers, one per token"
    );
}

#[test]
fn old_files_without_a_pre_tokenizer_warn() {
    let tokenizer = with_keys(&[
        (MODEL, "gpt2".into()),
        (TOKENS, strings(&["a", "b", "ab"])),
        (MERGES, strings(&["a b"])),
        ("tokenizer.ggml.bos_token_id", 99u32.into()),
    ])
    .unwrap();
    assert_eq!(tokenizer.encode("abb", EncodeOptions::default()).unwrap(), [2, 1]);
    let [bos, pre] = tokenizer.warnings() else { panic!("{:?}", tokenizer.warnings()) };
    assert!(bos.contains("bos_token_id") && pre.contains(PRE), "{bos} {pre}");
    assert_eq!((tokenizer.bos(), tokenizer.end_of_generation()), (None, &[][..]));
}

#[test]
fn characters_without_a_token_fall_back_to_bytes_or_unknown() {
    let spm = |tokens: &[&str]| {
        with_keys(&[
            (MODEL, "llama".into()),
            (TOKENS, strings(tokens)),
            ("tokenizer.ggml.add_space_prefix", false.into()),
        ])
        .unwrap()
    };
    let plain = EncodeOptions::default();
    let bytes = spm(&["<unk>", "a", "<0xC3>", "<0xA9>"]);
    assert_eq!(bytes.encode("aé", plain).unwrap(), [1, 2, 3]);
    assert_eq!(bytes.encode("aü", plain).unwrap(), [1, 0]);
    let key = ("tokenizer.ggml.unknown_token_id", 7u32.into());
    let none = with_keys(&[(MODEL, "llama".into()), (TOKENS, strings(&["a"])), key]).unwrap();
    let error = none.encode("é", plain).unwrap_err();
    assert_eq!(error, TextError::Unencodable { character: '▁' });
}

#[test]
fn files_without_vocabulary_have_a_size_only() {
    let tokenizer = with_keys(&[
        (MODEL, "none".into()),
        ("general.architecture", "llama".into()),
        ("llama.vocab_size", 320u32.into()),
    ])
    .unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos()), (320, None));
    assert_eq!(tokenizer.encode("a", EncodeOptions::default()), Err(TextError::NoVocabulary));
    assert_eq!(tokenizer.decode(&[1, 2], true), "");
}

#[test]
fn damaged_vocabularies_never_panic() {
    let mut rng = teff::sample::rng::Rng::new(1);
    for name in ["llama-spm", "gpt-2"] {
        let whole = golden_bytes(name);
        let mut loaded = 0;
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..1 + rng.next_u64() % 4 {
                let at = rng.next_u64() as usize % bytes.len();
                bytes[at] ^= 1 << (rng.next_u64() % 8);
            }
            let Ok(file) = GgufFile::from_bytes(bytes) else { continue };
            let Ok(tokenizer) = Tokenizer::from_gguf(&file) else { continue };
            loaded += 1;
            if let Ok(ids) = tokenizer.encode("<s> Hello\n\n  wörld 123 🦙", PARSE) {
                tokenizer.decode(&ids, true);
            }
        }
        assert!(loaded > 0, "{name}: no damaged file got as far as the tokenizer");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_comes_back(texts in proptest::collection::vec("\\PC*|[ \\n\\ta-z0-9']*", 4)) {
        static TOKENIZERS: LazyLock<[Tokenizer; 2]> =
            LazyLock::new(|| ["llama-spm", "gpt-2"].map(golden));
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
