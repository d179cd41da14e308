//! Checkpoints of the hub: of a repository the files that a conversion reads, in the folder that
//! the repository has in the cache.
//!
//! Weights are safetensors: those that the index names, those of ranks of tensor parallelism, or else the
//! only file of them. Pickles,
//! which are programs, other forms of the same weights and everything else stay where they are.

use super::error::CacheError;
use super::listing::{self, HubFile, base_name};
use super::{Cache, ModelRef, Progress, Select, are_all_here};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Files beside the weights: what the model is, how it cuts texts, what it was sampled with.
const NAMES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "modules.json",
    "adapter_config.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    INDEX,
];
/// Folders whose templates belong to a checkpoint.
const TEMPLATES: &[&str] = &["additional_chat_templates/", "chat_templates/"];
/// Ends of the names of what sentence-transformers has behind a model, in folders of its own.
const MODULES: &[&str] =
    &["_Pooling/config.json", "_Dense/config.json", "_Dense/model.safetensors"];
/// Name of the index, which says which file holds which tensor.
const INDEX: &str = "model.safetensors.index.json";
/// Weights of a checkpoint in one file.
const WEIGHTS: &str = "model.safetensors";
/// What names of weights have that each rank of tensor parallelism has a part of, before the rank: no index
/// names them all.
const RANK: &str = "-TP-";
/// Weights of an adapter.
const ADAPTER: &str = "adapter_model.safetensors";
/// Bytes of a file that holds no weights: more than a conversion would read.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// Whether a file of a repository may belong to its checkpoint.
pub(super) fn is_part(path: &str) -> bool {
    is_weights(path) || is_described(path)
}

fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors") && !path.contains('/') && !path.starts_with('.')
}

fn is_described(path: &str) -> bool {
    let is_template = |folder: &&str| path.starts_with(folder) && path.ends_with(".jinja");
    NAMES.contains(&path)
        || TEMPLATES.iter().any(is_template)
        || (MODULES.iter().any(|end| path.ends_with(end)) && path.matches('/').count() == 1)
}

/// The files of a listing that describe the model.
fn described(repo: &str, listed: &[HubFile]) -> Result<Vec<HubFile>, CacheError> {
    let files: Vec<_> = listed.iter().filter(|file| is_described(&file.path)).cloned().collect();
    match files.iter().find(|file| file.bytes > FILE_BYTES_MAX) {
        None => Ok(files),
        Some(file) => Err(CacheError::BadListing {
            repo: repo.to_owned(),
            reason: format!("{} has {} bytes", file.path, file.bytes),
        }),
    }
}

/// The files of a listing that hold the weights, by the index in `folder` if there is one.
fn weights(repo: &str, listed: &[HubFile], folder: &Path) -> Result<Vec<HubFile>, CacheError> {
    let missing = |wanted: &str| {
        let names: Vec<_> = listed.iter().map(|file| base_name(&file.path)).take(12).collect();
        CacheError::NoMatch {
            repo: repo.to_owned(),
            wanted: wanted.to_owned(),
            available: if names.is_empty() { "nothing of use".into() } else { names.join(", ") },
        }
    };
    let named = |name: &str| listed.iter().find(|file| file.path == name).cloned();
    let is_of_ranks = |file: &&HubFile| is_weights(&file.path) && file.path.contains(RANK);
    let of_ranks: Vec<HubFile> = listed.iter().filter(is_of_ranks).cloned().collect();
    if named(INDEX).is_some() {
        let mut names = indexed(repo, &folder.join(INDEX))?;
        names.extend(of_ranks.into_iter().map(|file| file.path));
        return names.iter().map(|name| named(name).ok_or_else(|| missing(name))).collect();
    }
    if !of_ranks.is_empty() {
        return Ok(of_ranks);
    }
    if let Some(file) = named(WEIGHTS).or_else(|| named(ADAPTER)) {
        return Ok(vec![file]);
    }
    let mut all = listed.iter().filter(|file| is_weights(&file.path));
    match (all.next(), all.next()) {
        (Some(file), None) => Ok(vec![file.clone()]),
        (None, _) => Err(missing("safetensors")),
        _ => Err(missing(INDEX)),
    }
}

/// Names of the files that an index speaks of.
fn indexed(repo: &str, path: &Path) -> Result<BTreeSet<String>, CacheError> {
    let reason = |reason: String| CacheError::BadListing { repo: repo.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|e| CacheError::io("read", path, e))?;
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| reason(format!("{INDEX}: {e}")))?;
    let map = value.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| reason(format!("{INDEX} has no `weight_map`")))?;
    let name = |file: &serde_json::Value| match file.as_str() {
        Some(name) if is_weights(name) => Ok(name.to_owned()),
        _ => Err(CacheError::UnsafeName { name: file.to_string().chars().take(80).collect() }),
    };
    map.values().map(name).collect()
}

impl Cache {
    /// The folder with the checkpoint of a hub repository, fetched if need be: what
    /// `teff::convert` reads.
    ///
    /// # Errors
    /// Any [`CacheError`]; [`CacheError::BadRef`] for what is no `hf:owner/repo`.
    pub fn checkpoint(
        &self,
        model: &ModelRef,
        progress: &mut dyn Progress,
        cancel: &AtomicBool,
    ) -> Result<PathBuf, CacheError> {
        let ModelRef::Hub { repo, select: Select::Any } = model else {
            let reason = "is not of the form hf:owner/repo, without a file or quantization";
            return Err(CacheError::BadRef { given: model.to_string(), reason });
        };
        match self.cached_checkpoint(repo) {
            Some(_) => Ok(self.repo_dir(repo)),
            None => self.fetch_checkpoint(repo, progress, cancel),
        }
    }

    /// The files of a checkpoint, if the last listing says which they are and all are here.
    pub(super) fn cached_checkpoint(&self, repo: &str) -> Option<Vec<HubFile>> {
        let folder = self.repo_dir(repo);
        let listed = listing::load(repo, &folder)?;
        let mut files = described(repo, &listed).ok()?;
        if !are_all_here(&folder, &files) {
            return None;
        }
        files.extend(weights(repo, &listed, &folder).ok()?);
        are_all_here(&folder, &files).then_some(files)
    }

    #[cfg(feature = "hub")]
    fn fetch_checkpoint(
        &self,
        repo: &str,
        progress: &mut dyn Progress,
        cancel: &AtomicBool,
    ) -> Result<PathBuf, CacheError> {
        let mut fetch = super::Fetch::begin(self, repo, progress, cancel)?;
        let files = described(repo, &fetch.listed)?;
        if !files.iter().any(|file| file.path.ends_with("config.json")) {
            let available = "no configuration".into();
            let (repo, wanted) = (repo.to_owned(), "config.json".to_owned());
            return Err(CacheError::NoMatch { repo, wanted, available });
        }
        fetch.files(&files, false)?;
        let files = weights(repo, &fetch.listed, &fetch.folder)?;
        fetch.files(&files, false)?;
        Ok(fetch.folder)
    }

    #[cfg(not(feature = "hub"))]
    fn fetch_checkpoint(
        &self,
        repo: &str,
        _: &mut dyn Progress,
        _: &AtomicBool,
    ) -> Result<PathBuf, CacheError> {
        Err(CacheError::NoSource { model: format!("hf:{repo}"), causes: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<HubFile> {
        let file = |p: &&str| HubFile { path: p.to_string(), bytes: 1, sha256: None };
        paths.iter().map(file).collect()
    }

    fn chosen(paths: &[&str]) -> Result<Vec<String>, String> {
        let found = weights("o/r", &files(paths), Path::new("nowhere"));
        Ok(found.map_err(|e| e.to_string())?.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn weights_are_the_one_file_of_them() {
        assert_eq!(chosen(&["consolidated.safetensors", WEIGHTS]).expect("one"), [WEIGHTS]);
        assert_eq!(chosen(&["x.safetensors", "y.bin"]).expect("one"), ["x.safetensors"]);
        assert_eq!(chosen(&["config.json", ADAPTER]).expect("one"), [ADAPTER]);
        let ranks =
            ["m-1-TP-000.safetensors", "m-1-TP-001.safetensors", "m-0-TP-common.safetensors"];
        assert_eq!(chosen(&[&ranks[..], &["config.json", WEIGHTS]].concat()).expect("all"), ranks);
        let several = chosen(&["a.safetensors", "b.safetensors"]).expect_err("two");
        assert!(several.contains("has no model.safetensors.index.json"), "{several}");
        let none = chosen(&["pytorch_model.bin", "onnx/model.safetensors"]).expect_err("none");
        assert!(none.contains("has no safetensors"), "{none}");
    }

    #[test]
    fn parts_are_what_a_conversion_reads() {
        for path in [
            "config.json",
            "model-00001-of-00002.safetensors",
            "1_Pooling/config.json",
            "additional_chat_templates/rag.jinja",
        ] {
            assert!(is_part(path), "{path}");
        }
        for path in ["README.md", "pytorch_model.bin", "onnx/model.onnx", "a/config.json", "x.pth"]
        {
            assert!(!is_part(path), "{path}");
        }
    }
}
