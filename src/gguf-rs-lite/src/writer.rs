//! A streaming writer: first all metadata and the table of tensors, then tensor bytes in order.
//!
//! Metadata is held until [`GgufWriter::write_header`], tensor bytes never are, so files larger
//! than memory can be written. What is written passes the reader's checks under default
//! [`Limits`].

use std::collections::HashSet;
use std::io::{BufWriter, Write};

use byteorder::{BE, ByteOrder as _, LE};

use crate::byte_order::ByteOrder;
use crate::cursor::Encoding;
use crate::error::{Error, Fault, Item};
use crate::file::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY, MAGIC, VERSIONS};
use crate::ggml_type::GgmlType;
use crate::limits::Limits;
use crate::metadata::{Array, Value, ValueType};
use crate::tensor_info::{DIMS_MAX, size_of};

/// Kind of file to write. The alignment is the key `general.alignment`, 32 without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// 1, 2 or 3; 3 by default. Nobody needs new files of version 1 but tests.
    pub version: u32,
    /// Little-endian by default.
    pub byte_order: ByteOrder,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { version: *VERSIONS.end(), byte_order: ByteOrder::Little }
    }
}

/// Collects metadata and the tensors' shapes, then writes the header.
///
/// ```
/// use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter};
/// let mut writer = GgufWriter::new(Vec::new());
/// writer.add("general.architecture", "llama")?;
/// writer.add("tokenizer.ggml.tokens", vec!["<s>".to_string(), "a".to_string()])?;
/// writer.declare("output_norm.weight", GgmlType::F32, &[2])?;
/// let mut data = writer.write_header()?;
/// data.write_tensor(&[0, 0, 128, 63, 0, 0, 0, 64])?;
/// let bytes = data.finish()?;
///
/// let file = GgufFile::from_bytes(bytes)?;
/// assert_eq!(file.get("general.architecture").and_then(|v| v.as_str()), Some("llama"));
/// assert_eq!(file.tensors()[0].dims, [2]);
/// # Ok::<(), gguf_rs_lite::Error>(())
/// ```
pub struct GgufWriter<W: Write> {
    out: W,
    encoding: Encoding,
    alignment: u32,
    entries: Vec<(String, OwnedValue)>,
    tensors: Vec<Declared>,
    keys: HashSet<String>,
    names: HashSet<String>,
    /// Bytes of the data section so far, padded.
    data_bytes: u64,
}

/// A metadata value that owns its memory.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum OwnedValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    /// A string that is not UTF-8.
    Bytes(Vec<u8>),
    Array(OwnedArray),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one type; arrays within an array may differ in type and length.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum OwnedArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Str(Vec<String>),
    /// Strings that are not all UTF-8.
    Bytes(Vec<Vec<u8>>),
    Array(Vec<OwnedArray>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// A tensor of the file to be.
struct Declared {
    name: String,
    ty: GgmlType,
    dims: Vec<u64>,
    /// In the data section.
    offset: u64,
    bytes: u64,
}

impl<W: Write> GgufWriter<W> {
    /// Writes version 3, little-endian. The writer buffers; `out` needs no buffer of its own.
    pub fn new(out: W) -> GgufWriter<W> {
        GgufWriter::with(out, V3_LITTLE)
    }

    /// Writes another version or byte order.
    ///
    /// # Errors
    /// The version is not 1, 2 or 3.
    pub fn with_options(out: W, options: WriteOptions) -> Result<GgufWriter<W>, Error> {
        let WriteOptions { version, byte_order: order } = options;
        if !VERSIONS.contains(&version) {
            return Err(refused(Item::Header, Fault::Version(version)));
        }
        Ok(GgufWriter::with(out, Encoding { version, order }))
    }

    fn with(out: W, encoding: Encoding) -> GgufWriter<W> {
        GgufWriter {
            out,
            encoding,
            alignment: ALIGNMENT_DEFAULT,
            entries: Vec::new(),
            tensors: Vec::new(),
            keys: HashSet::new(),
            names: HashSet::new(),
            data_bytes: 0,
        }
    }

    /// Adds a metadata entry. `general.alignment` must come before the first tensor.
    ///
    /// # Errors
    /// The key is empty or there already, something is over the default [`Limits`], or the
    /// alignment is no `u32` power of two.
    pub fn add(
        &mut self,
        key: impl Into<String>,
        value: impl Into<OwnedValue>,
    ) -> Result<(), Error> {
        let (key, value, limits) = (key.into(), value.into(), Limits::default());
        let fault = |fault| refused(Item::key(&key), fault);
        check_name("key bytes", &key, limits.key_bytes_max).map_err(fault)?;
        if self.keys.contains(&key) {
            return Err(fault(Fault::DuplicateKey { first: 0 }));
        }
        at_most("metadata entries", self.entries.len() as u64 + 1, limits.entries_max)
            .and_then(|()| check_value(&value, &limits))
            .map_err(fault)?;
        if key == ALIGNMENT_KEY {
            self.set_alignment(&value).map_err(fault)?;
        }
        self.keys.insert(key.clone());
        self.entries.push((key, value));
        Ok(())
    }

    fn set_alignment(&mut self, value: &OwnedValue) -> Result<(), Fault> {
        match value {
            OwnedValue::U32(value) if !value.is_power_of_two() => Err(Fault::Alignment(*value)),
            OwnedValue::U32(_) if !self.tensors.is_empty() => Err(Fault::AlignmentTooLate),
            OwnedValue::U32(value) => {
                self.alignment = *value;
                Ok(())
            }
            other => Err(Fault::wrong_type(ValueType::U32, other.value_type())),
        }
    }

    /// Adds a tensor: 1 to 4 `dims` in GGUF order, `dims[0]` being the row length.
    ///
    /// # Errors
    /// The name is empty, too long or there already, or the shape is none of this type.
    pub fn declare(
        &mut self,
        name: impl Into<String>,
        ty: GgmlType,
        dims: &[u64],
    ) -> Result<(), Error> {
        let (name, limits) = (name.into(), Limits::default());
        let fault = |fault| refused(Item::tensor(&name), fault);
        check_name("name bytes", &name, limits.name_bytes_max).map_err(fault)?;
        at_most("tensors", self.tensors.len() as u64 + 1, limits.tensors_max).map_err(fault)?;
        if dims.is_empty() || dims.len() > DIMS_MAX as usize {
            return Err(fault(Fault::DimCount(dims.len() as u32)));
        }
        if self.encoding.version == 1
            && let Some(&long) = dims.iter().find(|&&n| n > u32::MAX.into())
        {
            return Err(fault(Fault::TooLongForV1(long)));
        }
        let bytes = size_of(ty, dims).map_err(fault)?;
        let offset = self.data_bytes;
        let end = bytes
            .checked_next_multiple_of(self.alignment.into())
            .and_then(|padded| offset.checked_add(padded))
            .ok_or_else(|| fault(Fault::Overflow))?;
        if !self.names.insert(name.clone()) {
            return Err(fault(Fault::DuplicateTensor { first: 0, shard: 0 }));
        }
        self.data_bytes = end;
        self.tensors.push(Declared { name, ty, dims: dims.to_vec(), offset, bytes });
        Ok(())
    }

    /// Writes everything up to the first tensor's bytes.
    ///
    /// # Errors
    /// The output fails.
    pub fn write_header(self) -> Result<DataWriter<W>, Error> {
        let GgufWriter { out, encoding, alignment, entries, tensors, .. } = self;
        let mut out = Encoder { out: BufWriter::new(out), encoding, written: 0 };
        out.header(&entries, &tensors, alignment).map_err(Error::Write)?;
        let tensors = tensors.into_iter().map(|t| (t.name, t.bytes)).collect();
        Ok(DataWriter { out, alignment, tensors, next: 0, given: 0 })
    }
}

/// Takes the tensors' bytes in the order of their declaration.
pub struct DataWriter<W: Write> {
    out: Encoder<BufWriter<W>>,
    alignment: u32,
    /// Name and bytes.
    tensors: Vec<(String, u64)>,
    /// The tensor that is due.
    next: usize,
    /// Bytes of it so far.
    given: u64,
}

impl<W: Write> DataWriter<W> {
    /// Writes the whole of the next tensor, in the file's byte order.
    ///
    /// # Errors
    /// The length is not the tensor's, all tensors are written, or the output fails.
    pub fn write_tensor(&mut self, data: &[u8]) -> Result<(), Error> {
        if let Some((name, bytes)) = self.tensors.get(self.next) {
            let given = self.given + data.len() as u64;
            if given != *bytes {
                let fault = Fault::DataLength { expected: *bytes, given };
                return Err(refused(Item::tensor(name), fault));
            }
        }
        self.write_chunk(data)
    }

    /// Writes a part of the next tensor; the tensor after it is next once all bytes are there.
    ///
    /// # Errors
    /// The part reaches beyond the tensor's end, all are written, or the output fails.
    pub fn write_chunk(&mut self, data: &[u8]) -> Result<(), Error> {
        let Some((name, bytes)) = self.tensors.get(self.next) else {
            return Err(refused(Item::Data, Fault::NoSuchTensor));
        };
        let given = self.given + data.len() as u64;
        if given > *bytes {
            let fault = Fault::DataLength { expected: *bytes, given };
            return Err(refused(Item::tensor(name), fault));
        }
        self.out.raw(data).map_err(Error::Write)?;
        self.given = given;
        if given == *bytes {
            self.out.pad(self.alignment).map_err(Error::Write)?;
            (self.next, self.given) = (self.next + 1, 0);
        }
        Ok(())
    }

    /// Flushes and returns the output.
    ///
    /// # Errors
    /// A tensor's bytes are missing, or the output fails.
    pub fn finish(self) -> Result<W, Error> {
        if let Some((name, _)) = self.tensors.get(self.next) {
            return Err(refused(Item::tensor(name), Fault::Unfinished));
        }
        self.out.out.into_inner().map_err(|error| Error::Write(error.into_error()))
    }
}

const V3_LITTLE: Encoding = Encoding { version: *VERSIONS.end(), order: ByteOrder::Little };

fn refused(item: Item, fault: Fault) -> Error {
    Error::Refused { item, fault }
}

fn at_most(what: &'static str, value: u64, max: u64) -> Result<(), Fault> {
    if value > max { Err(Fault::Limit { what, value, max }) } else { Ok(()) }
}

fn check_name(what: &'static str, name: &str, max: u64) -> Result<(), Fault> {
    if name.is_empty() { Err(Fault::Empty) } else { at_most(what, name.len() as u64, max) }
}

fn check_value(value: &OwnedValue, limits: &Limits) -> Result<(), Fault> {
    match value {
        OwnedValue::Str(s) => check_string(s.as_bytes(), limits),
        OwnedValue::Bytes(s) => check_string(s, limits),
        OwnedValue::Array(array) => check_array(array, 1, limits),
        _ => Ok(()),
    }
}

fn check_string(s: &[u8], limits: &Limits) -> Result<(), Fault> {
    at_most("string bytes", s.len() as u64, limits.string_bytes_max)
}

fn check_array(array: &OwnedArray, depth: u8, limits: &Limits) -> Result<(), Fault> {
    at_most("arrays within arrays", depth.into(), limits.array_depth_max.into())?;
    at_most("array elements", array.len() as u64, limits.array_len_max)?;
    match array {
        OwnedArray::Str(strings) => {
            strings.iter().try_for_each(|s| check_string(s.as_bytes(), limits))
        }
        OwnedArray::Bytes(strings) => strings.iter().try_for_each(|s| check_string(s, limits)),
        OwnedArray::Array(arrays) => {
            arrays.iter().try_for_each(|inner| check_array(inner, depth + 1, limits))
        }
        _ => Ok(()),
    }
}

/// Numbers in the file's byte order, and how many bytes were written.
struct Encoder<W> {
    out: W,
    encoding: Encoding,
    written: u64,
}

impl<W: Write> Encoder<W> {
    fn header(
        &mut self,
        entries: &[(String, OwnedValue)],
        tensors: &[Declared],
        alignment: u32,
    ) -> std::io::Result<()> {
        self.raw(&MAGIC)?;
        self.u32(self.encoding.version)?;
        self.length(tensors.len() as u64)?;
        self.length(entries.len() as u64)?;
        for (key, value) in entries {
            self.string(key.as_bytes())?;
            self.u32(value.value_type().id())?;
            self.value(value)?;
        }
        for tensor in tensors {
            self.string(tensor.name.as_bytes())?;
            self.u32(tensor.dims.len() as u32)?;
            tensor.dims.iter().try_for_each(|&dim| self.length(dim))?;
            self.u32(tensor.ty.id())?;
            self.u64(tensor.offset)?;
        }
        if tensors.is_empty() { Ok(()) } else { self.pad(alignment) }
    }

    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn u16(&mut self, value: u16) -> std::io::Result<()> {
        let mut b = [0; 2];
        match self.encoding.order {
            ByteOrder::Little => LE::write_u16(&mut b, value),
            ByteOrder::Big => BE::write_u16(&mut b, value),
        }
        self.raw(&b)
    }

    fn u32(&mut self, value: u32) -> std::io::Result<()> {
        let mut b = [0; 4];
        match self.encoding.order {
            ByteOrder::Little => LE::write_u32(&mut b, value),
            ByteOrder::Big => BE::write_u32(&mut b, value),
        }
        self.raw(&b)
    }

    fn u64(&mut self, value: u64) -> std::io::Result<()> {
        let mut b = [0; 8];
        match self.encoding.order {
            ByteOrder::Little => LE::write_u64(&mut b, value),
            ByteOrder::Big => BE::write_u64(&mut b, value),
        }
        self.raw(&b)
    }

    /// As wide as the version has lengths. Everything written here was checked to fit.
    fn length(&mut self, value: u64) -> std::io::Result<()> {
        if self.encoding.version == 1 { self.u32(value as u32) } else { self.u64(value) }
    }

    fn string(&mut self, s: &[u8]) -> std::io::Result<()> {
        self.length(s.len() as u64)?;
        self.raw(s)
    }

    fn pad(&mut self, alignment: u32) -> std::io::Result<()> {
        const ZEROS: [u8; 64] = [0; 64];
        let mut left = self.written.next_multiple_of(alignment.into()) - self.written;
        while left > 0 {
            let n = left.min(ZEROS.len() as u64);
            self.raw(&ZEROS[..n as usize])?;
            left -= n;
        }
        Ok(())
    }

    fn value(&mut self, value: &OwnedValue) -> std::io::Result<()> {
        match value {
            OwnedValue::U8(v) => self.raw(&[*v]),
            OwnedValue::I8(v) => self.raw(&[*v as u8]),
            OwnedValue::U16(v) => self.u16(*v),
            OwnedValue::I16(v) => self.u16(*v as u16),
            OwnedValue::U32(v) => self.u32(*v),
            OwnedValue::I32(v) => self.u32(*v as u32),
            OwnedValue::F32(v) => self.u32(v.to_bits()),
            OwnedValue::Bool(v) => self.raw(&[u8::from(*v)]),
            OwnedValue::Str(v) => self.string(v.as_bytes()),
            OwnedValue::Bytes(v) => self.string(v),
            OwnedValue::Array(v) => self.array(v),
            OwnedValue::U64(v) => self.u64(*v),
            OwnedValue::I64(v) => self.u64(*v as u64),
            OwnedValue::F64(v) => self.u64(v.to_bits()),
        }
    }

    fn array(&mut self, array: &OwnedArray) -> std::io::Result<()> {
        self.u32(array.element_type().id())?;
        self.length(array.len() as u64)?;
        match array {
            OwnedArray::U8(v) => self.raw(v),
            OwnedArray::I8(v) => v.iter().try_for_each(|v| self.raw(&[*v as u8])),
            OwnedArray::U16(v) => v.iter().try_for_each(|v| self.u16(*v)),
            OwnedArray::I16(v) => v.iter().try_for_each(|v| self.u16(*v as u16)),
            OwnedArray::U32(v) => v.iter().try_for_each(|v| self.u32(*v)),
            OwnedArray::I32(v) => v.iter().try_for_each(|v| self.u32(*v as u32)),
            OwnedArray::F32(v) => v.iter().try_for_each(|v| self.u32(v.to_bits())),
            OwnedArray::Bool(v) => v.iter().try_for_each(|v| self.raw(&[u8::from(*v)])),
            OwnedArray::Str(v) => v.iter().try_for_each(|v| self.string(v.as_bytes())),
            OwnedArray::Bytes(v) => v.iter().try_for_each(|v| self.string(v)),
            OwnedArray::Array(v) => v.iter().try_for_each(|v| self.array(v)),
            OwnedArray::U64(v) => v.iter().try_for_each(|v| self.u64(*v)),
            OwnedArray::I64(v) => v.iter().try_for_each(|v| self.u64(*v as u64)),
            OwnedArray::F64(v) => v.iter().try_for_each(|v| self.u64(v.to_bits())),
        }
    }
}

impl OwnedArray {
    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        match self {
            OwnedArray::U8(_) => ValueType::U8,
            OwnedArray::I8(_) => ValueType::I8,
            OwnedArray::U16(_) => ValueType::U16,
            OwnedArray::I16(_) => ValueType::I16,
            OwnedArray::U32(_) => ValueType::U32,
            OwnedArray::I32(_) => ValueType::I32,
            OwnedArray::F32(_) => ValueType::F32,
            OwnedArray::Bool(_) => ValueType::Bool,
            OwnedArray::Str(_) | OwnedArray::Bytes(_) => ValueType::Str,
            OwnedArray::Array(_) => ValueType::Array,
            OwnedArray::U64(_) => ValueType::U64,
            OwnedArray::I64(_) => ValueType::I64,
            OwnedArray::F64(_) => ValueType::F64,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            OwnedArray::U8(v) => v.len(),
            OwnedArray::I8(v) => v.len(),
            OwnedArray::U16(v) => v.len(),
            OwnedArray::I16(v) => v.len(),
            OwnedArray::U32(v) => v.len(),
            OwnedArray::I32(v) => v.len(),
            OwnedArray::F32(v) => v.len(),
            OwnedArray::Bool(v) => v.len(),
            OwnedArray::Str(v) => v.len(),
            OwnedArray::Bytes(v) => v.len(),
            OwnedArray::Array(v) => v.len(),
            OwnedArray::U64(v) => v.len(),
            OwnedArray::I64(v) => v.len(),
            OwnedArray::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl OwnedValue {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            OwnedValue::U8(_) => ValueType::U8,
            OwnedValue::I8(_) => ValueType::I8,
            OwnedValue::U16(_) => ValueType::U16,
            OwnedValue::I16(_) => ValueType::I16,
            OwnedValue::U32(_) => ValueType::U32,
            OwnedValue::I32(_) => ValueType::I32,
            OwnedValue::F32(_) => ValueType::F32,
            OwnedValue::Bool(_) => ValueType::Bool,
            OwnedValue::Str(_) | OwnedValue::Bytes(_) => ValueType::Str,
            OwnedValue::Array(_) => ValueType::Array,
            OwnedValue::U64(_) => ValueType::U64,
            OwnedValue::I64(_) => ValueType::I64,
            OwnedValue::F64(_) => ValueType::F64,
        }
    }
}

impl From<Value<'_>> for OwnedValue {
    fn from(value: Value<'_>) -> OwnedValue {
        match value {
            Value::U8(v) => OwnedValue::U8(v),
            Value::I8(v) => OwnedValue::I8(v),
            Value::U16(v) => OwnedValue::U16(v),
            Value::I16(v) => OwnedValue::I16(v),
            Value::U32(v) => OwnedValue::U32(v),
            Value::I32(v) => OwnedValue::I32(v),
            Value::F32(v) => OwnedValue::F32(v),
            Value::Bool(v) => OwnedValue::Bool(v),
            Value::Str(v) => OwnedValue::Str(v.to_owned()),
            Value::Bytes(v) => OwnedValue::Bytes(v.to_owned()),
            Value::Array(v) => OwnedValue::Array(v.into()),
            Value::U64(v) => OwnedValue::U64(v),
            Value::I64(v) => OwnedValue::I64(v),
            Value::F64(v) => OwnedValue::F64(v),
        }
    }
}

impl From<Array<'_>> for OwnedArray {
    fn from(array: Array<'_>) -> OwnedArray {
        /// The elements of an array of this variant: others cannot occur.
        macro_rules! elements {
            ($variant:ident) => {
                OwnedArray::$variant(
                    array
                        .iter()
                        .filter_map(|value| match value {
                            Value::$variant(v) => Some(v.into()),
                            _ => None,
                        })
                        .collect(),
                )
            };
        }
        match array.element_type() {
            ValueType::U8 => elements!(U8),
            ValueType::I8 => elements!(I8),
            ValueType::U16 => elements!(U16),
            ValueType::I16 => elements!(I16),
            ValueType::U32 => elements!(U32),
            ValueType::I32 => elements!(I32),
            ValueType::F32 => elements!(F32),
            ValueType::Bool => elements!(Bool),
            ValueType::Str => match (array.strs(), array.byte_strs()) {
                (None, Some(strings)) => OwnedArray::Bytes(strings.map(<[u8]>::to_vec).collect()),
                _ => elements!(Str),
            },
            ValueType::Array => elements!(Array),
            ValueType::U64 => elements!(U64),
            ValueType::I64 => elements!(I64),
            ValueType::F64 => elements!(F64),
        }
    }
}

/// `From` a Rust value and from a `Vec` of it.
macro_rules! from_rust {
    ($($rust:ty => $variant:ident),* $(,)?) => {$(
        impl From<$rust> for OwnedValue {
            fn from(value: $rust) -> OwnedValue {
                OwnedValue::$variant(value)
            }
        }
        impl From<Vec<$rust>> for OwnedValue {
            fn from(values: Vec<$rust>) -> OwnedValue {
                OwnedValue::Array(OwnedArray::$variant(values))
            }
        }
    )*};
}

from_rust! {
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    String => Str, OwnedArray => Array, u64 => U64, i64 => I64, f64 => F64,
}

impl From<&str> for OwnedValue {
    fn from(value: &str) -> OwnedValue {
        OwnedValue::Str(value.to_owned())
    }
}
