//! Files of a hub repository that are of use, and the choice of the GGUF files that the user means.
//!
//! The hub's answer is kept beside the models in the hub's own form, so `hf:owner/repo:Q4_K_M`
//! means the same file tomorrow, and without a network, as it did when it was fetched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::checkpoint;
use super::error::CacheError;
use super::model_ref::Select;
use super::store::{Lock, checked_repo_path, file_len};

/// Longest listing accepted, in bytes: some ten thousand files.
pub(super) const LISTING_BYTES_MAX: u64 = 8 << 20;
/// Most shards of one model; the largest published today have under two hundred.
const SHARDS_MAX: usize = 10_000;
/// Most names an error message shows.
const NAMES_SHOWN_MAX: usize = 12;
/// Types that `hf:owner/repo` means where there is a choice: good and small first.
const PREFERRED: &[&str] =
    &["Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "Q5_K_M", "Q8_0", "Q6_K", "F16", "BF16"];
/// GGUF files that are no language model: image projectors, importance matrices, draft heads.
const COMPANIONS: &[&str] = &["mmproj", "imatrix", "mtp"];

/// A file of a repository: a GGUF file, or a part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubFile {
    /// Path inside the repository, checked to be safe to join to a folder.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Lower-case hex, where the hub gives one: for every file in large-file storage.
    pub sha256: Option<String>,
}

/// The files of use in one page of the hub's `tree` answer.
///
/// # Errors
/// [`CacheError::BadListing`], [`CacheError::UnsafeName`] for such a file with such a name.
pub(super) fn parse(repo: &str, page: &[u8]) -> Result<Vec<HubFile>, CacheError> {
    let bad = |reason: String| CacheError::BadListing { repo: repo.to_owned(), reason };
    let page: Value = serde_json::from_slice(page).map_err(|e| bad(e.to_string()))?;
    let entries = page.as_array().ok_or_else(|| bad("is no JSON array".into()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry["path"].as_str().ok_or_else(|| bad("an entry without path".into()))?;
        if entry["type"] == "directory" || !(is_gguf(path) || checkpoint::is_part(path)) {
            continue;
        }
        let bytes = entry["lfs"]["size"].as_u64().or_else(|| entry["size"].as_u64());
        let sha256 = entry["lfs"]["oid"].as_str();
        let sha256 = sha256.map(|oid| oid.trim_start_matches("sha256:").to_ascii_lowercase());
        if sha256.as_ref().is_some_and(|s| s.len() != 64 || !s.bytes().all(is_hex)) {
            return Err(bad(format!("{path:?} has a checksum that is no sha256")));
        }
        files.push(HubFile {
            path: checked_repo_path(path)?.to_owned(),
            bytes: bytes.ok_or_else(|| bad(format!("{path:?} has no size")))?,
            sha256,
        });
    }
    Ok(files)
}

/// Whether a file is a model of its own, by its name.
pub(super) fn is_gguf(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".gguf")
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

/// Keeps a listing in the repository's folder.
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "only the hub gives listings"))]
pub(super) fn save(
    folder: &Path,
    files: &[HubFile],
    cancel: &AtomicBool,
) -> Result<(), CacheError> {
    let entry = |file: &HubFile| match &file.sha256 {
        Some(oid) => json!({"path": file.path, "size": file.bytes, "lfs": {"oid": oid}}),
        None => json!({"path": file.path, "size": file.bytes}),
    };
    let (path, new) = (listing_path(folder), folder.join(".files.json.new"));
    let text = Value::from_iter(files.iter().map(entry)).to_string();
    let _lock = Lock::wait(&path, cancel, || {})?;
    fs::write(&new, text).map_err(|e| CacheError::io("write", &new, e))?;
    fs::rename(&new, &path).map_err(|e| CacheError::io("write", &path, e))
}

/// The listing kept in a repository's folder; `None` if there is none that can be read.
pub(super) fn load(repo: &str, folder: &Path) -> Option<Vec<HubFile>> {
    let path = listing_path(folder);
    if file_len(&path)? > LISTING_BYTES_MAX {
        return None;
    }
    parse(repo, &fs::read(path).ok()?).ok()
}

fn listing_path(folder: &Path) -> PathBuf {
    folder.join(".files.json")
}

/// The files of the model that `select` means: one, or every shard in order.
///
/// # Errors
/// [`CacheError::NoMatch`], [`CacheError::Ambiguous`]; a split model that lacks a shard is
/// [`CacheError::BadListing`].
pub(super) fn choose(
    repo: &str,
    files: &[HubFile],
    select: &Select,
) -> Result<Vec<HubFile>, CacheError> {
    let models = group(files);
    let names = |models: &mut dyn Iterator<Item = &Model<'_>>| -> String {
        let shown: Vec<_> = models.take(NAMES_SHOWN_MAX).map(|m| m.files[0].path.clone()).collect();
        if shown.is_empty() { "no GGUF file".to_owned() } else { shown.join(", ") }
    };
    let (wanted, found): (&str, Vec<&Model<'_>>) = match select {
        Select::File(name) => {
            let is_it = |file: &&HubFile| file.path == *name || base_name(&file.path) == *name;
            let exact = models.iter().find(|m| m.files.iter().any(|f| f.path == *name));
            let any = models.iter().filter(|m| m.files.iter().any(is_it));
            (name, exact.map_or_else(|| any.collect(), |m| vec![m]))
        }
        Select::Quant(quant) => (quant, models.iter().filter(|m| m.is_quant(quant)).collect()),
        Select::Any => {
            let usable: Vec<_> = models.iter().filter(|m| !m.is_companion()).collect();
            let preferred = PREFERRED
                .iter()
                .map(|q| usable.iter().copied().filter(|m| m.is_quant(q)).collect::<Vec<_>>())
                .find(|found| !found.is_empty());
            match preferred {
                Some(found) if usable.len() > 1 => ("", found),
                _ => ("", usable),
            }
        }
    };
    match found[..] {
        [model] => model.check_whole(repo),
        [] => Err(CacheError::NoMatch {
            repo: repo.to_owned(),
            wanted: if wanted.is_empty() { "model" } else { wanted }.to_owned(),
            available: names(&mut models.iter()),
        }),
        _ => Err(CacheError::Ambiguous {
            repo: repo.to_owned(),
            wanted: if wanted.is_empty() { format!("hf:{repo}") } else { wanted.to_owned() },
            matches: names(&mut found.iter().copied()),
        }),
    }
}

/// Every model of a listing that is whole: the files of each, shards in order.
pub(super) fn whole_models(repo: &str, files: &[HubFile]) -> Vec<Vec<HubFile>> {
    group(files).iter().filter_map(|model| model.check_whole(repo).ok()).collect()
}

/// A single file, or the shards of a split model in order.
struct Model<'a> {
    /// Path without shard numbers and `.gguf`.
    stem: &'a str,
    n_shards: usize,
    files: Vec<&'a HubFile>,
}

impl Model<'_> {
    /// Whether the file's or the folder's name has `quant` as a word: `Q4_K` is no word of
    /// `x-Q4_K_M`, nor is `Q4_XS` one of `x-IQ4_XS`.
    fn is_quant(&self, quant: &str) -> bool {
        let (text, word) = (self.stem.to_ascii_lowercase(), quant.to_ascii_lowercase());
        let is_word = |(at, _): (usize, &str)| {
            let before = text[..at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            before.is_none_or(|c| !c.is_alphanumeric())
                && after.is_none_or(|c| !c.is_alphanumeric() && c != '_')
        };
        !self.is_companion() && text.match_indices(&word).any(is_word)
    }

    fn is_companion(&self) -> bool {
        let name = base_name(self.stem).to_ascii_lowercase();
        COMPANIONS.iter().any(|what| name.split(['-', '_', '.']).any(|word| word == *what))
    }

    fn check_whole(&self, repo: &str) -> Result<Vec<HubFile>, CacheError> {
        if self.files.len() == self.n_shards {
            return Ok(self.files.iter().map(|&file| file.clone()).collect());
        }
        let reason = format!("{} has {} of {} shards", self.stem, self.files.len(), self.n_shards);
        Err(CacheError::BadListing { repo: repo.to_owned(), reason })
    }
}

fn group(files: &[HubFile]) -> Vec<Model<'_>> {
    let mut models: BTreeMap<(&str, usize), BTreeMap<usize, &HubFile>> = BTreeMap::new();
    for file in files.iter().filter(|file| is_gguf(&file.path)) {
        let stem = &file.path[..file.path.len() - ".gguf".len()];
        let (stem, shard, n_shards) = split_shard(stem).unwrap_or((stem, 1, 1));
        models.entry((stem, n_shards)).or_default().insert(shard, file);
    }
    let model = |((stem, n_shards), files): (_, BTreeMap<usize, _>)| Model {
        stem,
        n_shards,
        files: files.into_values().collect(),
    };
    models.into_iter().map(model).collect()
}

/// `("x", 2, 5)` for `x-00002-of-00005`.
fn split_shard(stem: &str) -> Option<(&str, usize, usize)> {
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (stem, shard) = rest.rsplit_once('-')?;
    let number = |s: &str| (s.len() == 5).then(|| s.parse().ok()).flatten();
    let (shard, total): (usize, usize) = (number(shard)?, number(total)?);
    (1 <= shard && shard <= total && total <= SHARDS_MAX).then_some((stem, shard, total))
}

/// Name of a file without its folders.
pub(super) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<HubFile> {
        let file = |p: &&str| HubFile { path: p.to_string(), bytes: 1, sha256: None };
        paths.iter().map(file).collect()
    }

    fn chosen(paths: &[&str], select: Select) -> Result<Vec<String>, String> {
        let found = choose("o/r", &files(paths), &select).map_err(|e| e.to_string())?;
        Ok(found.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_quant_is_a_whole_word() {
        let all = ["m-Q4_K_S.gguf", "m-q4_k_m.gguf", "m-IQ4_XS.gguf", "m.Q8_0.gguf", "x_F16.gguf"];
        let quant = |q: &str| chosen(&all, Select::Quant(q.into()));
        assert_eq!(quant("Q4_K_M").expect("one"), ["m-q4_k_m.gguf"]);
        assert_eq!(quant("iq4_xs").expect("one"), ["m-IQ4_XS.gguf"]);
        assert_eq!(quant("q8_0").expect("one"), ["m.Q8_0.gguf"]);
        assert_eq!(quant("f16").expect("one"), ["x_F16.gguf"]);
        for none in ["Q4_K", "Q4_XS", "Q8", "Q2_K"] {
            assert!(quant(none).expect_err(none).contains(&format!("no {none}; it has m-IQ4")));
        }
    }

    #[test]
    fn the_usual_quantization_is_the_default() {
        let any = |paths: &[&str]| chosen(paths, Select::Any);
        assert_eq!(any(&["m-Q8_0.gguf", "m-Q4_K_M.gguf"]).expect("one"), ["m-Q4_K_M.gguf"]);
        assert_eq!(any(&["mmproj-m-F16.gguf", "m-Q2_K.gguf"]).expect("one"), ["m-Q2_K.gguf"]);
        assert!(any(&["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"]).expect_err("two").contains("several"));
        assert!(any(&["m-TQ1_0.gguf", "m-Q2_K.gguf"]).expect_err("two").contains("several"));
        assert!(any(&[]).expect_err("none").contains("no GGUF file"));
    }

    #[test]
    fn shards_come_together_or_not_at_all() {
        let all = ["Q8_0/m-00002-of-00002.gguf", "m-Q4_0.gguf", "Q8_0/m-00001-of-00002.gguf"];
        let both = ["Q8_0/m-00001-of-00002.gguf", "Q8_0/m-00002-of-00002.gguf"];
        assert_eq!(chosen(&all, Select::Quant("q8_0".into())).expect("split"), both);
        assert_eq!(
            chosen(&all, Select::File("m-00002-of-00002.gguf".into())).expect("split"),
            both
        );
        let lacking = chosen(&all[..2], Select::Quant("q8_0".into())).expect_err("one shard");
        assert!(lacking.contains("1 of 2 shards"), "{lacking}");
    }

    #[test]
    fn listings_are_checked_and_survive_the_disk() {
        let oid = "ab".repeat(32);
        let page = json!([
            {"type": "directory", "path": "UD", "size": 0, "oid": "x"},
            {"type": "file", "path": "README.md", "size": 3, "oid": "x"},
            {"type": "file", "path": "a.gguf", "size": 7, "lfs": {"oid": oid, "size": 7}},
            {"type": "file", "path": "small.GGUF", "size": 5},
        ]);
        let parsed = parse("o/r", page.to_string().as_bytes()).expect("well-formed");
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0].sha256.as_deref(), Some(oid.as_str()));
        let dir = std::env::temp_dir().join(format!("teff-listing-{}", std::process::id()));
        save(&dir, &parsed, &AtomicBool::new(false)).expect("writes");
        assert_eq!(load("o/r", &dir).expect("reads"), parsed);
        fs::remove_dir_all(&dir).expect("own folder");
        assert_eq!(load("o/r", &dir), None);

        for bad in [
            json!({"error": "no"}),
            json!([{"type": "file", "size": 1}]),
            json!([{"path": "a.gguf"}]),
            json!([{"path": "a.gguf", "size": -1}]),
            json!([{"path": "../a.gguf", "size": 1}]),
            json!([{"path": "a.gguf", "size": 1, "lfs": {"oid": "xyz"}}]),
        ] {
            assert!(parse("o/r", bad.to_string().as_bytes()).is_err(), "{bad}");
        }
        assert!(parse("o/r", b"<html>").is_err());
    }
}
