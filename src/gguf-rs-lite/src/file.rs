//! [`GgufFile`]: one model, in one file or in several shards.
//!
//! Cost of opening: one walk over the header (a few ms for 262,000 tokens), no copy of metadata,
//! no touch of tensor data. Whatever opens has been checked as a whole, so access cannot fail.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::byte_order::{ByteOrder, swap_tensor_bytes};
use crate::cursor::{Cursor, Encoding};
use crate::error::{Error, Fault, Item, Located, ShardFault};
use crate::limits::Limits;
use crate::mapped::Bytes;
use crate::metadata::{Metadata, Scalar, Value, ValueType};
use crate::split::{self, Split};
use crate::tensor_info::{self, Table, TensorInfo};

/// A GGUF model, memory-mapped and checked.
///
/// ```no_run
/// let file = gguf_rs_lite::GgufFile::open("model.gguf")?;
/// let architecture = file.get("general.architecture").and_then(|value| value.as_str());
/// println!("{architecture:?}, {} tensors", file.tensors().len());
/// if let Some(tensor) = file.tensor("token_embd.weight") {
///     println!("{} {:?}: {} bytes", tensor.ty, tensor.dims, file.data(tensor).len());
/// }
/// # Ok::<(), gguf_rs_lite::Error>(())
/// ```
pub struct GgufFile {
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    /// Tensor numbers, sorted by name.
    by_name: Vec<u32>,
    /// What stands in for the file's metadata, or beside it.
    overrides: Vec<(String, Scalar)>,
    /// Keys of the file that are not to be seen.
    ignored: Vec<String>,
    /// The byte order of tensor data.
    data_order: ByteOrder,
}

impl GgufFile {
    /// Maps and checks a file. If it is one shard of a split model, all are opened.
    ///
    /// The file must not be changed or cut while it is open.
    ///
    /// # Errors
    /// The file cannot be mapped, its bytes are not valid, or a shard is missing or wrong.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile, Error> {
        GgufFile::open_with(path, &Limits::default())
    }

    /// [`GgufFile::open`] with other limits.
    ///
    /// # Errors
    /// Those of [`GgufFile::open`], or the file exceeds a limit.
    pub fn open_with(path: impl AsRef<Path>, limits: &Limits) -> Result<GgufFile, Error> {
        let path = path.as_ref();
        let opened = Shard::parse(Some(path.to_owned()), Bytes::map(path)?, limits)?;
        let mut parts = Parts::default();
        let Some(split) = Split::of(&opened.0, limits)? else {
            parts.push(opened, limits)?;
            return parts.finish(limits);
        };
        let mut opened = Some(opened);
        for (no, path) in split.paths(path)?.into_iter().enumerate() {
            let shard = match opened.take_if(|_| no as u64 == split.no) {
                Some(opened) => opened,
                None => open_shard(path, limits)?,
            };
            parts.push(shard, limits)?;
        }
        parts.finish(limits)
    }

    /// A file in memory.
    ///
    /// # Errors
    /// As [`GgufFile::open`]; one shard of a split model alone is refused.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<GgufFile, Error> {
        GgufFile::from_shards(vec![bytes])
    }

    /// A split model in memory: all its files in order (one, if it is not split).
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    ///
    /// # Panics
    /// Without a single file.
    pub fn from_shards(shards: Vec<Vec<u8>>) -> Result<GgufFile, Error> {
        assert!(!shards.is_empty(), "a model has at least one file");
        let limits = Limits::default();
        let mut parts = Parts::default();
        for bytes in shards {
            parts.push(Shard::parse(None, Bytes::Owned(bytes), &limits)?, &limits)?;
        }
        parts.finish(&limits)
    }

    /// The value of a key; of a split model, the first shard's.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.override_of(key).or_else(|| self.own(key))
    }

    /// The file's own value of a key.
    fn own(&self, key: &str) -> Option<Value<'_>> {
        self.shards[0].get(key).filter(|_| !self.ignored.iter().any(|ignored| ignored == key))
    }

    /// All metadata in file order, then what was added; of a split model, the first shard's.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let first = &self.shards[0];
        let is_seen = |key: &str| !self.ignored.iter().any(|ignored| ignored == key);
        let own = first.metadata.iter(&first.bytes).filter(move |(key, _)| is_seen(key));
        let added = self.overrides.iter().filter(|(key, _)| self.own(key).is_none());
        own.map(|(key, value)| (key, self.override_of(key).unwrap_or(value)))
            .chain(added.map(|(key, value)| (&key[..], value.value())))
    }

    fn override_of(&self, key: &str) -> Option<Value<'_>> {
        self.overrides.iter().find(|(own, _)| own == key).map(|(_, value)| value.value())
    }

    /// Lets `value` stand in for the file's value of `key`. Returns whether the file has the key.
    ///
    /// # Errors
    /// The file's value is of another kind, or the key says how the file is laid out.
    pub fn set(&mut self, key: &str, value: Scalar) -> Result<bool, Error> {
        let refused = |fault| Error::Override { key: key.to_owned(), fault };
        if is_layout_key(key) {
            return Err(refused(Fault::LayoutKey));
        }
        let own = self.own(key).map(|value| value.value_type());
        if let Some(ty) = own.filter(|&ty| !value.can_replace(ty)) {
            return Err(refused(Fault::wrong_type(ty, value.value().value_type())));
        }
        self.overrides.retain(|(other, _)| other != key);
        self.overrides.push((key.to_owned(), value));
        Ok(own.is_some())
    }

    /// Hides a key, as if the file did not have it. Returns whether it has.
    ///
    /// # Errors
    /// The key says how the file is laid out.
    pub fn ignore(&mut self, key: &str) -> Result<bool, Error> {
        if is_layout_key(key) {
            return Err(Error::Override { key: key.to_owned(), fault: Fault::LayoutKey });
        }
        let is_there = self.own(key).is_some();
        self.ignored.push(key.to_owned());
        Ok(is_there)
    }

    /// The tensors in file order, shard after shard.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let place = self
            .by_name
            .binary_search_by(|&i| self.tensors[i as usize].name.as_str().cmp(name))
            .ok()?;
        Some(&self.tensors[self.by_name[place] as usize])
    }

    /// The bytes of a tensor, in the order that [`GgufFile::data_order`] tells.
    ///
    /// # Panics
    /// If the tensor is another file's and does not lie in this one.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        let start = tensor.offset as usize;
        &self.shards[tensor.shard].bytes[start..start + tensor.bytes as usize]
    }

    /// The memory map that a tensor lies in, which begins with a page of the system's, and the tensor's
    /// first byte there; `None` if the bytes are not a map's. It is there as long as this file is.
    pub fn map_of(&self, tensor: &TensorInfo) -> Option<(&[u8], usize)> {
        let map = self.shards[tensor.shard].bytes.map_bytes()?;
        Some((map, tensor.offset as usize))
    }

    /// The format's version: 1, 2 or 3; of a split model, the first shard's.
    pub fn version(&self) -> u32 {
        self.shards[0].encoding.version
    }

    /// The byte order of the file.
    pub fn byte_order(&self) -> ByteOrder {
        self.shards[0].byte_order()
    }

    /// The byte order of what [`GgufFile::data`] returns: the file's, until
    /// [`GgufFile::make_little_endian`].
    pub fn data_order(&self) -> ByteOrder {
        self.data_order
    }

    /// Turns the tensors of a big-endian file into little-endian ones, in memory as large as the
    /// file. Returns the bytes that took: 0 for a little-endian file.
    ///
    /// # Errors
    /// That much memory cannot be had.
    pub fn make_little_endian(&mut self) -> Result<u64, Error> {
        if self.data_order == ByteOrder::Little {
            return Ok(0);
        }
        let bytes = self.total_bytes();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let data = shard.bytes.to_mut().ok_or(Error::Memory { bytes })?;
            for tensor in self.tensors.iter().filter(|tensor| tensor.shard == number) {
                let start = tensor.offset as usize;
                swap_tensor_bytes(tensor.ty, &mut data[start..start + tensor.bytes as usize])?;
            }
        }
        self.data_order = ByteOrder::Little;
        Ok(bytes)
    }

    /// Tensor data starts at multiples of this; of a split model, the first shard's.
    pub fn alignment(&self) -> u32 {
        self.shards[0].alignment
    }

    /// The path of the file, or of the first shard; `None` for bytes in memory.
    pub fn path(&self) -> Option<&Path> {
        self.shards[0].path()
    }

    /// Whether `path` leads to a file of this model, by links too.
    pub fn is_at(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        let mut paths = self.shards.iter().filter_map(Shard::path);
        paths.any(|own| own.canonicalize().is_ok_and(|own| own == path))
    }

    /// Number of files.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes.len() as u64).sum()
    }

    /// Gives memory of a part of a tensor's data back to the system, if the file is mapped; the
    /// data can still be read, then anew from the file.
    ///
    /// # Panics
    /// If the tensor is another file's and does not lie in this one.
    pub fn release(&self, tensor: &TensorInfo, part: Range<usize>) {
        assert!(part.start <= part.end && part.end <= tensor.bytes as usize, "part of the tensor");
        let start = tensor.offset as usize;
        self.shards[tensor.shard].bytes.release(start + part.start..start + part.end);
    }

    /// Keeps the files in memory, so that the system does not swap them out.
    ///
    /// # Errors
    /// More than the process may lock (`ulimit -l`), or nothing that is mapped.
    pub fn lock(&self) -> std::io::Result<()> {
        self.shards.iter().try_for_each(|shard| shard.bytes.lock())
    }

    /// Notices a file that was cut while it is open, which must not be read any more: reading what it
    /// lost would end the process. One system call for each file; no protection against a cut that
    /// comes right after it.
    ///
    /// # Errors
    /// A file has fewer bytes than when it was opened.
    pub fn check_uncut(&self) -> Result<(), Error> {
        self.shards.iter().try_for_each(|shard| {
            shard.bytes.check().map_err(|left| Error::Cut {
                path: shard.path.clone(),
                bytes: shard.bytes.len() as u64,
                left,
            })
        })
    }

    /// Asks the system to read the files ahead; returns at once.
    pub fn advise_willneed(&self) {
        self.shards.iter().for_each(|shard| shard.bytes.advise_willneed());
    }
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFile")
            .field("path", &self.path())
            .field("version", &self.version())
            .field("shards", &self.shards.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

/// A file of a model.
pub(crate) struct Shard {
    path: Option<PathBuf>,
    bytes: Bytes,
    encoding: Encoding,
    alignment: u32,
    metadata: Metadata,
}

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Tensors and entries are numbered in 32 bits, whatever the limits.
const INDEX_MAX: u64 = u32::MAX as u64;
/// The counts stand behind magic and version.
const COUNTS_AT: u64 = 8;
pub(crate) const VERSIONS: std::ops::RangeInclusive<u32> = 1..=3;
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const ALIGNMENT_DEFAULT: u32 = 32;

impl Shard {
    fn parse(path: Option<PathBuf>, bytes: Bytes, limits: &Limits) -> Result<Parsed, Error> {
        let name = |error: Error| error.in_file(path.as_deref());
        let mut c = read_encoding(&bytes).map_err(|l| name(l.of(Item::Header)))?;
        let (n_tensors, n_entries) =
            read_counts(&mut c, limits).map_err(|l| name(l.of(Item::Header)))?;
        let metadata = Metadata::read(&bytes, &mut c, n_entries, limits).map_err(name)?;
        let alignment = read_alignment(&bytes, &metadata).map_err(name)?;
        let table =
            tensor_info::read_table(&mut c, n_tensors, alignment, bytes.len() as u64, limits)
                .map_err(name)?;
        let encoding = c.encoding();
        Ok((Shard { path, bytes, encoding, alignment, metadata }, table))
    }

    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.metadata.get(&self.bytes, key)
    }

    /// Offset of a key's value, 0 if there is none.
    pub fn offset_of(&self, key: &str) -> u64 {
        self.metadata.offset_of(&self.bytes, key).unwrap_or(0)
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub fn byte_order(&self) -> ByteOrder {
        self.encoding.order
    }
}

type Parsed = (Shard, Table);

/// The shards so far, and the tensors of all of them.
#[derive(Default)]
struct Parts {
    shards: Vec<Shard>,
    table: Table,
}

impl Parts {
    fn push(&mut self, (shard, table): Parsed, limits: &Limits) -> Result<(), Error> {
        let count = (self.table.tensors.len() + table.tensors.len()) as u64;
        let max = limits.tensors_max.min(INDEX_MAX);
        if count > max {
            let fault = Fault::Limit { what: "tensors of all shards", value: count, max };
            return Err(Located::new(COUNTS_AT, fault).of(Item::Header).in_file(shard.path()));
        }
        if self.shards.is_empty() {
            self.table = table;
        } else {
            let shard = self.shards.len();
            self.table.tensors.extend(table.tensors.into_iter().map(|t| TensorInfo { shard, ..t }));
            self.table.info_at.extend(table.info_at);
        }
        self.shards.push(shard);
        Ok(())
    }

    fn finish(self, limits: &Limits) -> Result<GgufFile, Error> {
        let Parts { shards, table: Table { tensors, info_at } } = self;
        split::check_set(&shards, tensors.len() as u64, limits)?;
        let by_name = index_names(&shards, &tensors, &info_at)?;
        let data_order = shards[0].byte_order();
        Ok(GgufFile {
            shards,
            tensors,
            by_name,
            overrides: Vec::new(),
            ignored: Vec::new(),
            data_order,
        })
    }
}

/// Whether the key says how a file is laid out.
fn is_layout_key(key: &str) -> bool {
    key == ALIGNMENT_KEY || key.starts_with("split.")
}

fn open_shard(path: PathBuf, limits: &Limits) -> Result<Parsed, Error> {
    let bytes = Bytes::map(&path).map_err(|error| match error {
        Error::Io { path, source } => {
            Error::Shard { path: Some(path), fault: ShardFault::Missing(source) }
        }
        other => other,
    })?;
    Shard::parse(Some(path), bytes, limits)
}

/// Magic, version and byte order. Versions are small numbers, so one whose low 16 bits are zero
/// was written in the other byte order: ggml's rule.
fn read_encoding(bytes: &[u8]) -> Result<Cursor<'_>, Located> {
    let little = Encoding { version: *VERSIONS.end(), order: ByteOrder::Little };
    let mut c = Cursor::new(bytes, 0, little);
    let magic = c.take(MAGIC.len() as u64)?;
    if magic != MAGIC {
        let found = [magic[0], magic[1], magic[2], magic[3]];
        return Err(Located::new(0, Fault::Magic(found)));
    }
    let at = c.offset();
    let (order, version) = match c.u32()? {
        v if v & 0xFFFF == 0 => (ByteOrder::Big, v.swap_bytes()),
        v => (ByteOrder::Little, v),
    };
    if !VERSIONS.contains(&version) {
        return Err(Located::new(at, Fault::Version(version)));
    }
    Ok(Cursor::new(bytes, c.offset() as usize, Encoding { version, order }))
}

/// Number of tensors and of metadata entries.
fn read_counts(c: &mut Cursor<'_>, limits: &Limits) -> Result<(u64, u64), Located> {
    let encoding = c.encoding();
    let each = tensor_info::info_bytes_min(encoding);
    let n_tensors = c.count("tensors", limits.tensors_max.min(INDEX_MAX), each)?;
    let each = Metadata::entry_bytes_min(encoding);
    let n_entries = c.count("metadata entries", limits.entries_max.min(INDEX_MAX), each)?;
    Ok((n_tensors, n_entries))
}

fn read_alignment(bytes: &[u8], metadata: &Metadata) -> Result<u32, Error> {
    let fault = match metadata.get(bytes, ALIGNMENT_KEY) {
        None => return Ok(ALIGNMENT_DEFAULT),
        Some(Value::U32(alignment)) if alignment.is_power_of_two() => return Ok(alignment),
        Some(Value::U32(alignment)) => Fault::Alignment(alignment),
        Some(other) => Fault::wrong_type(ValueType::U32, other.value_type()),
    };
    let offset = metadata.offset_of(bytes, ALIGNMENT_KEY).unwrap_or(0);
    Err(Located::new(offset, fault).of(Item::key(ALIGNMENT_KEY)))
}

/// Tensor numbers sorted by name; a name that appears twice is an error.
fn index_names(shards: &[Shard], all: &[TensorInfo], info_at: &[u64]) -> Result<Vec<u32>, Error> {
    let mut by_name: Vec<u32> = (0..all.len() as u32).collect();
    by_name.sort_unstable_by_key(|&i| (all[i as usize].name.as_str(), i));
    for pair in by_name.windows(2) {
        let (first, second) = (pair[0] as usize, pair[1] as usize);
        if all[first].name == all[second].name {
            let fault = Fault::DuplicateTensor { first: info_at[first], shard: all[first].shard };
            let error = Located::new(info_at[second], fault).of(Item::tensor(&all[second].name));
            return Err(error.in_file(shards[all[second].shard].path()));
        }
    }
    Ok(by_name)
}
