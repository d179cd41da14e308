//! Token ids of whole vocabularies against the reference implementation's.
//!
//! `tests/golden/tokenizers` holds a few vocabularies, compressed; the full set is used where the
//! environment variable `TEFF_FIXTURES` or a sibling folder `shared/fixtures` offers it.

use std::fs;
use std::path::{Path, PathBuf};

use gguf_rs_lite::GgufFile;
use teff::text::{EncodeOptions, Tokenizer};

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

fn check(vocabulary: &Path, expected: &Path) {
    let tokenizer = Tokenizer::from_gguf(&GgufFile::open(vocabulary).unwrap()).unwrap();
    assert_eq!(tokenizer.warnings(), [""; 0], "{vocabulary:?}");
    for case in cases(expected) {
        let ids = tokenizer.encode(&case.text, EncodeOptions::default()).unwrap();
        assert_eq!(ids, case.ids, "{expected:?}: {:?}", case.text);
        if !loses_information(&tokenizer, &case.text) {
            assert_eq!(tokenizer.decode(&ids, false), case.text, "{expected:?}");
        }
    }
}

fn fixtures() -> Option<PathBuf> {
    let sibling = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    let folder = std::env::var_os("TEFF_FIXTURES").map_or(sibling, PathBuf::from);
    let folder = folder.join("tokenizers");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {folder:?} does not exist");
    None
}

#[test]
fn full_fixtures_give_the_reference_ids() {
    let Some(folder) = fixtures() else { return };
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
        check(&vocabulary, &vocabulary);
    }
}
