//! Files of a checkpoint that hold weights: those that an index names, those of ranks of tensor
//! parallelism, or the only one.

use super::ConvertError;
use super::files::{json, malformed};
use serde_json::Value;
use std::path::Path;

/// Name of the index.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// What the names of files of tensor parallelism have before the rank, or before `common`.
const RANK: &str = "-TP-";
/// Files of a checkpoint: the largest published one has some 200.
const FILES_MAX: usize = 4096;

/// Finds the files of a folder.
///
/// # Errors
/// There are none or too many, or the index is malformed.
pub(super) fn find(folder: &Path) -> Result<Shards, ConvertError> {
    let (of_ranks, index) = (of_ranks(folder)?, folder.join(INDEX));
    let (mut names, wanted) = match json(&index)? {
        Some(value) => indexed(&index, &value)?,
        None if of_ranks.is_empty() => (single(folder)?, Vec::new()),
        None => (Vec::new(), Vec::new()),
    };
    // An index names one of the files that have a tensor.
    names.extend(of_ranks);
    names.sort();
    names.dedup();
    names.sort_by_key(|name| rank(Path::new(name)));
    match names.len() > FILES_MAX {
        true => Err(malformed(&index, format!("more than {FILES_MAX} files"))),
        false => Ok((names, wanted)),
    }
}

/// Files with weights, and which tensor is in which, as far as an index says so.
pub(super) type Shards = (Vec<String>, Vec<(String, String)>);

fn indexed(path: &Path, value: &Value) -> Result<Shards, ConvertError> {
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| malformed(path, "`weight_map` is missing"))?;
    let mut wanted = Vec::with_capacity(map.len());
    for (tensor, file) in map {
        let is_plain = |name: &&str| Path::new(name).file_name() == Some(name.as_ref());
        let file = file.as_str().filter(is_plain);
        let problem = || malformed(path, format!("`{tensor}` is in no file of this folder"));
        wanted.push((tensor.clone(), file.ok_or_else(problem)?.to_owned()));
    }
    Ok((wanted.iter().map(|(_, file)| file.clone()).collect(), wanted))
}

/// The rank that a file belongs to.
pub(super) fn rank(path: &Path) -> Option<u32> {
    let (_, end) = path.file_name()?.to_str()?.rsplit_once(RANK)?;
    end.strip_suffix(".safetensors")?.parse().ok()
}

/// The files of a folder that belong to ranks, and those common to them.
fn of_ranks(folder: &Path) -> Result<Vec<String>, ConvertError> {
    let mut names = names(folder)?;
    names.retain(|name| name.ends_with(".safetensors") && name.contains(RANK));
    Ok(names)
}

/// Names of the files of a folder, in order.
fn names(folder: &Path) -> Result<Vec<String>, ConvertError> {
    let io = |error| ConvertError::Io { path: folder.to_owned(), error };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        names.extend(entry.map_err(io)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// The one file of a folder without an index.
fn single(folder: &Path) -> Result<Vec<String>, ConvertError> {
    let names = names(folder)?;
    let usual = names.iter().find(|name| *name == "model.safetensors");
    let mut others = names.iter().filter(|name| name.ends_with(".safetensors"));
    match (usual, others.next(), others.next()) {
        (Some(name), ..) | (None, Some(name), None) => Ok(vec![name.clone()]),
        (None, Some(_), Some(_)) => {
            Err(malformed(&folder.join(INDEX), "missing, and there are several files of weights"))
        }
        _ => {
            let is_weights = |name: &&String| {
                [".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5"]
                    .iter()
                    .any(|e| name.ends_with(e))
            };
            let found = names.iter().find(is_weights).cloned();
            Err(ConvertError::NoWeights { path: folder.to_owned(), found })
        }
    }
}
