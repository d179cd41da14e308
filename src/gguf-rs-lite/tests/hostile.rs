//! Broken files by hand: each is refused with its place and its reason.

mod common;

use common::*;
use gguf_rs_lite::{Error, Fault, GgmlType, GgufFile, Item};

/// The file is refused exactly so, and the message names the offset and the item.
#[track_caller]
fn refused(raw: Raw, at: u64, item: Item, fault: Fault) {
    let error = GgufFile::from_bytes(raw.bytes).expect_err("a broken file");
    let message = error.to_string();
    assert!(message.contains(&format!("offset {at}, {item}: ")), "{message}");
    assert!(!message.contains('\n'), "{message}");
    let Error::Malformed { path: None, offset, item: found_item, fault: found } = error else {
        panic!("{message}")
    };
    assert_eq!((offset, found_item, found), (at, item, fault), "{message}");
}

fn key(name: &str) -> Item {
    Item::Key(name.to_owned())
}

fn tensor(name: &str) -> Item {
    Item::Tensor(name.to_owned())
}

/// In a version 3 file, the first key's length stands at 24, a key "k" at 32, its type at 33
/// and its value at 37.
const FIRST: u64 = 24;
const TYPE: u64 = 33;
const VALUE: u64 = 37;

#[test]
fn headers() {
    let empty = |bytes: &[u8]| Raw { version: 3, big: false, bytes: bytes.to_vec() };
    refused(empty(b""), 0, Item::Header, Fault::Truncated { needed: 4, left: 0 });
    refused(empty(b"GGU"), 0, Item::Header, Fault::Truncated { needed: 4, left: 3 });
    refused(empty(b"GG\nF...."), 0, Item::Header, Fault::Magic(*b"GG\nF"));
    refused(empty(b"GGUF\x03"), 4, Item::Header, Fault::Truncated { needed: 4, left: 1 });
    for version in [0, 4, 0x0001_0003, 0xFFFF_FFFF] {
        refused(Raw::new(version, false, 0, 0), 4, Item::Header, Fault::Version(version));
    }
    refused(Raw::new(4, true, 0, 0), 4, Item::Header, Fault::Version(4));
    let truncated = Fault::Truncated { needed: 8, left: 7 };
    refused(empty(b"GGUF\x03\0\0\0\0\0\0\0\0\0\0"), 8, Item::Header, truncated);
}

#[test]
fn counts_that_cannot_fit() {
    let fault = |what, count, left| Fault::Count { what, count, left };
    let max = u64::MAX;
    refused(Raw::v3(max, 0), 8, Item::Header, fault("tensors", max, 8));
    refused(Raw::v3(1, 0), 8, Item::Header, fault("tensors", 1, 8));
    refused(Raw::v3(0, max), 16, Item::Header, fault("metadata entries", max, 0));
    refused(
        Raw::new(1, true, 0, 0xFFFF_FFFF),
        12,
        Item::Header,
        fault("metadata entries", 0xFFFF_FFFF, 0),
    );
    for len in [2, 1 << 60, max] {
        let raw = Raw::v3(0, 1).key("k", ARRAY).array(U64, len).u64(0);
        refused(raw, VALUE + 4, key("k"), fault("array elements", len, 8));
    }
    let raw = Raw::v3(0, 1).key("k", ARRAY).array(STR, 2).u64(0).u32(0);
    refused(raw, VALUE + 4, key("k"), fault("array elements", 2, 12));
    let raw = Raw::v3(0, 1).key("k", ARRAY).array(ARRAY, 2).u64(0).u64(0);
    refused(raw, VALUE + 4, key("k"), fault("array elements", 2, 16));
}

#[test]
fn keys() {
    let item = Item::Entry(0);
    let too_long = |value| Fault::Limit { what: "key bytes", value, max: 65535 };
    refused(Raw::v3(0, 1).len(u64::MAX).u64(0), FIRST, item.clone(), too_long(u64::MAX));
    refused(Raw::v3(0, 1).len(65536).data(65536), FIRST, item.clone(), too_long(65536));
    refused(Raw::v3(0, 1).str("").u64(0), FIRST, item.clone(), Fault::Empty);
    refused(
        Raw::v3(0, 1).len(9).u64(0),
        FIRST + 8,
        item.clone(),
        Fault::Truncated { needed: 9, left: 8 },
    );
    refused(Raw::v3(0, 1).str(b"ab\xFFd").u64(0), FIRST + 8 + 2, item, Fault::Utf8);

    let raw = Raw::v3(0, 3).key("k", U8).u8(0).key("l", U8).u8(0).key("k", U8).u8(1);
    refused(raw, 24 + 14 + 14 + 8, key("k"), Fault::DuplicateKey { first: 32 });

    let long = "x\n".repeat(1000);
    let raw = Raw::v3(0, 1).key(&long, 13).u64(0);
    refused(raw, 24 + 8 + 2000, key(&long[..128]), Fault::ValueType(13));
}

#[test]
fn values() {
    for id in [13, 0x0900_0000, u32::MAX] {
        refused(Raw::v3(0, 1).key("k", id).u64(0), TYPE, key("k"), Fault::ValueType(id));
        let raw = Raw::v3(0, 1).key("k", ARRAY).array(id, 0);
        refused(raw, VALUE, key("k"), Fault::ValueType(id));
    }
    let cut = |needed, left| Fault::Truncated { needed, left };
    let raw = Raw::v3(0, 2).key("l", U64).u64(0).str("k").data(3);
    refused(raw, 24 + 21 + 9, key("k"), cut(4, 3));
    refused(Raw::v3(0, 1).key("k", U64).data(7), VALUE, key("k"), cut(8, 7));
    refused(Raw::v3(0, 1).key("k", STR).len(4).data(3), VALUE + 8, key("k"), cut(4, 3));
    refused(Raw::v3(0, 1).key("k", BOOL).u8(2), VALUE, key("k"), Fault::Bool(2));
    let raw = Raw::v3(0, 1).key("k", ARRAY).array(BOOL, 3).raw(&[0, 1, 255]);
    refused(raw, VALUE + 12 + 2, key("k"), Fault::Bool(255));
    let gigantic = 1 << 40;
    let fault = Fault::Limit { what: "string bytes", value: gigantic, max: 1 << 28 };
    refused(Raw::v3(0, 1).key("k", STR).len(gigantic), VALUE, key("k"), fault);
}

#[test]
fn arrays_in_arrays_are_bounded() {
    let nested = |depth: usize| {
        let outer = (1..depth).fold(Raw::v3(0, 1).key("k", ARRAY), |raw, _| raw.array(ARRAY, 1));
        outer.array(U8, 1).u8(7)
    };
    GgufFile::from_bytes(nested(8).bytes).expect("eight arrays deep");
    let fault = Fault::Limit { what: "arrays within arrays", value: 9, max: 8 };
    refused(nested(9), VALUE + 8 * 12, key("k"), fault.clone());
    refused(nested(100_000), VALUE + 8 * 12, key("k"), fault);
}

#[test]
fn alignments() {
    let of = |ty, value: u32| Raw::v3(0, 1).key("general.alignment", ty).u32(value);
    let (at, item) = (24 + 8 + 17, key("general.alignment"));
    for bad in [0, 3, 48, u32::MAX] {
        refused(of(U32, bad), at, item.clone(), Fault::Alignment(bad));
    }
    let wrong = Fault::WrongType { expected: "u32", found: "i32" };
    refused(of(I32, 32), at, item, wrong);
    let file = GgufFile::from_bytes(of(U32, 1 << 31).bytes).expect("no tensor needs it");
    assert_eq!(file.alignment(), 1 << 31);
}

/// One tensor of these dims, with 64 bytes of data.
fn one(dims: &[u64], ty: u32, offset: u64) -> Raw {
    Raw::v3(1, 0).tensor("t", dims, ty, offset).pad(32).data(64)
}

/// In such a file the number of dimensions stands here, the first dimension 4 bytes later.
const N_DIMS: u64 = 24 + 8 + 1;

#[test]
fn tensor_names() {
    let item = Item::TensorNumber(0);
    refused(Raw::v3(1, 0).tensor("", &[4], T_F32, 0), 24, item.clone(), Fault::Empty);
    let fault = Fault::Limit { what: "name bytes", value: 129, max: 128 };
    refused(Raw::v3(1, 0).tensor(&"n".repeat(129), &[4], T_F32, 0), 24, item.clone(), fault);
    refused(Raw::v3(1, 0).str(b"\x80").data(40), 32, item, Fault::Utf8);
    let raw = Raw::v3(2, 0).tensor("t", &[4], T_F32, 0).tensor("t", &[4], T_F32, 32);
    let fault = Fault::DuplicateTensor { first: 24, shard: 0 };
    refused(raw.pad(32).data(64), 24 + 33, tensor("t"), fault);
}

#[test]
fn tensor_types() {
    for (id, named) in [(4, "Q4_2"), (31, "Q4_0_4_4"), (38, "IQ4_NL_8_8"), (43, "unknown")] {
        refused(one(&[32], id, 0), N_DIMS + 12, tensor("t"), Fault::TensorType(id));
        let message = Fault::TensorType(id).to_string();
        assert!(message.contains(named) && message.contains(&id.to_string()), "{message}");
    }
    let known: Vec<GgmlType> = (0..=u32::from(u16::MAX)).filter_map(GgmlType::from_id).collect();
    assert!(known.len() >= 35 && known.iter().copied().eq(GgmlType::all()), "{known:?}");
}

#[test]
fn tensor_shapes() {
    let t = || tensor("t");
    refused(one(&[1; 5], T_F32, 0), N_DIMS, t(), Fault::DimCount(5));
    let raw = Raw::v3(1, 0).str("t").u32(u32::MAX).data(64);
    refused(raw, N_DIMS, t(), Fault::DimCount(u32::MAX));
    refused(one(&[4, 0], T_F32, 0), N_DIMS + 4, t(), Fault::ZeroDim(1));
    refused(one(&[0], T_Q4_0, 0), N_DIMS + 4, t(), Fault::ZeroDim(0));
    let fault = Fault::RowLength { ty: GgmlType::Q4_0, cols: 33 };
    refused(one(&[33, 32], T_Q4_0, 0), N_DIMS + 4, t(), fault);
    refused(one(&[1 << 32, 1 << 32], T_I8, 0), N_DIMS + 4, t(), Fault::Overflow);
    refused(one(&[1 << 62], T_F32, 0), N_DIMS + 4, t(), Fault::Overflow);
    refused(one(&[u64::MAX; 4], T_I8, 0), N_DIMS + 4, t(), Fault::Overflow);
}

#[test]
fn tensor_places() {
    let t = || tensor("t");
    let fault = Fault::Misaligned { offset: 16, alignment: 32 };
    refused(one(&[4], T_F32, 16), N_DIMS + 16, t(), fault);
    // The header of `one` has 57 bytes, so data is at 64 and the file ends at 128.
    let out = |start, bytes| Fault::OutOfFile { start, bytes, file_bytes: 128 };
    GgufFile::from_bytes(one(&[16], T_F32, 0).bytes).expect("exactly to the end");
    refused(one(&[17], T_F32, 0), 24, t(), out(Some(64), 68));
    refused(one(&[1], T_F32, 64), 24, t(), out(Some(128), 4));
    refused(one(&[1], T_F32, u64::MAX - 31), 24, t(), out(None, 4));
    refused(one(&[u64::MAX], T_I8, 0), 24, t(), out(Some(64), u64::MAX));
    refused(one(&[1], T_F32, u64::MAX - 127), 24, t(), out(Some(u64::MAX - 63), 4));

    let raw = Raw::v3(1, 1)
        .key("general.alignment", U32)
        .u32(1 << 31)
        .tensor("t", &[1], T_I8, 0)
        .data(64);
    let fault = Fault::OutOfFile { start: Some(1 << 31), bytes: 1, file_bytes: raw.at() };
    refused(raw, 24 + 33, t(), fault);

    let two = |a, b| Raw::v3(2, 0).tensor("u", &[9], T_F32, a).tensor("t", &[4], T_F32, b);
    // 24 + 33 + 33 = 90 bytes, so data is at 96; the first tensor takes 36 bytes.
    let overlap = |at| Fault::Overlap { other: "u".to_owned(), at };
    refused(two(0, 32).pad(32).data(96), 57, t(), overlap(128));
    refused(two(32, 32).pad(32).data(96), 57, t(), overlap(128));
    let fault = Fault::Overlap { other: "t".to_owned(), at: 96 };
    let raw = Raw::v3(2, 0).tensor("u", &[4], T_F32, 0).tensor("t", &[4], T_F32, 0);
    let swapped = Fault::Overlap { other: "u".to_owned(), at: 96 };
    refused(raw.pad(32).data(96), 57, t(), swapped);
    assert!(fault.to_string().contains("\"t\" at offset 96"));
}
