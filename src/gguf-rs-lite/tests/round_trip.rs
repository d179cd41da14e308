//! Whatever the writer writes, the reader reads: every version, byte order and type.

use gguf_rs_lite::{
    ByteOrder, GgmlType, GgufFile, GgufWriter, OwnedArray, OwnedValue, WriteOptions,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Every float but NaN, which is not equal to itself; NaNs are tested by their bits below.
fn value() -> impl Strategy<Value = OwnedValue> {
    prop_oneof![
        any::<u8>().prop_map(OwnedValue::U8),
        any::<i8>().prop_map(OwnedValue::I8),
        any::<u16>().prop_map(OwnedValue::U16),
        any::<i16>().prop_map(OwnedValue::I16),
        any::<u32>().prop_map(OwnedValue::U32),
        any::<i32>().prop_map(OwnedValue::I32),
        any::<f32>().prop_map(OwnedValue::F32),
        any::<bool>().prop_map(OwnedValue::Bool),
        any::<String>().prop_map(OwnedValue::Str),
        array().prop_map(OwnedValue::Array),
        any::<u64>().prop_map(OwnedValue::U64),
        any::<i64>().prop_map(OwnedValue::I64),
        any::<f64>().prop_map(OwnedValue::F64),
    ]
}

fn array() -> impl Strategy<Value = OwnedArray> {
    let leaf = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(OwnedArray::U8),
        vec(any::<i8>(), 0..9).prop_map(OwnedArray::I8),
        vec(any::<u16>(), 0..9).prop_map(OwnedArray::U16),
        vec(any::<i16>(), 0..9).prop_map(OwnedArray::I16),
        vec(any::<u32>(), 0..9).prop_map(OwnedArray::U32),
        vec(any::<i32>(), 0..9).prop_map(OwnedArray::I32),
        vec(any::<f32>(), 0..9).prop_map(OwnedArray::F32),
        vec(any::<bool>(), 0..9).prop_map(OwnedArray::Bool),
        vec(any::<String>(), 0..9).prop_map(OwnedArray::Str),
        vec(any::<u64>(), 0..9).prop_map(OwnedArray::U64),
        vec(any::<i64>(), 0..9).prop_map(OwnedArray::I64),
        vec(any::<f64>(), 0..9).prop_map(OwnedArray::F64),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| vec(inner, 0..4).prop_map(OwnedArray::Array))
}

/// Type and dims of a small tensor.
fn tensor() -> impl Strategy<Value = (GgmlType, Vec<u64>)> {
    let types: Vec<GgmlType> = GgmlType::all().collect();
    (prop::sample::select(types), 1u64..4, vec(1u64..4, 0..4)).prop_map(|(ty, blocks, higher)| {
        let mut dims = vec![blocks * ty.block_len() as u64];
        dims.extend(higher);
        (ty, dims)
    })
}

fn options() -> impl Strategy<Value = WriteOptions> {
    (1u32..=3, prop::bool::ANY).prop_map(|(version, big)| WriteOptions {
        version,
        byte_order: if big { ByteOrder::Big } else { ByteOrder::Little },
    })
}

/// The bytes of tensor `i`: a pattern that tells tensors apart.
fn pattern(i: usize, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|k| (k * 31 + i as u64 * 101 + 7) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        options in options(),
        alignment in prop::option::of(0u32..12),
        values in vec(value(), 0..12),
        tensors in vec(tensor(), 0..6),
        chunk in 1usize..300,
    ) {
        let mut writer = GgufWriter::with_options(Vec::new(), options)?;
        if let Some(log2) = alignment {
            writer.add("general.alignment", 1u32 << log2)?;
        }
        for (i, value) in values.iter().enumerate() {
            writer.add(format!("ключ.{i}"), value.clone())?;
        }
        for (i, (ty, dims)) in tensors.iter().enumerate() {
            writer.declare(format!("blk.{i}.weight"), *ty, dims)?;
        }
        let mut data = writer.write_header()?;
        for (i, (ty, dims)) in tensors.iter().enumerate() {
            let bytes = ty.bytes_of(dims.iter().product()).expect("whole blocks");
            for part in pattern(i, bytes).chunks(chunk) {
                data.write_chunk(part)?;
            }
        }
        let bytes = data.finish()?;
        let size = bytes.len() as u64;

        let file = GgufFile::from_bytes(bytes)?;
        prop_assert_eq!(file.version(), options.version);
        prop_assert_eq!(file.byte_order(), options.byte_order);
        prop_assert_eq!(file.alignment(), alignment.map_or(32, |log2| 1 << log2));
        prop_assert_eq!(file.total_bytes(), size);
        for (i, value) in values.iter().enumerate() {
            let read = file.get(&format!("ключ.{i}")).expect("the key was written");
            prop_assert_eq!(&OwnedValue::from(read), value);
        }
        let skipped = usize::from(alignment.is_some());
        prop_assert_eq!(file.entries().count(), values.len() + skipped);
        for (i, (_, read)) in file.entries().skip(skipped).enumerate() {
            prop_assert_eq!(&OwnedValue::from(read), &values[i]);
        }
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (i, (ty, dims)) in tensors.iter().enumerate() {
            let tensor = file.tensor(&format!("blk.{i}.weight")).expect("it was declared");
            prop_assert_eq!(tensor, &file.tensors()[i]);
            prop_assert_eq!((tensor.ty, &tensor.dims), (*ty, dims));
            prop_assert_eq!(tensor.cols() * tensor.rows(), dims.iter().product::<u64>());
            prop_assert_eq!(tensor.offset % u64::from(file.alignment()), 0);
            prop_assert_eq!(file.data(tensor), pattern(i, tensor.bytes));
        }
    }
}

#[test]
fn float_bits_survive() {
    let f32s: Vec<f32> = [0x7FC0_0001u32, 0xFF80_0000, 0x8000_0000, 1].map(f32::from_bits).into();
    let f64s: Vec<f64> = [0x7FF8_0000_0000_0001u64, 1 << 63].map(f64::from_bits).into();
    for byte_order in [ByteOrder::Little, ByteOrder::Big] {
        let options = WriteOptions { byte_order, ..WriteOptions::default() };
        let mut writer = GgufWriter::with_options(Vec::new(), options).expect("version 3");
        writer.add("f32", f32s.clone()).expect("a new key");
        writer.add("f64", f64s.clone()).expect("a new key");
        let bytes = writer.write_header().and_then(|data| data.finish()).expect("to memory");
        let file = GgufFile::from_bytes(bytes).expect("just written");
        let array = |key| file.get(key).and_then(|value| value.as_array()).expect("an array");
        let bits = |floats: &[f32]| floats.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&array("f32").to_f32s().expect("floats")), bits(&f32s));
        let OwnedArray::F64(read) = array("f64").into() else { panic!("an array of f64") };
        assert!(read.iter().zip(&f64s).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(array("f64").to_f32s().expect("floats").len(), 2);
    }
}

#[test]
fn values_convert_only_where_nothing_is_lost() {
    let mut writer = GgufWriter::new(Vec::new());
    writer.add("small", 7u8).expect("a new key");
    writer.add("negative", -7i32).expect("a new key");
    writer.add("huge", u64::MAX).expect("a new key");
    writer.add("half", 0.5f64).expect("a new key");
    writer.add("flag", true).expect("a new key");
    writer.add("mixed", vec![1i32, -1]).expect("a new key");
    writer.add("texts", vec!["a".to_string(), "é".to_string()]).expect("a new key");
    writer.add("none", Vec::<String>::new()).expect("a new key");
    let bytes = writer.write_header().and_then(|data| data.finish()).expect("to memory");
    let file = GgufFile::from_bytes(bytes).expect("just written");
    let get = |key| file.get(key).expect("a key of the file");
    assert_eq!((get("small").as_u64(), get("small").as_i64()), (Some(7), Some(7)));
    assert_eq!((get("negative").as_u64(), get("negative").as_i64()), (None, Some(-7)));
    assert_eq!((get("huge").as_u64(), get("huge").as_i64()), (Some(u64::MAX), None));
    assert_eq!((get("half").as_f32(), get("half").as_u64()), (Some(0.5), None));
    assert_eq!((get("flag").as_bool(), get("flag").as_u64()), (Some(true), None));
    assert_eq!((get("small").as_f32(), get("small").as_str()), (None, None));
    let array = |key| get(key).as_array().expect("an array");
    assert_eq!(array("mixed").to_u64s(), None);
    assert_eq!(array("mixed").to_i64s(), Some(vec![1, -1]));
    assert_eq!((array("mixed").to_f32s(), array("mixed").to_bools()), (None, None));
    assert!(array("mixed").strs().is_none());
    assert_eq!(array("texts").strs().map(Iterator::collect), Some(vec!["a", "é"]));
    assert_eq!((array("none").to_u64s(), array("none").to_f32s()), (None, None));
    assert_eq!(array("none").strs().map(|strs| strs.len()), Some(0));
    assert_eq!(get("texts").type_name(), "array");
    assert!(file.get("absent").is_none() && file.tensor("absent").is_none());
}
