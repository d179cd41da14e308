//! What can be wrong with a file: where (offset), in what (key or tensor), and how.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::byte_order::ByteOrder;
use crate::ggml_type::GgmlType;
use crate::metadata::ValueType;

/// An error of the reader or the writer. `Display` gives one line.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, map or read a file.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are no valid GGUF.
    Malformed {
        /// The file; `None` for bytes in memory.
        path: Option<PathBuf>,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// The part of the file that is wrong.
        item: Item,
        /// What is wrong with it.
        fault: Fault,
    },
    /// One file of a split model is missing or does not belong to the others.
    Shard {
        /// The file; `None` for bytes in memory.
        path: Option<PathBuf>,
        /// What is wrong with it.
        fault: ShardFault,
    },
    /// The writer was asked for something that would not be a valid file.
    Refused {
        /// The key or tensor in question.
        item: Item,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A value cannot stand in for the file's.
    Override {
        /// The key.
        key: String,
        /// What is wrong with the value.
        fault: Fault,
    },
    /// The file does not fit the memory.
    Memory {
        /// Bytes of the file.
        bytes: u64,
    },
    /// The file was cut while it was open.
    Cut {
        /// The file.
        path: Option<PathBuf>,
        /// Bytes that it had.
        bytes: u64,
        /// Bytes that it has.
        left: u64,
    },
    /// The writer's output failed.
    Write(io::Error),
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Magic, version and counts.
    Header,
    /// The metadata entry of this number, counted from 0, whose key is not readable.
    Entry(u64),
    /// The metadata entry of this key (long keys are cut).
    Key(String),
    /// The tensor of this number, counted from 0, whose name is not readable.
    TensorNumber(u64),
    /// The tensor of this name (long names are cut).
    Tensor(String),
    /// Tensor bytes.
    Data,
}

/// Fault of an [`Item`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The file does not begin with `GGUF`.
    Magic([u8; 4]),
    /// The format's version is not 1, 2 or 3.
    Version(u32),
    /// The file ends too early.
    Truncated {
        /// Bytes the item needs here.
        needed: u64,
        /// Bytes the file still has.
        left: u64,
    },
    /// A count that the rest of the file cannot hold.
    Count {
        /// What is counted.
        what: &'static str,
        /// How many the file claims.
        count: u64,
        /// Bytes the file still has.
        left: u64,
    },
    /// More than [`Limits`](crate::Limits) allow.
    Limit {
        /// What is limited.
        what: &'static str,
        /// What the file asks for.
        value: u64,
        /// What is allowed.
        max: u64,
    },
    /// A key or a tensor's name is empty.
    Empty,
    /// A string is not UTF-8.
    Utf8,
    /// An unknown id of a metadata type.
    ValueType(u32),
    /// A bool that is neither 0 nor 1.
    Bool(u8),
    /// A key appears twice; the offset is the second one's.
    DuplicateKey {
        /// Offset of the first one.
        first: u64,
    },
    /// A tensor's name appears twice; the offset is the second one's.
    DuplicateTensor {
        /// Offset of the first one, in the file named by its shard.
        first: u64,
        /// Shard of the first one, counted from 0.
        shard: usize,
    },
    /// A key whose meaning the reader needs has another type.
    WrongType {
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A key that says how the file is laid out.
    LayoutKey,
    /// `general.alignment` is not a power of two.
    Alignment(u32),
    /// The writer was told the alignment after the first tensor.
    AlignmentTooLate,
    /// An id of a tensor type that is unknown or was withdrawn.
    TensorType(u32),
    /// A number of dimensions other than 0..=4.
    DimCount(u32),
    /// A dimension of length zero.
    ZeroDim(usize),
    /// The tensor's size overflows 64 bits.
    Overflow,
    /// The row length is no multiple of the type's block length.
    RowLength {
        /// The type.
        ty: GgmlType,
        /// Row length in elements.
        cols: u64,
    },
    /// The tensor's offset is no multiple of the alignment.
    Misaligned {
        /// Offset relative to the file's data section.
        offset: u64,
        /// The file's alignment.
        alignment: u32,
    },
    /// The tensor's bytes are not all within the file.
    OutOfFile {
        /// First byte, absolute; `None` if the sum overflows.
        start: Option<u64>,
        /// Bytes of the tensor.
        bytes: u64,
        /// Bytes of the file.
        file_bytes: u64,
    },
    /// Two tensors share bytes.
    Overlap {
        /// The other tensor.
        other: String,
        /// Where both begin to have bytes, absolute.
        at: u64,
    },
    /// Data that is no whole number of blocks.
    PartialBlock {
        /// The type.
        ty: GgmlType,
        /// Bytes given.
        bytes: u64,
    },
    /// The writer got too many or too few bytes for a tensor.
    DataLength {
        /// Bytes the tensor has.
        expected: u64,
        /// Bytes given.
        given: u64,
    },
    /// Data after the last declared tensor.
    NoSuchTensor,
    /// The writer was finished before this tensor's bytes came.
    Unfinished,
    /// A length that a version 1 file cannot hold in 32 bits.
    TooLongForV1(u64),
}

/// Fault of one file of a split model.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShardFault {
    /// The file cannot be opened.
    Missing(io::Error),
    /// The model is split, but the file's name is not `<name>-0000<i>-of-0000<n>.gguf` with
    /// the numbers of its metadata, so the others cannot be found.
    Name {
        /// `split.no`, counted from 0.
        no: u64,
        /// `split.count`.
        count: u64,
    },
    /// A key that every shard carries is not there.
    NoKey(&'static str),
    /// `split.no` or `split.count` differ from the place in the set of files.
    Number {
        /// The key.
        key: &'static str,
        /// What the file says.
        found: u64,
        /// What belongs here.
        expected: u64,
    },
    /// `split.tensors.count` differs from the tensors of all shards together.
    TensorCount {
        /// What the file says.
        declared: u64,
        /// Tensors found.
        found: u64,
    },
    /// The shard's byte order differs from the first one's.
    ByteOrder(ByteOrder),
    /// More shards than [`Limits`](crate::Limits) allow.
    Limit {
        /// `split.count`.
        count: u64,
        /// What is allowed.
        max: u64,
    },
}

impl Error {
    /// The file offset of a malformed item, in bytes.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Error::Malformed { offset, .. } => Some(*offset),
            _ => None,
        }
    }

    /// The fault of the bytes or of the request.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Error::Malformed { fault, .. }
            | Error::Refused { fault, .. }
            | Error::Override { fault, .. } => Some(fault),
            _ => None,
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Error {
        Error::Io { path: path.to_owned(), source }
    }

    /// Names the file of an error that was found in bytes.
    pub(crate) fn in_file(mut self, file: Option<&Path>) -> Error {
        if let Error::Malformed { path, .. } = &mut self {
            *path = file.map(Path::to_owned);
        }
        self
    }
}

impl Item {
    pub(crate) fn key(key: &str) -> Item {
        Item::Key(cut(key))
    }

    pub(crate) fn tensor(name: &str) -> Item {
        Item::Tensor(cut(name))
    }
}

impl Fault {
    pub(crate) fn wrong_type(expected: ValueType, found: ValueType) -> Fault {
        Fault::WrongType { expected: expected.name(), found: found.name() }
    }
}

/// Names in messages are cut here: a hostile key may be 64 KiB long.
const SHOWN_BYTES_MAX: usize = 128;

pub(crate) fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(SHOWN_BYTES_MAX)].to_owned()
}

/// A fault and where it stands, before the item and the path are known.
#[derive(Debug)]
pub(crate) struct Located {
    pub offset: u64,
    pub fault: Fault,
}

impl Located {
    pub fn new(offset: u64, fault: Fault) -> Located {
        Located { offset, fault }
    }

    pub fn of(self, item: Item) -> Error {
        Error::Malformed { path: None, offset: self.offset, item, fault: self.fault }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } | Error::Write(source) => Some(source),
            Error::Shard { fault: ShardFault::Missing(source), .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |path: &Option<PathBuf>, f: &mut fmt::Formatter<'_>| match path {
            Some(path) => write!(f, "{}: ", path.display()),
            None => Ok(()),
        };
        match self {
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Malformed { path, offset, item, fault } => {
                place(path, f)?;
                write!(f, "offset {offset}, {item}: {fault}")
            }
            Error::Shard { path, fault } => {
                place(path, f)?;
                write!(f, "{fault}")
            }
            Error::Refused { item, fault } => write!(f, "cannot write {item}: {fault}"),
            Error::Override { key, fault } => write!(f, "cannot override key `{key}`: {fault}"),
            Error::Memory { bytes } => {
                write!(f, "{bytes} bytes of tensors in the other byte order do not fit the memory")
            }
            Error::Cut { path, bytes, left } => {
                place(path, f)?;
                write!(f, "the file was cut from {bytes} to {left} bytes while it was read")
            }
            Error::Write(source) => write!(f, "writing GGUF failed: {source}"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Header => f.write_str("header"),
            Item::Entry(number) => write!(f, "metadata entry {number}"),
            Item::Key(key) => write!(f, "key {key:?}"),
            Item::TensorNumber(number) => write!(f, "tensor {number}"),
            Item::Tensor(name) => write!(f, "tensor {name:?}"),
            Item::Data => f.write_str("tensor data"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Magic(found) => {
                write!(f, "not a GGUF file: it begins with \"{}\"", found.escape_ascii())
            }
            Fault::Version(version) => {
                write!(f, "GGUF version {version} is not supported (1, 2 and 3 are)")
            }
            Fault::Truncated { needed, left } => {
                write!(f, "the file is cut off: {needed} bytes needed, {left} left")
            }
            Fault::Count { what, count, left } => {
                write!(f, "{count} {what} cannot fit into the {left} bytes left")
            }
            Fault::Limit { what, value, max } => {
                write!(f, "{value} {what}, at most {max} are allowed")
            }
            Fault::Empty => f.write_str("the name is empty"),
            Fault::Utf8 => f.write_str("the string is not UTF-8"),
            Fault::ValueType(id) => write!(f, "metadata type {id} is unknown"),
            Fault::Bool(byte) => write!(f, "a bool is {byte}, not 0 or 1"),
            Fault::DuplicateKey { first } => {
                write!(f, "the key appears twice, first at offset {first}")
            }
            Fault::DuplicateTensor { first, shard } => {
                write!(f, "the tensor appears twice, first at offset {first}")?;
                if *shard > 0 { write!(f, " of shard {}", shard + 1) } else { Ok(()) }
            }
            Fault::WrongType { expected, found } => write!(f, "must be {expected}, is {found}"),
            Fault::LayoutKey => f.write_str("it says how the file is laid out"),
            Fault::Alignment(value) => write!(f, "alignment {value} is not a power of two"),
            Fault::AlignmentTooLate => f.write_str("must be set before the first tensor"),
            Fault::TensorType(id) => match GgmlType::withdrawn_name(*id) {
                Some(name) => write!(f, "tensor type {id} ({name}) was withdrawn from GGUF"),
                None => write!(f, "tensor type {id} is unknown"),
            },
            Fault::DimCount(n) => write!(f, "{n} dimensions, at most 4 are allowed"),
            Fault::ZeroDim(dim) => write!(f, "dimension {dim} has length 0"),
            Fault::Overflow => f.write_str("the tensor's size overflows 64 bits"),
            Fault::RowLength { ty, cols } => write!(
                f,
                "rows of {cols} elements are no multiple of {ty}'s block of {}",
                ty.block_len()
            ),
            Fault::Misaligned { offset, alignment } => {
                write!(f, "data offset {offset} is no multiple of the alignment {alignment}")
            }
            Fault::OutOfFile { start: Some(start), bytes, file_bytes } => write!(
                f,
                "{bytes} data bytes from offset {start} pass the file's end at {file_bytes}"
            ),
            Fault::OutOfFile { start: None, bytes, file_bytes } => write!(
                f,
                "{bytes} data bytes at an overflowing offset in a file of {file_bytes} bytes"
            ),
            Fault::Overlap { other, at } => {
                write!(f, "its data overlaps tensor {other:?} at offset {at}")
            }
            Fault::PartialBlock { ty, bytes } => write!(
                f,
                "{bytes} bytes are not whole blocks of {ty} ({} bytes each)",
                ty.block_bytes()
            ),
            Fault::DataLength { expected, given } => {
                write!(f, "its data has {expected} bytes, {given} were given")
            }
            Fault::NoSuchTensor => f.write_str("data after the last declared tensor"),
            Fault::Unfinished => f.write_str("finished before its data was written"),
            Fault::TooLongForV1(value) => {
                write!(f, "{value} does not fit the 32 bits of a version 1 file")
            }
        }
    }
}

impl fmt::Display for ShardFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShardFault::Missing(source) => write!(f, "a shard of the model is missing: {source}"),
            ShardFault::Name { no, count } => write!(
                f,
                "the file is shard {} of {count}, but its name does not end in \
                 -{:05}-of-{count:05}.gguf, so the other shards cannot be found",
                no.saturating_add(1),
                no.saturating_add(1),
            ),
            ShardFault::NoKey(key) => write!(f, "a shard without the key {key:?}"),
            ShardFault::Number { key, found, expected } => write!(
                f,
                "key {key:?} is {found}, expected {expected}: not a shard of this model or renamed"
            ),
            ShardFault::TensorCount { declared, found } => write!(
                f,
                "key \"split.tensors.count\" is {declared}, but the shards have {found} tensors"
            ),
            ShardFault::ByteOrder(order) => {
                write!(f, "the shard is {order}, the first shard is not")
            }
            ShardFault::Limit { count, max } => {
                write!(f, "key \"split.count\": {count} shards are over the limit of {max}")
            }
        }
    }
}
