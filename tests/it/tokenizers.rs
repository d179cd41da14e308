//! Token ids of whole vocabularies against the reference implementation's.
//!
//! `tests/golden/tokenizers` holds vocabularies, compressed; those that are too large for it are tested
//! where the environment variable `TEFF_FIXTURES` names a folder that has them: see `require.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use gguf_rs_lite::{GgufFile, GgufWriter, OwnedValue};
use proptest::prelude::*;
use teff::text::{EncodeOptions, TextError, TextStream, Tokenizer};

use crate::require::fixtures;

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

/// Vocabularies whose texts are cleaned first: case, accents, spaces, compatibility characters.
const LOSSY: [&str; 2] = ["bert-bge.gguf", "nomic-bert-moe.gguf"];

fn check(tokenizer: &Tokenizer, expected: &Path) {
    let lossy = LOSSY.iter().any(|name| expected.ends_with(name));
    assert_eq!(tokenizer.warnings(), [""; 0], "{expected:?}");
    for case in cases(expected) {
        let ids = tokenizer.encode(&case.text, EncodeOptions::default()).unwrap();
        assert_eq!(ids, case.ids, "{expected:?}: {:?}", case.text);
        if !lossy && !loses_information(tokenizer, &case.text) {
            assert_eq!(tokenizer.decode(&ids, false), case.text, "{expected:?}");
        }
    }
}

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers")
}

/// A committed vocabulary.
fn golden(name: &str) -> Tokenizer {
    Tokenizer::from_gguf(&GgufFile::from_bytes(golden_bytes(name)).unwrap()).unwrap()
}

fn golden_bytes(name: &str) -> Vec<u8> {
    unpacked(&format!("tokenizers/{name}.gguf.xz"))
}

/// The bytes of a compressed file of `tests/golden`.
pub fn unpacked(path: &str) -> Vec<u8> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let packed = fs::read(golden.join(path)).unwrap();
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut &packed[..], &mut bytes).unwrap();
    bytes
}

#[test]
fn committed_vocabularies_give_the_reference_ids() {
    for name in [
        "llama-spm",
        "phi-3",
        "gpt-2",
        "llama-bpe",
        "qwen2",
        "falcon",
        "deepseek-coder",
        "bert-bge",
        "nomic-bert-moe",
    ] {
        check(&golden(name), &golden_folder().join(format!("{name}.gguf")));
    }
}

#[test]
fn no_text_has_fewer_tokens_than_its_bytes_tell() {
    for name in ["llama-spm", "phi-3", "gpt-2", "llama-bpe", "qwen2", "bert-bge"] {
        let tokenizer = golden(name);
        let ids = 0..tokenizer.vocab_size() as u32;
        let plain = ids.filter(|&id| !tokenizer.is_special(id));
        let longest = plain.max_by_key(|&id| tokenizer.token_bytes(id).len()).unwrap();
        // Hangul, which some vocabularies compose: nine bytes become three.
        let texts = [&tokenizer.decode(&[longest], false), "y", " ", "\u{1112}\u{1161}\u{11ab}"];
        for text in texts.map(|text| text.repeat(3000)) {
            let n = tokenizer.encode(&text, EncodeOptions::default()).unwrap().len();
            let least = tokenizer.tokens_at_least(text.len());
            assert!(n >= least, "{name}: {n} tokens, at least {least}: {:?}", &text[..30]);
        }
        // A word without a token is one unknown token, however long it is.
        assert_eq!(tokenizer.tokens_at_least(1 << 20) > 0, name != "bert-bge", "{name}");
    }
}

#[test]
fn large_vocabularies_give_the_reference_ids() {
    let Some(folder) = fixtures("tokenizers") else { return };
    for name in ["command-r", "gemma-4"] {
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
    for name in ["llama-spm", "gpt-2", "bert-bge", "nomic-bert-moe"] {
        let tokenizer = golden(name);
        let lossy = LOSSY.contains(&&format!("{name}.gguf")[..]);
        for unit in ["a", "ab", " ", "\n", "1", "<s>", "日本", "the quick "] {
            let text = unit.repeat(300_000 / unit.len());
            let ids = tokenizer.encode(&text, PARSE).unwrap();
            if lossy {
                continue;
            }
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
        refused(&[(MODEL, "hybriddna".into())]),
        "unsupported tokenizer model `hybriddna` (tokenizer.ggml.model)"
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

const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

#[test]
fn wordpiece_takes_the_longest_piece_or_nothing() {
    let tokens =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁un", "▁und", "able", "a", "▁.", "▁漢", "▁e"];
    let id = |name: &str, id: u32| (format!("tokenizer.ggml.{name}_token_id"), id.into());
    let keys: [(String, OwnedValue); 5] = [
        (MODEL.into(), "bert".into()),
        (TOKENS.into(), strings(&tokens)),
        id("unknown", 1),
        id("cls", 2),
        id("seperator", 3),
    ];
    let keys: Vec<_> = keys.iter().map(|(key, value)| (&key[..], value.clone())).collect();
    let tokenizer = with_keys(&keys).unwrap();
    let ids = |text: &str| tokenizer.encode(text, EncodeOptions::default()).unwrap();
    assert_eq!(ids("unable UNÁBLE"), [4, 6, 4, 6]);
    assert_eq!(ids("undable und. unx"), [5, 6, 5, 8, 1]);
    assert_eq!(ids("漢e\u{301}\u{0}漢"), [9, 10, 9]);
    assert_eq!(ids(&"a".repeat(200)), [1]);
    assert_eq!(tokenizer.encode("e", ADD).unwrap(), [2, 10, 3]);
    assert_eq!(tokenizer.decode(&ids("unable und ."), false), "unable und.");
}

/// A vocabulary with scores; those of type 1 but for the ids given.
fn scored(
    model: &str,
    tokens: &[(&str, f32)],
    types: &[(usize, i32)],
) -> Vec<(&'static str, OwnedValue)> {
    let mut all = vec![1; tokens.len()];
    types.iter().for_each(|&(id, ty)| all[id] = ty);
    let (texts, scores): (Vec<_>, Vec<_>) = tokens.iter().copied().unzip();
    vec![
        (MODEL, model.into()),
        (TOKENS, strings(&texts)),
        (SCORES, scores.into()),
        (TYPES, all.into()),
    ]
}

#[test]
fn unigram_finds_the_best_sum_of_scores() {
    let tokens =
        [("<unk>", 0.0), ("▁", -3.0), ("a", -2.0), ("▁a", -2.5), ("ab", -2.1), ("b", -9.0)];
    let mut keys = scored("t5", &tokens, &[(0, 2)]);
    keys.push(("tokenizer.ggml.unknown_token_id", 0u32.into()));
    keys.push(("tokenizer.ggml.add_eos_token", false.into()));
    let plain = EncodeOptions::default();
    let tokenizer = with_keys(&keys).unwrap();
    assert_eq!(tokenizer.encode("ab a", plain).unwrap(), [4, 3]);
    assert_eq!(tokenizer.encode("  ab", plain).unwrap(), [1, 1, 4]);
    assert_eq!(tokenizer.encode("axyb", plain).unwrap(), [2, 0, 5]);
    keys.push(("tokenizer.ggml.add_space_prefix", true.into()));
    keys.push(("tokenizer.ggml.remove_extra_whitespaces", true.into()));
    let tokenizer = with_keys(&keys).unwrap();
    // -2.5 - 9 against -3 - 2.1.
    assert_eq!(tokenizer.encode("  ab   a ", plain).unwrap(), [1, 4, 3]);
    assert_eq!(tokenizer.decode(&[1, 4, 3], false), "ab a");
    assert_eq!(tokenizer.encode("  ", plain).unwrap(), [0u32; 0]);
}

#[test]
fn pairs_are_parted_as_the_file_says() {
    let words = [("<unk>", 0.0), ("a", -1.0), ("▁", -1.0), ("<s>", 0.0), ("</s>", 0.0)];
    let with = |more: &[(&'static str, OwnedValue)]| {
        let mut keys = scored("t5", &words, &[(0, 2), (3, 3), (4, 3)]);
        keys.push(("tokenizer.ggml.unknown_token_id", 0u32.into()));
        keys.push(("tokenizer.ggml.bos_token_id", 3u32.into()));
        keys.push(("tokenizer.ggml.eos_token_id", 4u32.into()));
        keys.push(("tokenizer.ggml.seperator_token_id", 4u32.into()));
        keys.extend(more.iter().cloned());
        with_keys(&keys).unwrap().encode_pair("a", "aa").unwrap()
    };
    let flag = |name, value: bool| (name, OwnedValue::from(value));
    let (bos, eos) = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token");
    let sep = "tokenizer.ggml.add_sep_token";
    assert_eq!(with(&[flag(eos, false)]), [1, 1, 1]);
    let roberta = [flag(bos, true), flag(eos, true), flag(sep, true)];
    assert_eq!(with(&roberta), [3, 1, 4, 4, 1, 1, 4]);
    // What takes the place of a name is not searched for names.
    let template = "<s>{query}{document}{x}";
    let key = ("tokenizer.chat_template.rerank", OwnedValue::from(template));
    let mut keys = scored("t5", &words, &[(0, 2), (3, 3), (4, 3)]);
    keys.push(("tokenizer.ggml.unknown_token_id", 0u32.into()));
    keys.push(key);
    let tokenizer = with_keys(&keys).unwrap();
    let pair = tokenizer.encode_pair("a{document}", "a").unwrap();
    let options = EncodeOptions { add_special: false, parse_special: true };
    assert_eq!(pair, tokenizer.encode("<s>a{document}a{x}", options).unwrap());
    assert_eq!(pair[0], 3);
}

#[test]
fn unigram_replaces_by_the_files_table() {
    // A double array with the one key "A": root, node of "A" (0x41 = 65), its value.
    let (root, leaf) = (1 << 10, 1 << 8 | 2 << 10 | 0x41);
    let mut words = vec![0u32; 128];
    words[0] = root;
    words[1 ^ 0x41] = leaf;
    words[1 ^ 0x41 ^ 2] = 1 << 31 | 3;
    let mut bytes: Vec<u8> = (4 * words.len() as u32).to_le_bytes().to_vec();
    words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    let table = |texts: &[u8]| {
        let mut keys = scored("t5", &[("<unk>", 0.0), ("a", -1.0), ("▁", -1.0)], &[(0, 2)]);
        keys.push(("tokenizer.ggml.unknown_token_id", 0u32.into()));
        keys.push(("tokenizer.ggml.precompiled_charsmap", [&bytes[..], texts].concat().into()));
        with_keys(&keys).unwrap()
    };
    let plain = EncodeOptions::default();
    assert_eq!(table(b"..\0a a\0").encode("AaB", plain).unwrap(), [1, 2, 1, 1, 0]);
    for damaged in [&b""[..], b"..\0a"] {
        let error = table(damaged).encode("A", plain).unwrap_err().to_string();
        assert!(error.contains("precompiled_charsmap"), "{error}");
    }
}

#[test]
fn rwkv_takes_the_longest_token_of_bytes() {
    let tokens = ["<s>", r"\n", r"\n\n", "a", r"\xe6\x97", r"\xa5", r"\'", "ab"];
    let types = vec![3, 1, 1, 1, 1, 1, 1, 1];
    let keys = [(MODEL, "rwkv".into()), (TOKENS, strings(&tokens)), (TYPES, types.into())];
    let tokenizer = with_keys(&keys).unwrap();
    let plain = EncodeOptions::default();
    let ids = tokenizer.encode("\n\n\nab日'", plain).unwrap();
    assert_eq!(ids, [2, 1, 7, 4, 5, 6]);
    assert_eq!(tokenizer.decode(&ids, false), "\n\n\nab日'");
    assert_eq!(tokenizer.encode("c", plain), Err(TextError::Unencodable { character: 'c' }));
}

#[test]
fn plamo_finds_the_best_sum_and_falls_back_to_bytes() {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens: Vec<(&str, f32)> = bytes.iter().map(|text| (&text[..], 0.0)).collect();
    tokens.extend([("a", -1.0), ("ab", -2.5), ("b", -1.0), ("bc", -0.5), ("aa", -2.0)]);
    let types: Vec<_> = (0..256).map(|id| (id, 6)).collect();
    let tokenizer = with_keys(&scored("plamo2", &tokens, &types)).unwrap();
    let plain = EncodeOptions::default();
    assert_eq!(tokenizer.encode("\u{feff}abcab", plain).unwrap(), [256, 259, 256, 258]);
    assert_eq!(tokenizer.encode("aaé", plain).unwrap(), [260, 0xc3, 0xa9]);
    assert_eq!(tokenizer.decode(&[260, 0xc3, 0xa9], false), "aaé");
}

#[test]
fn composed_where_the_models_were_trained_so() {
    let tokens = ["e", "é", "Ì", "ģ", "Ã", "©", "Ã©"];
    let keys = |pre: &str| {
        let merges = strings(&["Ã ©"]);
        [(MODEL, "gpt2".into()), (PRE, pre.into()), (TOKENS, strings(&tokens)), (MERGES, merges)]
    };
    let ids = |pre: &str| {
        let tokenizer = with_keys(&keys(pre)).unwrap();
        tokenizer.encode("e\u{301}", EncodeOptions::default()).unwrap()
    };
    assert_eq!(ids("qwen2"), [6]);
    assert_eq!(ids("llama-bpe"), [0, 2, 3]);
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
    for name in ["llama-spm", "gpt-2", "bert-bge", "nomic-bert-moe"] {
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
