//! Files written by hand are read as they are meant, in every version and byte order.

mod common;

use common::{ARRAY, Raw, STR, T_F32, T_I8, U32, sample, shard};
use gguf_rs_lite::{
    ByteOrder, Error, Fault, GgmlType, GgufFile, Limits, ShardFault, Value, ValueType,
};
use std::path::PathBuf;

#[test]
fn every_version_and_byte_order_reads_the_same() {
    for version in 1..=3 {
        for big in [false, true] {
            let bytes = sample(version, big);
            let size = bytes.len() as u64;
            let file = GgufFile::from_bytes(bytes).expect("a valid file");
            assert_eq!(file.version(), version);
            assert_eq!(file.byte_order(), if big { ByteOrder::Big } else { ByteOrder::Little });
            assert_eq!((file.alignment(), file.total_bytes()), (64, size));
            assert_eq!((file.path(), file.shard_count()), (None, 1));
            check_metadata(&file);
            check_tensors(&file);
        }
    }
}

fn check_metadata(file: &GgufFile) {
    let get = |key| file.get(key).expect("a key of the sample");
    let array = |key| get(key).as_array().expect("an array");
    assert_eq!(get("general.architecture").as_str(), Some("llama"));
    assert_eq!(get("count").as_u64(), Some(u64::MAX));
    let tokens: Vec<&str> = array("tokenizer.tokens").strs().expect("strings").collect();
    assert_eq!(tokens, ["<s>", "", "▁é", "c"]);
    assert_eq!(array("scores").to_f32s(), Some(vec![0.5, -1.0, 1e9]));
    assert_eq!(array("flags").to_bools(), Some(vec![true, false]));
    let keys: Vec<&str> = file.entries().map(|(key, _)| key).collect();
    assert_eq!(keys[..3], ["general.architecture", "general.alignment", "tokenizer.tokens"]);
    assert_eq!(keys.len(), 7);

    let nested: Vec<_> = array("nested").iter().filter_map(|v| v.as_array()).collect();
    let types: Vec<ValueType> = nested.iter().map(|array| array.element_type()).collect();
    assert_eq!(types, [ValueType::U16, ValueType::Str, ValueType::Array]);
    assert_eq!(nested[0].to_u64s(), Some(vec![1, 65535]));
    assert_eq!(nested[1].strs().map(Iterator::collect), Some(vec!["x"]));
    let Some(Value::Array(inner)) = nested[2].iter().next() else { panic!("an array within") };
    assert_eq!(inner.to_i64s(), Some(vec![9]));
}

fn check_tensors(file: &GgufFile) {
    let shapes: Vec<_> = file
        .tensors()
        .iter()
        .map(|t| (t.name.as_str(), t.ty, t.dims.as_slice(), t.bytes))
        .collect();
    assert_eq!(shapes[0], ("a", GgmlType::F32, [3, 2].as_slice(), 24));
    assert_eq!(shapes[1], ("b", GgmlType::Q4_0, [32, 2].as_slice(), 36));
    assert_eq!(shapes[2], ("c", GgmlType::I8, [1].as_slice(), 1), "no dimensions: one element");
    for tensor in file.tensors() {
        let data: Vec<u8> = (0..tensor.bytes as u8).collect();
        assert_eq!(file.data(tensor), data);
        assert_eq!(tensor.offset % 64, 0);
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
    }
}

#[test]
fn tensors_may_leave_gaps_and_come_in_any_order() {
    let raw = Raw::v3(2, 0).tensor("late", &[1], T_F32, 64).tensor("early", &[8], T_F32, 0);
    let file = GgufFile::from_bytes(raw.pad(32).data(68).bytes).expect("a valid file");
    assert_eq!(file.tensors()[0].name, "late");
    assert_eq!(file.data(&file.tensors()[0]), [64, 65, 66, 67]);
}

#[test]
fn a_file_without_anything_is_valid() {
    let file = GgufFile::from_bytes(Raw::v3(0, 0).bytes).expect("a valid file");
    assert_eq!((file.entries().count(), file.tensors().len()), (0, 0));
}

/// A folder of this test run, emptied.
fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder under target/");
    folder
}

#[test]
fn a_mapped_file_reads_like_its_bytes() {
    let path = folder("mapped").join("model.gguf");
    std::fs::write(&path, sample(3, false)).expect("a writable folder");
    let file = GgufFile::open(&path).expect("a valid file");
    assert_eq!(file.path(), Some(path.as_path()));
    file.advise_willneed();
    check_metadata(&file);
    check_tensors(&file);
    fn shareable<T: Send + Sync + 'static>(_: &T) {}
    shareable(&file);
}

#[test]
fn bytes_of_the_caller_are_not_locked() {
    let file = GgufFile::from_bytes(sample(3, false)).expect("a valid file");
    assert_eq!(file.lock().expect_err("no map").kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn what_cannot_be_mapped_is_named() {
    let folder = folder("unmappable");
    for (name, content) in [("absent.gguf", None), ("empty.gguf", Some("")), ("", None)] {
        let path = folder.join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).expect("a writable folder");
        }
        let error = GgufFile::open(&path).expect_err("not a GGUF file").to_string();
        assert!(error.starts_with(path.to_str().expect("UTF-8")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn limits_are_kept() {
    let path = folder("limits").join("model.gguf");
    std::fs::write(&path, sample(3, false)).expect("a writable folder");
    let limits = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    };
    let cases = [
        ("metadata entries", 7, limits(|l| l.entries_max = 6)),
        ("tensors", 3, limits(|l| l.tensors_max = 2)),
        ("key bytes", 20, limits(|l| l.key_bytes_max = 19)),
        ("name bytes", 1, limits(|l| l.name_bytes_max = 0)),
        ("string bytes", 5, limits(|l| l.string_bytes_max = 4)),
        ("array elements", 4, limits(|l| l.array_len_max = 3)),
        ("arrays within arrays", 3, limits(|l| l.array_depth_max = 2)),
    ];
    for (what, value, limits) in cases {
        let error = GgufFile::open_with(&path, &limits).expect_err("over a limit");
        let Some(&Fault::Limit { what: found, value: asked, max }) = error.fault() else {
            panic!("{what}: {error}")
        };
        assert_eq!((found, asked, max), (what, value, value - 1));
    }
}

/// Writes shards, the file `names[i]` holding `shard(no[i], 3)`.
fn write_shards(folder: &std::path::Path, files: &[(u64, u64, u64)]) {
    for &(place, no, count) in files {
        let name = format!("m-{:05}-of-00003.gguf", place + 1);
        std::fs::write(folder.join(name), shard(no, count)).expect("a writable folder");
    }
}

#[test]
fn any_shard_opens_all() {
    let folder = folder("shards");
    write_shards(&folder, &[(0, 0, 3), (1, 1, 3), (2, 2, 3)]);
    for opened in 1..=3 {
        let path = folder.join(format!("m-{opened:05}-of-00003.gguf"));
        let file = GgufFile::open(&path).expect("a whole model");
        assert_eq!(file.shard_count(), 3);
        assert_eq!(file.path(), Some(folder.join("m-00001-of-00003.gguf").as_path()));
        assert_eq!(file.total_bytes(), 3 * shard(0, 3).len() as u64);
        assert_eq!(file.get("shard").and_then(|v| v.as_u64()), Some(0), "the first one's");
        for (no, tensor) in file.tensors().iter().enumerate() {
            assert_eq!((tensor.name.clone(), tensor.shard), (format!("blk.{no}"), no));
            assert_eq!(file.data(tensor), [no as u8; 4]);
        }
    }
}

/// The error of opening the first file.
fn shard_error(folder: &std::path::Path) -> (PathBuf, ShardFault) {
    let error = GgufFile::open(folder.join("m-00001-of-00003.gguf")).expect_err("a broken set");
    match error {
        Error::Shard { path: Some(path), fault } => (path, fault),
        other => panic!("{other}"),
    }
}

#[test]
fn limits_hold_for_all_shards_together() {
    let folder = folder("shard-limits");
    write_shards(&folder, &[(0, 0, 3), (1, 1, 3), (2, 2, 3)]);
    let path = folder.join("m-00001-of-00003.gguf");
    let limits = Limits { tensors_max: 2, ..Limits::default() };
    let error = GgufFile::open_with(&path, &limits).expect_err("three tensors");
    let fault = Fault::Limit { what: "tensors of all shards", value: 3, max: 2 };
    assert_eq!(error.fault(), Some(&fault));
    assert!(error.to_string().contains("m-00003-of-00003.gguf: offset 8"), "{error}");
    let limits = Limits { shards_max: 2, ..Limits::default() };
    let error = GgufFile::open_with(&path, &limits).expect_err("three shards");
    assert!(error.to_string().contains("3 shards are over the limit of 2"), "{error}");
}

#[test]
fn a_missing_shard_is_named() {
    let folder = folder("missing-shard");
    write_shards(&folder, &[(0, 0, 3), (2, 2, 3)]);
    let (path, fault) = shard_error(&folder);
    assert_eq!(path, folder.join("m-00002-of-00003.gguf"));
    assert!(matches!(fault, ShardFault::Missing(_)), "{fault}");
}

#[test]
fn a_mixed_up_shard_is_named() {
    let folder = folder("mixed-shards");
    write_shards(&folder, &[(0, 0, 3), (1, 2, 3), (2, 1, 3)]);
    let (path, fault) = shard_error(&folder);
    assert_eq!(path, folder.join("m-00002-of-00003.gguf"));
    let expected = "key \"split.no\" is 2, expected 1";
    assert!(fault.to_string().contains(expected), "{fault}");

    write_shards(&folder, &[(1, 1, 4), (2, 2, 3)]);
    let (path, fault) = shard_error(&folder);
    assert_eq!(path, folder.join("m-00002-of-00003.gguf"));
    assert!(fault.to_string().contains("\"split.count\" is 4, expected 3"), "{fault}");
}

#[test]
fn a_renamed_shard_is_refused() {
    let folder = folder("renamed-shard");
    let path = folder.join("model.gguf");
    std::fs::write(&path, shard(0, 2)).expect("a writable folder");
    let error = GgufFile::open(&path).expect_err("the other shard cannot be found").to_string();
    assert!(error.contains("-00001-of-00002.gguf"), "{error}");
}

/// A shard in memory with other numbers; `None` leaves the key out.
fn odd_shard(no: Option<u32>, count: Option<u32>, tensors: Option<u32>, big: bool) -> Vec<u8> {
    let entries: Vec<(&str, u32)> =
        [("split.no", no), ("split.count", count), ("split.tensors.count", tensors)]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
    let raw = Raw::new(3, big, 1, entries.len() as u64);
    let raw = entries.iter().fold(raw, |raw, (key, value)| raw.key(key, U32).u32(*value));
    raw.tensor("other", &[4], T_I8, 0).pad(32).data(4).bytes
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let (one, big) = (Some(1), true);
    let seconds = [
        ("split.count", odd_shard(one, None, Some(2), false)),
        ("split.no", odd_shard(None, Some(2), Some(2), false)),
        ("split.tensors.count", odd_shard(one, Some(2), None, false)),
        ("\"split.tensors.count\" is 3", odd_shard(one, Some(2), Some(3), false)),
        ("\"split.no\" is 7", odd_shard(Some(7), Some(2), Some(2), false)),
        ("2000 shards are over the limit of 1024", odd_shard(one, Some(2000), Some(2), false)),
        ("big-endian", odd_shard(one, Some(2), Some(2), big)),
    ];
    for (named, second) in seconds {
        let result = GgufFile::from_shards(vec![shard(0, 2), second]);
        let error = result.expect_err(named).to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
    let second = odd_shard(one, Some(2), Some(2), false);
    GgufFile::from_shards(vec![shard(0, 2), second]).expect("the same with matching numbers");
    let error = GgufFile::from_shards(vec![shard(0, 2)]).expect_err("one of two").to_string();
    assert!(error.contains("\"split.count\" is 2, expected 1"), "{error}");
    let error = GgufFile::from_shards(vec![sample(3, false), shard(1, 2)]).expect_err("not split");
    assert!(error.to_string().contains("split.count"), "{error}");
    let three = [2, 2].map(|_| odd_shard(one, Some(2), Some(3), false));
    assert!(GgufFile::from_shards(three.to_vec()).is_err(), "twice the same");
}

#[test]
fn a_shard_that_declares_too_many_tensors_is_refused() {
    let first = odd_shard(Some(0), Some(2), Some(3), false);
    let second = Raw::v3(0, 3)
        .key("split.no", U32)
        .u32(1)
        .key("split.count", U32)
        .u32(2)
        .key("split.tensors.count", U32)
        .u32(3)
        .bytes;
    let error = GgufFile::from_shards(vec![first, second]).expect_err("one tensor of three");
    let Error::Shard { fault: ShardFault::TensorCount { declared: 3, found: 1 }, .. } = error
    else {
        panic!("{error}")
    };
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let mut second = shard(1, 2);
    let at = second.windows(5).position(|w| w == b"blk.1").expect("its tensor's name");
    second[at + 4] = b'0';
    let error = GgufFile::from_shards(vec![shard(0, 2), second]).expect_err("blk.0 twice");
    assert!(matches!(error.fault(), Some(Fault::DuplicateTensor { shard: 0, .. })), "{error}");
}

#[test]
fn split_keys_of_another_type_are_refused() {
    let bytes = Raw::v3(0, 1).key("split.count", STR).str("2").bytes;
    let error = GgufFile::from_bytes(bytes).expect_err("a string").to_string();
    assert!(error.contains("offset 43") && error.contains("\"split.count\""), "{error}");
}

#[test]
fn strings_that_are_not_utf8_are_bytes() {
    let raw = Raw::v3(0, 3)
        .key("cut", STR)
        .str(b"ab\xC3")
        .key("tokens", ARRAY)
        .array(STR, 2)
        .str("ok")
        .str(b"\xED\xA0\x80")
        .key("ended", STR)
        .str(b"llama\0");
    let file = GgufFile::from_bytes(raw.bytes).expect("only keys must be UTF-8");
    let cut = file.get("cut").expect("there");
    assert!(matches!(cut, Value::Bytes(b"ab\xC3")) && cut.as_str().is_none());
    assert_eq!(cut.type_name(), "str");
    let tokens = file.get("tokens").and_then(|value| value.as_array()).expect("an array");
    assert!(tokens.strs().is_none(), "not all of them are texts");
    let bytes: Vec<&[u8]> = tokens.byte_strs().expect("strings").collect();
    assert_eq!(bytes, [&b"ok"[..], b"\xED\xA0\x80"]);
    assert!(matches!(tokens.iter().nth(1), Some(Value::Bytes(_))));
    let ended = file.get("ended").expect("there");
    assert_eq!(ended.as_str(), Some("llama"), "a zero byte that ends a string is no part of it");
    let clean = ["cut", "tokens", "ended"].map(|key| file.get(key).expect("there").is_clean_text());
    assert_eq!(clean, [false; 3]);
}

#[test]
fn what_is_said_twice_alike_is_said_once() {
    let raw = Raw::v3(0, 4)
        .key("k", U32)
        .u32(7)
        .key("l", U32)
        .u32(8)
        .key("k", U32)
        .u32(7)
        .key("j", U32)
        .u32(9);
    let file = GgufFile::from_bytes(raw.bytes).expect("equal values");
    let found: Vec<_> = file.entries().map(|(key, value)| (key, value.as_u64())).collect();
    assert_eq!(found, [("k", Some(7)), ("l", Some(8)), ("j", Some(9))]);
    assert_eq!(
        ["j", "k", "l"].map(|key| file.get(key).and_then(|v| v.as_u64())),
        [9, 7, 8].map(Some)
    );
}

#[test]
fn ignored_keys_are_not_there() {
    let raw = Raw::v3(0, 2).key("k", U32).u32(7).key("l", U32).u32(8);
    let mut file = GgufFile::from_bytes(raw.bytes).expect("well-formed");
    assert_eq!(file.ignore("k").ok(), Some(true));
    assert_eq!(file.ignore("k").ok(), Some(false), "not there any more");
    assert!(file.get("k").is_none() && file.entries().all(|(key, _)| key != "k"));
    assert!(file.ignore("general.alignment").is_err(), "it says how the file is laid out");
    file.set("k", gguf_rs_lite::Scalar::Str("x".into())).expect("of another kind: it is new");
    assert_eq!(file.get("k").and_then(|value| value.as_str()), Some("x"));
    assert_eq!(file.entries().count(), 2);
}
