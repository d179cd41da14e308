//! Models split over several files, `<name>-00001-of-00003.gguf` and so on, as llama.cpp's
//! gguf-split writes them: every file is a GGUF of its own with `split.no` (from 0),
//! `split.count` and `split.tensors.count` (of all files); the metadata is in the first.

use std::path::{Path, PathBuf};

use crate::error::{Error, Fault, Item, Located, ShardFault};
use crate::file::Shard;
use crate::limits::Limits;
use crate::metadata::Value;
use crate::writer::OwnedValue;

pub(crate) const NO_KEY: &str = "split.no";
pub(crate) const COUNT_KEY: &str = "split.count";
pub(crate) const TENSORS_KEY: &str = "split.tensors.count";

/// Keys of a shard that say how its model is split.
pub const SPLIT_KEYS: [&str; 3] = [NO_KEY, COUNT_KEY, TENSORS_KEY];

/// Values of [`SPLIT_KEYS`] in shard `no` (from 0) of `count`, in the types of llama.cpp's gguf-split;
/// `n_tensors` is the number of the whole model's tensors.
pub fn split_entries(no: u16, count: u16, n_tensors: i32) -> [(&'static str, OwnedValue); 3] {
    [
        (NO_KEY, OwnedValue::U16(no)),
        (COUNT_KEY, OwnedValue::U16(count)),
        (TENSORS_KEY, OwnedValue::I32(n_tensors)),
    ]
}

/// Path of shard `no` (from 0) of `count`; `stem` is the path up to the number.
pub fn shard_path(stem: &Path, no: usize, count: usize) -> PathBuf {
    let mut name = stem.file_name().unwrap_or_default().to_owned();
    name.push(suffix(no as u64, count as u64));
    stem.with_file_name(name)
}

/// Place of a shard among the files of its model, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub no: u64,
    pub count: u64,
    pub tensors: u64,
}

impl Split {
    /// `None` for a model in one file: without `split.count`, or with 0 or 1.
    pub fn of(shard: &Shard, limits: &Limits) -> Result<Option<Split>, Error> {
        let Some(count) = integer(shard, COUNT_KEY)?.filter(|&count| count > 1) else {
            return Ok(None);
        };
        if count > limits.shards_max {
            let fault = ShardFault::Limit { count, max: limits.shards_max };
            return Err(shard_error(shard, fault));
        }
        let no = required(shard, NO_KEY)?;
        if no >= count {
            let fault = ShardFault::Number { key: NO_KEY, found: no, expected: count - 1 };
            return Err(shard_error(shard, fault));
        }
        Ok(Some(Split { no, count, tensors: required(shard, TENSORS_KEY)? }))
    }

    /// The path of every shard, in order, given the path of this one.
    pub fn paths(&self, path: &Path) -> Result<Vec<PathBuf>, Error> {
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(stem) = name.and_then(|name| name.strip_suffix(&suffix(self.no, self.count)))
        else {
            let fault = ShardFault::Name { no: self.no, count: self.count };
            return Err(Error::Shard { path: Some(path.to_owned()), fault });
        };
        let named = |no| path.with_file_name(format!("{stem}{}", suffix(no, self.count)));
        Ok((0..self.count).map(named).collect())
    }
}

fn suffix(no: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

/// Checks that the shards, in this order, are the whole of one model.
pub(crate) fn check_set(shards: &[Shard], n_tensors: u64, limits: &Limits) -> Result<(), Error> {
    let Some(first) = Split::of(&shards[0], limits)? else {
        return match shards.get(1) {
            Some(_) => Err(shard_error(&shards[0], ShardFault::NoKey(COUNT_KEY))),
            None => Ok(()),
        };
    };
    for (no, shard) in shards.iter().enumerate() {
        let Some(split) = Split::of(shard, limits)? else {
            return Err(shard_error(shard, ShardFault::NoKey(COUNT_KEY)));
        };
        let numbers = [
            (COUNT_KEY, split.count, shards.len() as u64),
            (NO_KEY, split.no, no as u64),
            (TENSORS_KEY, split.tensors, first.tensors),
        ];
        if let Some(&(key, found, expected)) = numbers.iter().find(|(_, a, b)| a != b) {
            return Err(shard_error(shard, ShardFault::Number { key, found, expected }));
        }
        if shard.byte_order() != shards[0].byte_order() {
            return Err(shard_error(shard, ShardFault::ByteOrder(shard.byte_order())));
        }
    }
    if first.tensors != n_tensors {
        let fault = ShardFault::TensorCount { declared: first.tensors, found: n_tensors };
        return Err(shard_error(&shards[0], fault));
    }
    Ok(())
}

fn required(shard: &Shard, key: &'static str) -> Result<u64, Error> {
    integer(shard, key)?.ok_or_else(|| shard_error(shard, ShardFault::NoKey(key)))
}

/// Writers differ in the integer's type (u16, i32), so any integer that is not negative will do.
fn integer(shard: &Shard, key: &str) -> Result<Option<u64>, Error> {
    shard.get(key).map(|value| as_integer(shard, key, value)).transpose()
}

fn as_integer(shard: &Shard, key: &str, value: Value<'_>) -> Result<u64, Error> {
    value.as_u64().ok_or_else(|| {
        let found = value.type_name();
        let fault = Fault::WrongType { expected: "an integer that is not negative", found };
        Located::new(shard.offset_of(key), fault).of(Item::key(key)).in_file(shard.path())
    })
}

fn shard_error(shard: &Shard, fault: ShardFault) -> Error {
    Error::Shard { path: shard.path().map(Path::to_owned), fault }
}
