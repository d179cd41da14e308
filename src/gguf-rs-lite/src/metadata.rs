//! Metadata: keys with typed values, decoded from the map only when asked for.
//!
//! Opening a file walks every value once and checks it ([`Metadata::read`]); afterwards an entry
//! is 20 bytes and a vocabulary of 262,000 tokens costs nothing until somebody iterates over it.

use byteorder::{BE, ByteOrder as _, LE};

use crate::byte_order::ByteOrder;
use crate::cursor::{Cursor, Encoding};
use crate::error::{Error, Fault, Item, Located};
use crate::limits::Limits;

/// The type of a metadata value or of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

/// A metadata value; strings and arrays borrow from the file.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
    /// A string that is not UTF-8: text that somebody cut or wrote in another encoding, or a token,
    /// which is bytes.
    Bytes(&'a [u8]),
}

/// A value that stands in for a file's: one of each kind that a user can mean, whatever the width.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Scalar {
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(String),
}

impl Scalar {
    /// The value.
    pub fn value(&self) -> Value<'_> {
        match self {
            Scalar::Int(v) => Value::I64(*v),
            Scalar::Float(v) => Value::F64(*v),
            Scalar::Bool(v) => Value::Bool(*v),
            Scalar::Str(v) => Value::Str(v),
        }
    }

    /// Whether a value of the file is of this kind.
    pub(crate) fn can_replace(&self, ty: ValueType) -> bool {
        match self {
            Scalar::Int(_) => ty.is_integer(),
            Scalar::Float(_) => matches!(ty, ValueType::F32 | ValueType::F64),
            Scalar::Bool(_) => ty == ValueType::Bool,
            Scalar::Str(_) => ty == ValueType::Str,
        }
    }
}

/// An array in the file, decoded while it is iterated over.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    /// At the first element.
    cursor: Cursor<'a>,
    ty: ValueType,
    len: usize,
    /// Whether all strings in it are UTF-8.
    is_text: bool,
}

impl ValueType {
    /// The type of an id in a file.
    pub fn from_id(id: u32) -> Option<ValueType> {
        use ValueType::*;
        Some(match id {
            0 => U8,
            1 => I8,
            2 => U16,
            3 => I16,
            4 => U32,
            5 => I32,
            6 => F32,
            7 => Bool,
            8 => Str,
            9 => Array,
            10 => U64,
            11 => I64,
            12 => F64,
            _ => return None,
        })
    }

    /// The id that files carry.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// A short name such as `u32` or `str`.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            Str => "str",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }

    fn is_integer(self) -> bool {
        use ValueType::*;
        matches!(self, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64)
    }

    /// Bytes of a value; `None` for strings and arrays.
    fn fixed_bytes(self) -> Option<u64> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            Str | Array => None,
        }
    }

    /// The least bytes that a value takes in a file.
    fn bytes_min(self, encoding: Encoding) -> u64 {
        let header = if self == ValueType::Array { TYPE_BYTES } else { 0 };
        self.fixed_bytes().unwrap_or(header + encoding.length_bytes())
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl<'a> Value<'a> {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) | Value::Bytes(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The type's name, e.g. `u32`.
    pub fn type_name(&self) -> &'static str {
        self.value_type().name()
    }

    /// Any integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U64(v) => Some(v),
            _ => self.as_i64().and_then(|v| u64::try_from(v).ok()),
        }
    }

    /// Any integer that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => i64::try_from(v).ok(),
            Value::I64(v) => Some(v),
            _ => None,
        }
    }

    /// An `f32`, or an `f64` rounded to one.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A bool.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(v) = *self { Some(v) } else { None }
    }

    /// A string, if it is UTF-8, without the zero bytes that writers of 2023 put behind it.
    pub fn as_str(&self) -> Option<&'a str> {
        if let Value::Str(v) = *self { Some(v.trim_end_matches('\0')) } else { None }
    }

    /// Whether it is text as it should be: all of it UTF-8, and no zero byte at the end of a string.
    pub fn is_clean_text(&self) -> bool {
        match self {
            Value::Bytes(_) => false,
            Value::Str(text) => !text.ends_with('\0'),
            Value::Array(array) => array.is_text,
            _ => true,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        if let Value::Array(v) = *self { Some(v) } else { None }
    }

    /// The checked value at the cursor, which is moved behind it.
    fn decode(c: &mut Cursor<'a>, ty: ValueType) -> Value<'a> {
        let encoding = c.encoding();
        let mut fixed = || checked(c.take(ty.fixed_bytes().expect("only called for fixed sizes")));
        match ty {
            ValueType::U8 => Value::U8(fixed()[0]),
            ValueType::I8 => Value::I8(fixed()[0] as i8),
            ValueType::U16 => Value::U16(encoding.u16(fixed())),
            ValueType::I16 => Value::I16(encoding.u16(fixed()) as i16),
            ValueType::U32 => Value::U32(encoding.u32(fixed())),
            ValueType::I32 => Value::I32(encoding.u32(fixed()) as i32),
            ValueType::F32 => Value::F32(f32::from_bits(encoding.u32(fixed()))),
            ValueType::Bool => Value::Bool(fixed()[0] != 0),
            ValueType::U64 => Value::U64(encoding.u64(fixed())),
            ValueType::I64 => Value::I64(encoding.u64(fixed()) as i64),
            ValueType::F64 => Value::F64(f64::from_bits(encoding.u64(fixed()))),
            ValueType::Str => string_value(checked(c.string_bytes("string bytes", u64::MAX))),
            ValueType::Array => Value::Array(Array::decode(c)),
        }
    }
}

fn string_value(bytes: &[u8]) -> Value<'_> {
    std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Str)
}

/// What was validated at open reads the same afterwards, unless the file is changed under the
/// map, which the reader's contract excludes.
fn checked<T>(result: Result<T, Located>) -> T {
    result.expect("metadata was checked when the file was opened")
}

impl<'a> Array<'a> {
    /// The checked array whose type and length stand at the cursor, which is moved behind it.
    fn decode(c: &mut Cursor<'a>) -> Array<'a> {
        let mut array = Array::head(c, true);
        array.is_text = array.skip(c);
        array
    }

    /// Reads type and length; the cursor is left at the first element.
    fn head(c: &mut Cursor<'a>, is_text: bool) -> Array<'a> {
        let ty = checked(value_type(c));
        let len = checked(c.length()) as usize;
        Array { cursor: *c, ty, len, is_text }
    }

    /// Moves a cursor from the first element behind the last one. Returns whether all strings are
    /// UTF-8.
    fn skip(&self, c: &mut Cursor<'a>) -> bool {
        let elements = 0..self.len;
        match (self.ty, self.ty.fixed_bytes()) {
            (_, Some(bytes)) => {
                checked(c.take(self.len as u64 * bytes));
                true
            }
            (ValueType::Array, None) => {
                elements.fold(true, |is_text, _| Array::decode(c).is_text && is_text)
            }
            (_, None) => elements.fold(true, |is_text, _| {
                let bytes = checked(c.string_bytes("string bytes", u64::MAX));
                is_text && std::str::from_utf8(bytes).is_ok()
            }),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of every element.
    pub fn element_type(&self) -> ValueType {
        self.ty
    }

    /// The elements; those of an array of arrays are arrays.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value<'a>> + use<'a> {
        let Array { mut cursor, ty, len, .. } = *self;
        (0..len).map(move |_| Value::decode(&mut cursor, ty))
    }

    /// The elements of an array of strings, if all are UTF-8.
    pub fn strs(&self) -> Option<impl ExactSizeIterator<Item = &'a str> + use<'a>> {
        let Array { mut cursor, ty, len, is_text } = *self;
        (ty == ValueType::Str && is_text)
            .then(|| (0..len).map(move |_| checked(cursor.string("string bytes", u64::MAX))))
    }

    /// The elements of an array of strings as bytes, which need not be UTF-8.
    pub fn byte_strs(&self) -> Option<impl ExactSizeIterator<Item = &'a [u8]> + use<'a>> {
        let Array { mut cursor, ty, len, .. } = *self;
        (ty == ValueType::Str)
            .then(|| (0..len).map(move |_| checked(cursor.string_bytes("string bytes", u64::MAX))))
    }

    /// The elements of an array of integers, if none is negative.
    pub fn to_u64s(&self) -> Option<Vec<u64>> {
        self.collect(ValueType::is_integer, |v| v.as_u64())
    }

    /// The elements of an array of integers, if all fit.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        self.collect(ValueType::is_integer, |v| v.as_i64())
    }

    /// The elements of an array of bools.
    pub fn to_bools(&self) -> Option<Vec<bool>> {
        self.collect(|ty| ty == ValueType::Bool, |v| v.as_bool())
    }

    /// The elements of an array of `f32`, or of `f64` rounded to `f32`.
    pub fn to_f32s(&self) -> Option<Vec<f32>> {
        if self.ty != ValueType::F32 {
            return self.collect(|ty| ty == ValueType::F64, |v| v.as_f32());
        }
        let (mut cursor, mut out) = (self.cursor, vec![0f32; self.len]);
        let bytes = checked(cursor.take(self.len as u64 * 4));
        match cursor.encoding().order {
            ByteOrder::Little => LE::read_f32_into(bytes, &mut out),
            ByteOrder::Big => BE::read_f32_into(bytes, &mut out),
        }
        Some(out)
    }

    /// `None` for elements of another type, or if one does not convert.
    fn collect<T>(
        &self,
        is_type: impl Fn(ValueType) -> bool,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        if !is_type(self.ty) {
            return None;
        }
        self.iter().map(convert).collect()
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}; {}]", self.ty, self.len)
    }
}

/// Bytes of a type's id.
const TYPE_BYTES: u64 = 4;

/// Where an entry stands in the file; its value follows the key.
#[derive(Clone, Copy)]
struct Entry {
    key_at: usize,
    key_len: u32,
    ty: ValueType,
    /// Whether all strings in the value are UTF-8.
    is_text: bool,
}

/// An index of the metadata of one file. The bytes are passed to every call.
pub(crate) struct Metadata {
    /// In file order.
    entries: Vec<Entry>,
    /// Entry numbers, sorted by key.
    by_key: Vec<u32>,
    encoding: Encoding,
}

impl Metadata {
    /// The least bytes of an entry: a key of one byte and a value of one byte.
    pub fn entry_bytes_min(encoding: Encoding) -> u64 {
        encoding.length_bytes() + 1 + TYPE_BYTES + 1
    }

    /// Reads and checks `n` entries at the cursor. `n` must have passed [`Cursor::check_count`].
    pub fn read(bytes: &[u8], c: &mut Cursor<'_>, n: u64, limits: &Limits) -> Result<Self, Error> {
        let mut entries: Vec<Entry> = Vec::with_capacity(n as usize);
        for number in 0..n {
            entries.push(read_entry(c, number, limits)?);
        }
        let mut by_key: Vec<u32> = (0..n as u32).collect();
        let key = |number: u32| {
            let entry: &Entry = &entries[number as usize];
            &bytes[entry.key_at..entry.key_at + entry.key_len as usize]
        };
        by_key.sort_unstable_by_key(|&number| (key(number), number));
        // The value of an entry, with its type: up to the length of the next key.
        let (last_end, key_length) = (c.offset() as usize, c.encoding().length_bytes() as usize);
        let value = |number: u32| {
            let entry: &Entry = &entries[number as usize];
            let next = entries.get(number as usize + 1);
            let end = next.map_or(last_end, |next| next.key_at - key_length);
            &bytes[entry.key_at + entry.key_len as usize..end]
        };
        let mut repeated = Vec::new();
        for pair in by_key.windows(2).filter(|pair| key(pair[0]) == key(pair[1])) {
            // What says the same twice says it once.
            if value(pair[0]) == value(pair[1]) {
                repeated.push(pair[1]);
                continue;
            }
            let at = |number: u32| entries[number as usize].key_at as u64;
            let item = Item::key(&String::from_utf8_lossy(key(pair[1])));
            let fault = Fault::DuplicateKey { first: at(pair[0]) };
            return Err(Located::new(at(pair[1]), fault).of(item));
        }
        if !repeated.is_empty() {
            return Ok(Metadata::without(entries, by_key, &repeated, c.encoding()));
        }
        Ok(Metadata { entries, by_key, encoding: c.encoding() })
    }

    /// The index without some of the entries.
    fn without(
        entries: Vec<Entry>,
        by_key: Vec<u32>,
        repeated: &[u32],
        encoding: Encoding,
    ) -> Metadata {
        let mut is_kept = vec![true; entries.len()];
        repeated.iter().for_each(|&number| is_kept[number as usize] = false);
        // The new number of each entry that is kept.
        let mut n = 0;
        let place: Vec<u32> = is_kept
            .iter()
            .map(|&kept| {
                n += u32::from(kept);
                n - u32::from(kept)
            })
            .collect();
        let by_key = by_key.into_iter().filter(|&number| is_kept[number as usize]);
        let by_key = by_key.map(|number| place[number as usize]).collect();
        let kept = entries.into_iter().zip(&is_kept).filter(|pair| *pair.1);
        Metadata { entries: kept.map(|pair| pair.0).collect(), by_key, encoding }
    }

    pub fn get<'a>(&self, bytes: &'a [u8], key: &str) -> Option<Value<'a>> {
        self.find(bytes, key).map(|entry| self.decode(bytes, entry).1)
    }

    /// Offset of a key's value, for errors.
    pub fn offset_of(&self, bytes: &[u8], key: &str) -> Option<u64> {
        self.find(bytes, key).map(|entry| (entry.key_at + entry.key_len as usize) as u64)
    }

    pub fn iter<'a>(&self, bytes: &'a [u8]) -> impl ExactSizeIterator<Item = (&'a str, Value<'a>)> {
        self.entries.iter().map(move |&entry| self.decode(bytes, entry))
    }

    fn find(&self, bytes: &[u8], key: &str) -> Option<Entry> {
        let key_of = |entry: &Entry| &bytes[entry.key_at..entry.key_at + entry.key_len as usize];
        self.by_key
            .binary_search_by(|&number| key_of(&self.entries[number as usize]).cmp(key.as_bytes()))
            .ok()
            .map(|place| self.entries[self.by_key[place] as usize])
    }

    fn decode<'a>(&self, bytes: &'a [u8], entry: Entry) -> (&'a str, Value<'a>) {
        let value_at = entry.key_at + entry.key_len as usize;
        let key = std::str::from_utf8(&bytes[entry.key_at..value_at])
            .expect("keys were checked when the file was opened");
        let mut cursor = Cursor::new(bytes, value_at + TYPE_BYTES as usize, self.encoding);
        let value = match entry.ty {
            // Nobody reads on behind a top-level array, so it need not be walked to its end.
            ValueType::Array => Value::Array(Array::head(&mut cursor, entry.is_text)),
            ty => Value::decode(&mut cursor, ty),
        };
        (key, value)
    }
}

fn read_entry(c: &mut Cursor<'_>, number: u64, limits: &Limits) -> Result<Entry, Error> {
    let start = c.offset();
    let key = c
        .string("key bytes", limits.key_bytes_max.min(u32::MAX.into()))
        .map_err(|located| located.of(Item::Entry(number)))?;
    if key.is_empty() {
        return Err(Located::new(start, Fault::Empty).of(Item::Entry(number)));
    }
    let value_at = c.offset() as usize;
    let (ty, is_text) = value_type(c)
        .and_then(|ty| check_value(c, ty, 0, limits).map(|is_text| (ty, is_text)))
        .map_err(|located| located.of(Item::key(key)))?;
    Ok(Entry { key_at: value_at - key.len(), key_len: key.len() as u32, ty, is_text })
}

fn value_type(c: &mut Cursor<'_>) -> Result<ValueType, Located> {
    let offset = c.offset();
    let id = c.u32()?;
    ValueType::from_id(id).ok_or(Located::new(offset, Fault::ValueType(id)))
}

/// Walks a value, leaving the cursor behind it. Returns whether all strings in it are UTF-8. Time is
/// linear in the value's bytes.
fn check_value(c: &mut Cursor<'_>, ty: ValueType, depth: u8, l: &Limits) -> Result<bool, Located> {
    match ty {
        ValueType::Bool => check_bools(c, 1).map(|()| true),
        ValueType::Str => {
            let bytes = c.string_bytes("string bytes", l.string_bytes_max)?;
            Ok(std::str::from_utf8(bytes).is_ok())
        }
        ValueType::Array => check_array(c, depth, l),
        _ => c.take(ty.bytes_min(c.encoding())).map(|_| true),
    }
}

fn check_array(c: &mut Cursor<'_>, depth: u8, limits: &Limits) -> Result<bool, Located> {
    let (offset, max) = (c.offset(), limits.array_depth_max);
    if depth >= max {
        let value = u64::from(depth) + 1;
        return Err(Located::new(
            offset,
            Fault::Limit { what: "arrays within arrays", value, max: max.into() },
        ));
    }
    let ty = value_type(c)?;
    let each = ty.bytes_min(c.encoding());
    let len = c.count("array elements", limits.array_len_max, each)?;
    match ty {
        ValueType::Bool => check_bools(c, len).map(|()| true),
        ValueType::Str | ValueType::Array => {
            let mut is_text = true;
            for _ in 0..len {
                is_text &= check_value(c, ty, depth + 1, limits)?;
            }
            Ok(is_text)
        }
        _ => c.take(len * each).map(|_| true),
    }
}

fn check_bools(c: &mut Cursor<'_>, n: u64) -> Result<(), Located> {
    let start = c.offset();
    match c.take(n)?.iter().enumerate().find(|(_, byte)| **byte > 1) {
        Some((i, &byte)) => Err(Located::new(start + i as u64, Fault::Bool(byte))),
        None => Ok(()),
    }
}
