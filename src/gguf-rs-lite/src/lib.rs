//! Bytes <-> GGUF: a zero-copy reader and a streaming writer.
//!
//! The reader maps a file, checks all of it but the tensors' values once, and hands out views:
//! versions 1, 2 and 3, little- and big-endian, split models. The crate knows no architecture,
//! does no arithmetic on weights and starts no threads. It never panics on bytes, and
//! [`Limits`] bound what a file can make it allocate.
//!
//! It accepts more than ggml: version 1, the other byte order, arrays within arrays, tensors with
//! gaps between them or in any order. It refuses what ggml lets pass: strings that are not UTF-8,
//! bools other than 0 and 1, empty tensor names, dimensions of length zero.

mod byte_order;
mod cursor;
mod error;
mod file;
mod ggml_type;
mod limits;
mod mapped;
mod metadata;
mod part_file;
mod split;
mod tensor_info;
mod writer;

pub use byte_order::{ByteOrder, swap_tensor_bytes};
pub use error::{Error, Fault, Item, ShardFault};
pub use file::GgufFile;
pub use ggml_type::GgmlType;
pub use limits::Limits;
pub use metadata::{Array, Scalar, Value, ValueType};
pub use part_file::{PartFile, PartFileError};
pub use split::{SPLIT_KEYS, shard_path, split_entries};
pub use tensor_info::TensorInfo;
pub use writer::{DataWriter, GgufWriter, OwnedArray, OwnedValue, WriteOptions};
