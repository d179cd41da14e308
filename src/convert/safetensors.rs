//! Weights in the safetensors format, in one file or several with an index.
//!
//! A file is eight bytes with the length of a header, the header (JSON: name to type, shape and
//! range
//! of bytes), and the bytes. Headers are read whole and checked: ranges lie in the file, agree with
//! types and shapes, do not overlap and leave nothing out. Tensors are read in pieces when they are
//! needed, by plain reads, so that a file that shrinks is an error and not a signal.
//!
//! Files may belong to ranks of tensor parallelism, by their names (`-TP-003`): then each has a part of some
//! matrices, under one name, and they are read as one ([`join_parts`](Tensors::join_parts)).

use super::ConvertError;
use super::dtype::Dtype;
use super::files::malformed;
use super::packed::{Grid, Packed};
use super::shards::{self, rank};
use crate::model::checkpoint::Join;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a header: the limit of the reference's reader.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Dimensions of a tensor: more than any checkpoint has.
const DIMS_MAX: usize = 8;

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name of the tensor.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Dimensions, rows before columns.
    pub shape: Vec<u64>,
    file: usize,
    offset: u64,
    /// Files and offsets of the parts behind the first.
    parts: Vec<(usize, u64)>,
    /// Bytes of a part that lie beside each other.
    run: u64,
    /// Bytes of all elements.
    pub bytes: u64,
}

impl Tensor {
    /// A tensor of these bytes at an offset of a file that is to be named.
    fn at(name: String, dtype: Dtype, shape: Vec<u64>, offset: u64, bytes: u64) -> Tensor {
        Tensor { name, dtype, shape, file: 0, offset, parts: Vec::new(), run: bytes, bytes }
    }

    /// A tensor of f32 that is in no file.
    pub fn shaped(name: String, shape: Vec<u64>) -> Tensor {
        Tensor::at(name, Dtype::F32, shape, 0, 0)
    }
}

/// All tensors of a checkpoint, in the order of their names within each file.
#[derive(Default)]
pub struct Tensors {
    files: Vec<(PathBuf, File)>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    /// Quantized matrices, each of which is a tensor, too.
    packed: Vec<Packed>,
    /// The matrix that was read last, by its place: its rows may be asked for in several parts.
    last: Mutex<Option<(usize, Arc<Grid>)>>,
}

impl Tensors {
    /// Finds the files of a folder and reads their headers; `join` says how parts of a tensor lie in it.
    ///
    /// # Errors
    /// There are none, one is missing or malformed, or a part of a tensor is missing.
    pub fn open(folder: &Path, join: &dyn Fn(&str) -> Join) -> Result<Tensors, ConvertError> {
        let index = folder.join(shards::INDEX);
        let (names, wanted) = shards::find(folder)?;
        let mut all = Tensors::default();
        for name in &names {
            let path = folder.join(name);
            if !path.exists() {
                let of_file = wanted.iter().find(|(_, file)| file == name);
                let tensor = of_file.map_or_else(String::new, |(tensor, _)| tensor.clone());
                return Err(ConvertError::MissingShard { path, tensor });
            }
            all.add(path, "")?;
        }
        if let Some((tensor, file)) = wanted.iter().find(|(t, _)| !all.by_name.contains_key(t)) {
            let problem = format!("tensor `{tensor}` is not in {file}, as this index says");
            return Err(malformed(&index, problem));
        }
        all.join_parts(join)?;
        Ok(all)
    }

    /// Reads the header of the only file.
    ///
    /// # Errors
    /// It cannot be read or is malformed.
    pub fn of_file(path: PathBuf) -> Result<Tensors, ConvertError> {
        let mut all = Tensors::default();
        all.add(path, "")?;
        Ok(all)
    }

    /// Reads the header of another file: its tensors get this name and a dot before their own.
    ///
    /// # Errors
    /// It cannot be read or is malformed.
    pub fn add_under(&mut self, path: PathBuf, name: &str) -> Result<(), ConvertError> {
        self.add(path, &format!("{name}."))
    }

    fn add(&mut self, path: PathBuf, root: &str) -> Result<(), ConvertError> {
        let io = |error| ConvertError::Io { path: path.clone(), error };
        let mut file = File::open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut word = [0; 8];
        file.read_exact(&mut word).map_err(|_| malformed(&path, "no safetensors file"))?;
        let header_len = u64::from_le_bytes(word);
        if header_len > HEADER_BYTES_MAX || header_len > len.saturating_sub(8) {
            return Err(malformed(&path, format!("a header of {header_len} bytes")));
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header).map_err(io)?;
        let header: Value = serde_json::from_slice(&header)
            .map_err(|error| malformed(&path, format!("header: {error}")))?;
        let start = 8 + header_len;
        let number = self.files.len();
        let mut tensors = read_header(&header, len - start)
            .map_err(|problem| malformed(&path, format!("header: {problem}")))?;
        for tensor in &mut tensors {
            tensor.name.insert_str(0, root);
            (tensor.file, tensor.offset) = (number, tensor.offset + start);
            let Some(&place) = self.by_name.get(&tensor.name) else {
                self.by_name.insert(tensor.name.clone(), self.tensors.len());
                self.tensors.push(tensor.clone());
                continue;
            };
            let first = &mut self.tensors[place];
            let last = first.parts.last().map_or(first.file, |part| part.0);
            let ranks = rank(&self.files[last].0).zip(rank(&path));
            let problem = match ranks.is_some_and(|(last, own)| last < own) {
                false => "is in another file, too",
                true if (first.dtype, &first.shape) == (tensor.dtype, &tensor.shape) => {
                    first.parts.push((tensor.file, tensor.offset));
                    continue;
                }
                true => "has another type or shape than its first part",
            };
            return Err(malformed(&path, format!("tensor `{}` {problem}", tensor.name)));
        }
        self.files.push((path, file));
        Ok(())
    }

    /// Makes tensors of ranks whole.
    ///
    /// # Errors
    /// A part is missing, or there are parts of what has none.
    fn join_parts(&mut self, join: &dyn Fn(&str) -> Join) -> Result<(), ConvertError> {
        let ranks = self.files.iter().filter_map(|(path, _)| rank(path));
        let n_ranks = ranks.collect::<HashSet<u32>>().len();
        for tensor in &mut self.tensors {
            let path = &self.files[tensor.file].0;
            if rank(path).is_none() {
                continue;
            }
            let (n, join) = (tensor.parts.len() + 1, join(&tensor.name));
            let wanted = if join == Join::Never { 1 } else { n_ranks };
            if n != wanted {
                let problem = format!("tensor `{}` has {n} parts, not {wanted}", tensor.name);
                return Err(malformed(path, problem));
            }
            if n == 1 {
                continue;
            }
            let &[rows, cols] = &tensor.shape[..] else {
                return Err(malformed(path, format!("tensor `{}` is no matrix", tensor.name)));
            };
            let n = n as u64;
            tensor.bytes = tensor.bytes.saturating_mul(n);
            match join {
                Join::Columns => {
                    tensor.run = cols * tensor.dtype.bytes() as u64;
                    tensor.shape[1] = cols.saturating_mul(n);
                }
                Join::Rows | Join::Never => tensor.shape[0] = rows.saturating_mul(n),
            }
        }
        Ok(())
    }

    /// Paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| &**path)
    }

    /// The tensors.
    pub fn all(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of a name.
    pub fn named(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|&place| &self.tensors[place])
    }

    /// Puts quantized matrices in the places of the tensors that they are kept in, all of
    /// their modules but for biases that are not `dropped`.
    ///
    /// # Errors
    /// A weight has the place of two.
    pub fn replace(
        &mut self,
        packed: Vec<Packed>,
        dropped: &HashSet<String>,
    ) -> Result<(), ConvertError> {
        let modules: HashSet<&str> = packed.iter().map(Packed::module).collect();
        self.tensors.retain(|tensor| {
            let of_module = tensor.name.rsplit_once('.').filter(|(_, part)| *part != "bias");
            let of_experts =
                ["_blocks", "_scales"].iter().find_map(|e| tensor.name.strip_suffix(e));
            let owners = of_module.map(|(module, _)| module).into_iter().chain(of_experts);
            !dropped.contains(&tensor.name)
                && !owners.into_iter().any(|module| modules.contains(module))
        });
        for (place, packed) in packed.iter().enumerate() {
            let (name, shape) = (packed.name.clone(), packed.shape.clone());
            let bytes = shape.iter().product();
            let dtype = Dtype::Packed;
            self.tensors.push(Tensor::at(name, dtype, shape, place as u64, bytes));
        }
        self.packed = packed;
        self.by_name =
            self.tensors.iter().enumerate().map(|(place, t)| (t.name.clone(), place)).collect();
        match self.tensors.iter().enumerate().find(|(place, t)| self.by_name[&t.name] != *place) {
            None => Ok(()),
            Some((_, twice)) => Err(ConvertError::Unpackable {
                tensor: twice.name.clone(),
                problem: "it is there twice".into(),
            }),
        }
    }

    /// The quantized matrix that a tensor is.
    pub fn packed(&self, tensor: &Tensor) -> Option<&Packed> {
        let is_packed = tensor.dtype == Dtype::Packed;
        self.packed.get(tensor.offset as usize).filter(|_| is_packed)
    }

    /// All of a quantized matrix.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    pub fn grid(&self, tensor: &Tensor) -> Result<Arc<Grid>, ConvertError> {
        let none = || ConvertError::Unpackable {
            tensor: tensor.name.clone(),
            problem: "no quantized matrix".into(),
        };
        let (packed, place) = (self.packed(tensor).ok_or_else(none)?, tensor.offset as usize);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, grid)) = last.as_ref().filter(|(known, _)| *known == place) {
            return Ok(grid.clone());
        }
        // Two need not be in memory.
        *last = None;
        let grid = Arc::new(packed.grid(self)?);
        *last = Some((place, grid.clone()));
        Ok(grid)
    }

    /// All bytes of a tensor.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn whole(&self, tensor: &Tensor) -> Result<Vec<u8>, ConvertError> {
        let mut bytes = vec![0; tensor.bytes as usize];
        self.read(tensor, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// All elements of a tensor as floats.
    ///
    /// # Errors
    /// The file cannot be read, or they are no floats.
    pub fn floats(&self, tensor: &Tensor) -> Result<Vec<f32>, ConvertError> {
        let mut values = Vec::new();
        match tensor.dtype.widen(&self.whole(tensor)?, &mut values) {
            true => Ok(values),
            false => Err(self.wrong_type(tensor)),
        }
    }

    /// All elements of a tensor of words of 32 bits.
    ///
    /// # Errors
    /// The file cannot be read, or they are none.
    pub fn words(&self, tensor: &Tensor) -> Result<Vec<u32>, ConvertError> {
        if tensor.dtype != Dtype::I32 {
            return Err(self.wrong_type(tensor));
        }
        let bytes = self.whole(tensor)?;
        Ok(bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect())
    }

    /// All elements of a tensor of integers that count something.
    ///
    /// # Errors
    /// The file cannot be read, or they are none.
    pub fn integers(&self, tensor: &Tensor) -> Result<Vec<usize>, ConvertError> {
        let bytes = self.whole(tensor)?;
        let number = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            usize::try_from(u64::from_le_bytes(word)).ok()
        };
        let is_integer = matches!(tensor.dtype, Dtype::I64 | Dtype::I32 | Dtype::U8);
        let all = bytes.chunks_exact(tensor.dtype.bytes()).map(number);
        all.collect::<Option<_>>().filter(|_| is_integer).ok_or_else(|| self.wrong_type(tensor))
    }

    fn wrong_type(&self, tensor: &Tensor) -> ConvertError {
        let (tensor, ty) = (tensor.name.clone(), format!("{:?}", tensor.dtype));
        ConvertError::Type { tensor, ty, problem: "not what its name says" }
    }

    /// Reads a part of a tensor's bytes into `out`.
    ///
    /// # Errors
    /// The file cannot be read, or has shrunk; or the tensor is a quantized matrix.
    pub fn read(&self, tensor: &Tensor, at: u64, out: &mut [u8]) -> Result<(), ConvertError> {
        if tensor.dtype == Dtype::Packed {
            return Err(self.wrong_type(tensor));
        }
        if tensor.parts.is_empty() {
            return self.read_at((tensor.file, tensor.offset + at), out);
        }
        let n = tensor.parts.len() as u64 + 1;
        let (mut at, mut rest) = (at, out);
        while !rest.is_empty() {
            let (run, within) = (at / tensor.run, at % tensor.run);
            let len = rest.len().min((tensor.run - within) as usize);
            let (some, behind) = rest.split_at_mut(len);
            let (file, offset) = match run % n {
                0 => (tensor.file, tensor.offset),
                part => tensor.parts[part as usize - 1],
            };
            self.read_at((file, offset + run / n * tensor.run + within), some)?;
            (at, rest) = (at + len as u64, behind);
        }
        Ok(())
    }

    fn read_at(&self, (file, at): (usize, u64), out: &mut [u8]) -> Result<(), ConvertError> {
        let (path, mut file) = (&self.files[file].0, &self.files[file].1);
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.read_exact(out))
            .map_err(|error| ConvertError::Io { path: path.clone(), error })
    }
}

/// The tensors of a header whose file has `data_len` bytes behind it.
fn read_header(header: &Value, data_len: u64) -> Result<Vec<Tensor>, String> {
    let map = header.as_object().ok_or("not a JSON object")?;
    let mut tensors = Vec::new();
    for (name, value) in map.iter().filter(|(name, _)| *name != "__metadata__") {
        let tensor = read_entry(name, value).map_err(|e| format!("tensor `{name}`: {e}"))?;
        if tensor.offset.checked_add(tensor.bytes).is_none_or(|end| end > data_len) {
            return Err(format!("tensor `{name}` ends behind the file"));
        }
        tensors.push(tensor);
    }
    let mut by_place: Vec<&Tensor> = tensors.iter().filter(|t| t.bytes > 0).collect();
    by_place.sort_by_key(|tensor| tensor.offset);
    let mut end = 0;
    for tensor in by_place {
        if tensor.offset != end {
            let what = if tensor.offset < end { "overlaps another" } else { "leaves a hole" };
            return Err(format!("tensor `{}` {what}", tensor.name));
        }
        end += tensor.bytes;
    }
    if end != data_len {
        return Err(format!("{} bytes belong to no tensor", data_len - end));
    }
    Ok(tensors)
}

fn read_entry(name: &str, value: &Value) -> Result<Tensor, String> {
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("no `dtype`")?;
    let dtype = Dtype::named(dtype).ok_or_else(|| format!("unknown type {dtype}"))?;
    let numbers = |key: &str| -> Option<Vec<u64>> {
        value.get(key)?.as_array()?.iter().map(Value::as_u64).collect()
    };
    let shape = numbers("shape").ok_or("no `shape`")?;
    if shape.len() > DIMS_MAX {
        return Err(format!("{} dimensions", shape.len()));
    }
    let range = numbers("data_offsets").filter(|range| range.len() == 2);
    let range = range.ok_or("no `data_offsets`")?;
    let bytes = shape.iter().try_fold(dtype.bytes() as u64, |n, &d| n.checked_mul(d));
    let bytes = bytes.ok_or("a shape beyond all files")?;
    if range[1].checked_sub(range[0]) != Some(bytes) {
        return Err(format!("{bytes} bytes by its shape, others by `data_offsets`"));
    }
    Ok(Tensor::at(name.to_owned(), dtype, shape, range[0], bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn headers_that_lie_are_refused() {
        let entry = |range: [u64; 2]| json!({"dtype": "F32", "shape": [2], "data_offsets": range});
        let check = |header: Value, len| read_header(&header, len).map(|t| t.len());
        assert_eq!(check(json!({"a": entry([0, 8]), "b": entry([8, 16])}), 16), Ok(2));
        assert_eq!(check(json!({"__metadata__": {"format": "pt"}}), 0), Ok(0));
        for (header, len, problem) in [
            (json!({"a": entry([0, 8])}), 4, "ends behind"),
            (json!({"a": entry([0, 8]), "b": entry([4, 12])}), 12, "overlaps"),
            (json!({"a": entry([4, 12])}), 12, "hole"),
            (json!({"a": entry([0, 8])}), 12, "belong to no tensor"),
            (json!({"a": entry([8, 0])}), 8, "8 bytes by its shape"),
            (json!({"a": {"dtype": "F3", "shape": [], "data_offsets": [0, 0]}}), 0, "unknown type"),
            (
                json!({"a": {"dtype": "F32", "shape": [1_u64 << 40, 1_u64 << 40], "data_offsets": [0, 0]}}),
                0,
                "beyond all",
            ),
            (json!([1]), 0, "object"),
        ] {
            let error = check(header, len).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
