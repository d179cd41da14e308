//! The writer's bytes against bytes by hand, and what it refuses to write.

mod common;

use common::{ARRAY, Raw, STR, T_F32, T_Q4_0, U16, U32, U64};
use gguf_rs_lite::{
    ByteOrder, Error, Fault, GgmlType, GgufFile, GgufWriter, Item, OwnedArray, OwnedValue,
    WriteOptions, swap_tensor_bytes,
};

#[test]
fn bytes_are_those_by_hand() {
    for version in 1..=3 {
        for big in [false, true] {
            assert_eq!(written(version, big), by_hand(version, big), "version {version} {big}");
        }
    }
}

fn by_hand(version: u32, big: bool) -> Vec<u8> {
    let raw = Raw::new(version, big, 2, 4).key("name", STR).str("é").key("n", U64).u64(7);
    raw.key("general.alignment", U32)
        .u32(128)
        .key("nested", ARRAY)
        .array(ARRAY, 2)
        .array(U16, 1)
        .u16(258)
        .array(STR, 2)
        .str("")
        .str("x")
        .tensor("a", &[32, 1, 3], T_Q4_0, 0)
        .tensor("b", &[2], T_F32, 128)
        .pad(128)
        .data(54)
        .pad(128)
        .data(8)
        .pad(128)
        .bytes
}

fn written(version: u32, big: bool) -> Vec<u8> {
    let byte_order = if big { ByteOrder::Big } else { ByteOrder::Little };
    let options = WriteOptions { version, byte_order };
    let mut writer = GgufWriter::with_options(Vec::new(), options).expect("a known version");
    let strings = OwnedArray::Str(vec![String::new(), "x".to_owned()]);
    let nested = OwnedArray::Array(vec![OwnedArray::U16(vec![258]), strings]);
    let entries: [(&str, OwnedValue); 4] = [
        ("name", "é".into()),
        ("n", 7u64.into()),
        ("general.alignment", 128u32.into()),
        ("nested", nested.into()),
    ];
    for (key, value) in entries {
        writer.add(key, value).expect("a new key");
    }
    writer.declare("a", GgmlType::Q4_0, &[32, 1, 3]).expect("a shape of whole blocks");
    writer.declare("b", GgmlType::F32, &[2]).expect("a shape of whole blocks");
    let mut data = writer.write_header().expect("to memory");
    let bytes: Vec<u8> = (0..54).collect();
    data.write_chunk(&bytes[..50]).expect("a part");
    data.write_chunk(&bytes[50..]).expect("the rest");
    data.write_tensor(&bytes[..8]).expect("a whole tensor");
    data.finish().expect("all written")
}

#[test]
fn a_big_endian_tensor_reads_after_swapping() {
    let weights = [1.5f32, -0.0, 3e-9];
    let options = WriteOptions { byte_order: ByteOrder::Big, ..WriteOptions::default() };
    let mut writer = GgufWriter::with_options(Vec::new(), options).expect("version 3");
    writer.declare("w", GgmlType::F32, &[3]).expect("a valid shape");
    let mut data = writer.write_header().expect("to memory");
    data.write_tensor(&weights.map(f32::to_be_bytes).concat()).expect("12 bytes");
    let file = GgufFile::from_bytes(data.finish().expect("complete")).expect("just written");
    let mut bytes = file.data(&file.tensors()[0]).to_vec();
    swap_tensor_bytes(file.tensors()[0].ty, &mut bytes).expect("whole elements");
    assert_eq!(bytes, weights.map(f32::to_le_bytes).concat());
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, item: Item, fault: Fault) {
    match result {
        Err(Error::Refused { item: i, fault: f }) => assert_eq!((i, f), (item, fault)),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{fault:?} was accepted"),
    }
}

fn key(name: &str) -> Item {
    Item::Key(name.to_owned())
}

fn tensor(name: &str) -> Item {
    Item::Tensor(name.to_owned())
}

fn limit(what: &'static str, value: u64, max: u64) -> Fault {
    Fault::Limit { what, value, max }
}

#[test]
fn invalid_metadata_is_refused() {
    let mut w = GgufWriter::new(Vec::new());
    refused(w.add("", 1u8), key(""), Fault::Empty);
    w.add("k", 1u8).expect("a new key");
    refused(w.add("k", 2u8), key("k"), Fault::DuplicateKey { first: 0 });
    let long = "k".repeat(65536);
    refused(w.add(long.as_str(), 1u8), key(&long[..128]), limit("key bytes", 65536, 65535));
    let huge = "x".repeat((1 << 28) + 1);
    let fault = limit("string bytes", huge.len() as u64, 1 << 28);
    refused(w.add("s", huge.clone()), key("s"), fault.clone());
    refused(w.add("s", vec![huge]), key("s"), fault);
    let deep = (0..8).fold(OwnedArray::U8(vec![]), |inner, _| OwnedArray::Array(vec![inner]));
    refused(w.add("d", deep), key("d"), limit("arrays within arrays", 9, 8));

    let name = "general.alignment";
    refused(w.add(name, 48u32), key(name), Fault::Alignment(48));
    let wrong = Fault::WrongType { expected: "u32", found: "u64" };
    refused(w.add(name, 64u64), key(name), wrong);
    w.declare("t", GgmlType::F32, &[1]).expect("a valid shape");
    refused(w.add(name, 64u32), key(name), Fault::AlignmentTooLate);
    let options = WriteOptions { version: 4, ..WriteOptions::default() };
    refused(GgufWriter::with_options(Vec::new(), options), Item::Header, Fault::Version(4));
}

#[test]
fn invalid_tensors_are_refused() {
    let mut w = GgufWriter::new(Vec::new());
    let (t, f32) = (|| tensor("t"), GgmlType::F32);
    refused(w.declare("", f32, &[1]), tensor(""), Fault::Empty);
    let long = "n".repeat(129);
    refused(w.declare(long.as_str(), f32, &[1]), tensor(&long[..128]), {
        limit("name bytes", 129, 128)
    });
    refused(w.declare("t", f32, &[]), t(), Fault::DimCount(0));
    refused(w.declare("t", f32, &[1; 5]), t(), Fault::DimCount(5));
    refused(w.declare("t", f32, &[1, 0]), t(), Fault::ZeroDim(1));
    refused(w.declare("t", f32, &[1 << 62]), t(), Fault::Overflow);
    refused(w.declare("t", GgmlType::I8, &[u64::MAX]), t(), Fault::Overflow);
    let fault = Fault::RowLength { ty: GgmlType::Q4_K, cols: 255 };
    refused(w.declare("t", GgmlType::Q4_K, &[255]), t(), fault);
    w.declare("t", f32, &[1]).expect("a valid shape");
    refused(w.declare("t", f32, &[1]), t(), Fault::DuplicateTensor { first: 0, shard: 0 });

    let options = WriteOptions { version: 1, ..WriteOptions::default() };
    let mut w = GgufWriter::with_options(Vec::new(), options).expect("version 1");
    refused(w.declare("t", f32, &[1, 1 << 32]), t(), Fault::TooLongForV1(1 << 32));
}

#[test]
fn data_of_another_length_is_refused() {
    let writer = || {
        let mut writer = GgufWriter::new(Vec::new());
        writer.declare("t", GgmlType::F32, &[2]).expect("a valid shape");
        writer.write_header().expect("to memory")
    };
    let length = |given| Fault::DataLength { expected: 8, given };
    refused(writer().write_tensor(&[0; 7]), tensor("t"), length(7));
    refused(writer().write_chunk(&[0; 9]), tensor("t"), length(9));
    refused(writer().finish(), tensor("t"), Fault::Unfinished);
    let mut data = writer();
    data.write_chunk(&[0; 4]).expect("half");
    refused(data.write_tensor(&[0; 8]), tensor("t"), length(12));
    data.write_tensor(&[0; 4]).expect("the other half");
    refused(data.write_tensor(&[0; 1]), Item::Data, Fault::NoSuchTensor);
    data.finish().expect("complete");
}

/// A disk that is full after some bytes.
struct Full(usize);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(self.0);
        self.0 -= n;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failing_output_is_an_error_at_every_length() {
    let write = |room| -> Result<(), Error> {
        let mut writer = GgufWriter::new(Full(room));
        writer.add("k", vec![1u8; 3])?;
        writer.declare("t", GgmlType::I8, &[40_000])?;
        let mut data = writer.write_header()?;
        data.write_tensor(&[7; 40_000])?;
        data.finish().map(drop)
    };
    let size = 40_096;
    for room in (0..200).chain(39_900..size) {
        assert!(matches!(write(room), Err(Error::Write(_))), "room for {room} of {size}");
    }
    write(size).expect("room for all");
}
