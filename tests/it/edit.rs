//! Metadata changed in place and by copies, models split and merged: the tensors stay what they are.

use crate::cli::{error_of, teff, text};
use crate::fixture_model;
use crate::folder::Folder;
use gguf_rs_lite::GgufFile;
use std::path::Path;

fn ok(args: &[&str]) -> String {
    let output = teff(args, "");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Names and bytes of all tensors.
fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = GgufFile::open(path).unwrap();
    file.tensors().iter().map(|info| (info.name.clone(), file.data(info).to_vec())).collect()
}

fn value(path: &Path, key: &str) -> Option<String> {
    let file = GgufFile::open(path).unwrap();
    file.get(key).map(|value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.as_u64().unwrap().to_string(),
    })
}

#[test]
fn metadata_is_changed_in_place_where_it_fits() {
    let folder = Folder::new("edit");
    let path = folder.0.join("m.gguf");
    std::fs::write(&path, fixture_model::load("llama-dense").gguf).unwrap();
    let before = tensors(&path);
    let bytes = std::fs::metadata(&path).unwrap().len();
    let edit = |more: &[&str]| ok(&[&["edit", text(&path)][..], more].concat());

    // A text that does not fit: a copy.
    let long = format!("general.description=str:{}", "long ".repeat(100));
    assert!(edit(&["--set", &long, "--dry-run"]).contains("by a copy of"));
    assert_eq!(value(&path, "general.description"), None, "only told");
    assert!(edit(&["--set", &long]).contains("by a copy of"));
    assert_eq!(tensors(&path), before);
    // A shorter one in its place, then back within the room that is left.
    let longer = std::fs::metadata(&path).unwrap().len();
    assert!(longer > bytes);
    for words in ["short", "a longer text than that", &"x".repeat(333)] {
        let setting = format!("general.description=str:{words}");
        assert!(edit(&["--set", &setting]).contains("in place"), "{words}");
        assert_eq!(value(&path, "general.description").as_deref(), Some(words));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), longer);
        assert_eq!(tensors(&path), before);
    }
    // Numbers, and keys that go.
    let told = edit(&["--set", "llama.context_length=u32:99", "--remove", "general.description"]);
    assert!(told.contains("llama.context_length: 99 instead of") && told.contains("removed"));
    assert_eq!(value(&path, "llama.context_length").as_deref(), Some("99"));
    assert_eq!(value(&path, "general.description"), None);
    let template = folder.0.join("t.jinja");
    std::fs::write(&template, "{{ messages }}\n").unwrap();
    assert!(edit(&["--template", text(&template)]).contains("in place"));
    assert_eq!(value(&path, "tokenizer.chat_template").as_deref(), Some("{{ messages }}\n"));
    assert!(edit(&["--template", text(&template)]).contains("nothing to change"));
    assert_eq!(tensors(&path), before);
    let out = folder.0.join("out.gguf");
    edit(&["--remove", "tokenizer.chat_template", "-o", text(&out)]);
    assert_eq!((value(&out, "tokenizer.chat_template"), tensors(&out)), (None, before));
    assert_eq!(folder.names(), ["m.gguf", "out.gguf", "t.jinja"]);
    let refused = teff(&["edit", text(&path), "--set", "general.alignment=u32:64"], "");
    assert!(error_of(&refused, 1).contains("how the file is laid out"));
}

/// A model that could be loaded can be so afterwards; what could not, may be changed as one likes.
#[test]
fn models_are_not_broken() {
    let folder = Folder::new("edit-broken");
    let path = folder.0.join("m.gguf");
    std::fs::write(&path, include_bytes!("../golden/faults/tiny.gguf")).unwrap();
    let before = std::fs::read(&path).unwrap();
    let out = folder.0.join("out.gguf");
    for (args, part) in [
        (&["--set", "llama.block_count=u32:9"][..], "blk."),
        (&["--set", "llama.block_count=u32:9", "--dry-run"], "blk."),
        (&["--set", "llama.new_key=u32:1", "-o", text(&out)], "llama.new_key"),
        (&["--remove", "general.architecture"], "general.architecture"),
        (&["--remove", "tokenizer.ggml.tokens"], "tokenizer.ggml.tokens"),
        (&["--set", "tokenizer.chat_template=str:{% for"], "template"),
    ] {
        let told = error_of(&teff(&[&["edit", text(&path)][..], args].concat(), ""), 1);
        let is_told = told.contains("m.gguf: the result would not load: ") && told.contains(part);
        assert!(is_told, "{args:?}: {told}");
        assert!(std::fs::read(&path).unwrap() == before, "{args:?}");
        assert_eq!(folder.names(), ["m.gguf"], "{args:?}");
    }
    let broken = fixture_model::load("llama-dense").gguf;
    let mut writer = gguf_rs_lite::GgufWriter::new(std::fs::File::create(&path).unwrap());
    let file = GgufFile::from_bytes(broken).unwrap();
    let own = file.entries().filter(|(key, _)| *key != "llama.block_count");
    own.for_each(|(key, value)| writer.add(key, value).unwrap());
    file.tensors().iter().for_each(|t| writer.declare(&t.name[..], t.ty, &t.dims).unwrap());
    let mut data = writer.write_header().unwrap();
    file.tensors().iter().for_each(|t| data.write_tensor(file.data(t)).unwrap());
    data.finish().unwrap();
    ok(&["edit", text(&path), "--set", "llama.block_count=u32:9"]);
    assert_eq!(value(&path, "llama.block_count").as_deref(), Some("9"));
}

#[test]
fn lists_are_set_and_told() {
    let folder = Folder::new("edit-lists");
    let path = folder.0.join("m.gguf");
    std::fs::write(&path, fixture_model::load("llama-dense").gguf).unwrap();
    let set = |setting: &str, more: &[&str]| {
        ok(&[&["edit", text(&path), "--set", setting][..], more].concat())
    };
    set("tokenizer.ggml.eos_token_ids=[u32]:1,2,3", &[]);
    set(r#"general.tags=[str]:["a, b", "c"]"#, &[]);
    let file = GgufFile::open(&path).unwrap();
    let ids = file.get("tokenizer.ggml.eos_token_ids").unwrap().as_array().unwrap().to_i64s();
    assert_eq!(ids.unwrap(), [1, 2, 3]);
    let tags = file.get("general.tags").unwrap().as_array().unwrap();
    assert_eq!(tags.strs().unwrap().collect::<Vec<_>>(), ["a, b", "c"]);
    drop(file);
    let before = std::fs::read(&path).unwrap();
    let told = set("tokenizer.ggml.eos_token_ids=[u32]:7", &["--dry-run"]);
    assert!(told.contains("tokenizer.ggml.eos_token_ids: [7] instead of [1, 2, 3]"), "{told}");
    let told = set("general.name=str:new", &["--dry-run"]);
    assert!(told.contains("general.name: \"new\""), "{told}");
    assert!(std::fs::read(&path).unwrap() == before, "only told");
    let wrong = teff(&["edit", text(&path), "--set", "a=list:1"], "");
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert!(wrong.status.code() == Some(2) && told.contains("none of u8, i8, u16"), "{told}");
}

/// The metadata of several files is in the first, whichever is named.
#[test]
fn the_first_of_several_files_is_changed() {
    let folder = Folder::new("edit-split");
    let path = folder.0.join("m.gguf");
    std::fs::write(&path, fixture_model::load("llama-dense").gguf).unwrap();
    let stem = folder.0.join("part");
    let n = ok(&["split", text(&path), text(&stem), "--max-tensors", "9"]).lines().count();
    let part = |i: usize| folder.0.join(format!("part-{i:05}-of-{n:05}.gguf"));
    let others = || (2..=n).map(|i| std::fs::read(part(i)).unwrap()).collect::<Vec<_>>();
    let (before, all) = (others(), folder.names());
    let long = format!("general.description=str:{}", "long ".repeat(100));
    assert!(ok(&["edit", text(&part(1)), "--set", &long]).contains("by a copy of"));
    let told = ok(&["edit", text(&part(2)), "--set", "general.description=str:short"]);
    assert!(told.contains("in place"), "{told}");
    assert_eq!(value(&part(1), "general.description").as_deref(), Some("short"));
    assert_eq!(value(&part(1), "split.count"), Some(n.to_string()));
    assert_eq!(tensors(&part(1)), tensors(&path));
    assert!(others() == before && folder.names() == all);
    let out = folder.0.join("out.gguf");
    let apart = teff(&["edit", text(&part(1)), "--set", &long, "-o", text(&out)], "");
    assert!(error_of(&apart, 1).contains("merge them first"));
}

/// A header that was written in part is put back, and a foreign file is left alone.
#[test]
fn an_edit_that_died_is_undone() {
    let folder = Folder::new("edit-died");
    let (path, journal) = (folder.0.join("m.gguf"), folder.0.join("m.gguf.teff-edit"));
    let whole = fixture_model::load("llama-dense").gguf;
    std::fs::write(&path, &whole).unwrap();
    let old = &whole[..64];
    let mut new = old.to_vec();
    new[40..].fill(0xee);
    let kept = [&b"TEFFEDIT"[..], old, &new, b"TEFFEDIT"].concat();
    // Ten bytes of the new header were written.
    let mut torn = whole.clone();
    torn[40..50].fill(0xee);
    std::fs::write(&path, &torn).unwrap();
    std::fs::write(&journal, &kept).unwrap();
    let output = teff(&["edit", text(&path)], "");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is undone"));
    assert!(std::fs::read(&path).unwrap() == whole && !journal.exists());
    // A journal that was not whole, and one of another file.
    for kept in
        [&kept[..kept.len() - 1], &[&b"TEFFEDIT"[..], &[7; 64], &[8; 64], b"TEFFEDIT"].concat()]
    {
        std::fs::write(&journal, kept).unwrap();
        ok(&["edit", text(&path)]);
        assert!(std::fs::read(&path).unwrap() == whole && !journal.exists());
    }
}

#[test]
fn models_are_split_and_merged() {
    let folder = Folder::new("split");
    let path = folder.0.join("m.gguf");
    let whole = fixture_model::load("llama-dense").gguf;
    std::fs::write(&path, &whole).unwrap();
    let name = folder.0.join("part");
    let told = ok(&["split", text(&path), text(&name), "--max-tensors", "7", "--dry-run"]);
    assert_eq!(folder.names(), ["m.gguf"]);
    ok(&["split", text(&path), text(&name), "--max-tensors", "7"]);
    let n = told.lines().count();
    assert_eq!(folder.names().len(), n + 1);
    let first = folder.0.join(format!("part-00001-of-{n:05}.gguf"));
    assert_eq!(tensors(&first), tensors(&path));
    let merged = folder.0.join("merged.gguf");
    ok(&["merge", text(&first), text(&merged)]);
    assert!(std::fs::read(&merged).unwrap() == whole, "byte for byte");
    let big = ok(&["split", text(&path), text(&name), "--max-size", "100K", "--dry-run"]);
    assert!(big.lines().count() > 1);
    let one = teff(&["split", text(&path), text(&name), "--max-size", "1G"], "");
    assert!(error_of(&one, 1).contains("nothing to split"));
    let over = teff(&["split", text(&first), text(&name), "--max-tensors", "7"], "");
    assert!(error_of(&over, 1).contains("is the input too"));
    let nowhere = folder.0.join("none/part");
    let nowhere = teff(&["split", text(&path), text(&nowhere), "--max-tensors", "7"], "");
    assert!(error_of(&nowhere, 1).contains("there is no such folder"));
    let same = teff(&["merge", text(&path), text(&path)], "");
    assert!(error_of(&same, 1).contains("is the input too"));
}
