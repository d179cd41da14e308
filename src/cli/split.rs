//! `teff split` and `teff merge`: a model in several files, as llama.cpp's gguf-split names them, and
//! back in one. Files get their names when all of them are whole.

use super::copy::{self, Copies, Entries};
use super::options::{parse_bytes, whole_number};
use super::{CliError, header, space};
use crate::model::describe::counted;
use gguf_rs_lite::{GgufFile, Limits, OwnedValue, TensorInfo, shard_path, split_entries};
use std::io::Write;
use std::path::PathBuf;

/// `teff split`
#[derive(clap::Args, Debug)]
pub struct SplitArgs {
    /// The file
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Beginning of the parts' names: NAME-00001-of-00003.gguf and so on
    #[arg(value_name = "NAME")]
    output: PathBuf,
    /// Bytes of tensors in a part, at most, as in 500M or 2.5G; a larger tensor has a part of its own
    #[arg(long, value_name = "N[K|M|G]", value_parser = parse_bytes, conflicts_with = "max_tensors")]
    max_size: Option<u64>,
    /// Tensors in a part, at most
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole_number(1..=u32::MAX))]
    max_tensors: u32,
    /// Say what would be written
    #[arg(long)]
    dry_run: bool,
}

/// `teff merge`
#[derive(clap::Args, Debug)]
pub struct MergeArgs {
    /// The first part; the others are found by their names
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// The file to be written
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

/// The metadata of a file without what says how it is split.
fn entries_of(file: &GgufFile) -> Entries {
    let own = file.entries().filter(|(key, _)| !key.starts_with("split."));
    own.map(|(key, value)| (key.to_owned(), OwnedValue::from(value))).collect()
}

/// The part's number for each tensor: the next one where a tensor does not fit any more.
fn parts<'t>(tensors: &'t [TensorInfo], args: &SplitArgs) -> Vec<&'t [TensorInfo]> {
    let (mut parts, mut first, mut bytes) = (Vec::new(), 0, 0_u64);
    for (i, info) in tensors.iter().enumerate() {
        let is_full = match args.max_size {
            Some(max) => bytes.saturating_add(info.bytes) > max,
            None => i - first >= args.max_tensors as usize,
        };
        if is_full && i > first {
            parts.push(&tensors[first..i]);
            (first, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(info.bytes);
    }
    parts.push(&tensors[first..]);
    parts
}

/// Writes the parts.
pub fn split(args: &SplitArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let file = header::open(&args.input)?;
    let at_input = CliError::of_model::<String>(&args.input);
    let tensors = file.tensors();
    let parts = parts(tensors, args);
    let n = parts.len();
    if n < 2 {
        return Err(at_input("all tensors fit one part: there is nothing to split".into()));
    }
    let most = Limits::default().shards_max;
    if n as u64 > most {
        return Err(at_input(format!("{n} parts are more than the {most} that a model may have")));
    }
    space::check_name(&args.output)?;
    if args.output.file_name().and_then(|name| name.to_str()).is_none() {
        return Err(CliError::usage("the parts' name is not UTF-8, or none"));
    }
    let path_of = |i| shard_path(&args.output, i, n);
    if !args.dry_run {
        (0..n).try_for_each(|i| space::check_output(&path_of(i), [], &[&file]))?;
        write_parts(&file, &parts, &path_of)?;
    }
    for (i, tensors) in parts.iter().enumerate() {
        let bytes: u64 = tensors.iter().map(|info| info.bytes).sum();
        let n = counted(tensors.len(), "tensor");
        writeln!(out, "{}: {n}, {bytes} bytes", path_of(i).display())?;
    }
    Ok(())
}

fn write_parts(
    file: &GgufFile,
    parts: &[&[TensorInfo]],
    path_of: &dyn Fn(usize) -> PathBuf,
) -> Result<(), CliError> {
    let (all, n_tensors) = (entries_of(file), file.tensors().len());
    space::check(&path_of(0), file.tensors().iter().map(|info| info.bytes).sum())?;
    let mut copies = Copies::begin(n_tensors);
    for (i, tensors) in parts.iter().enumerate() {
        let of_split = split_entries(i as u16, parts.len() as u16, n_tensors as i32);
        // The first part has the metadata; the alignment is each file's own.
        let is_here = |key: &str| i == 0 || key == "general.alignment";
        let own = all.iter().filter(|(key, _)| is_here(key)).cloned();
        let entries: Entries =
            own.chain(of_split.map(|(key, value)| (key.to_owned(), value))).collect();
        copies.add(file, &entries, tensors, &path_of(i))?;
    }
    copies.finish()
}

/// Writes the whole.
pub fn merge(args: &MergeArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let file = header::open(&args.input)?;
    space::check_output(&args.output, [], &[&file])?;
    copy::write(&file, &entries_of(&file), file.tensors(), &args.output)?;
    let tensors = counted(file.tensors().len(), "tensor");
    let files = counted(file.shard_count(), "file");
    writeln!(out, "{}: {tensors} of {files}", args.output.display())?;
    Ok(())
}
