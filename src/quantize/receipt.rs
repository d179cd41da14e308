//! Files held against their receipts.

use super::error::QuantizeError;
use crate::receipt::{
    ERRORS, FACTORS, FILE_HASHES, FILES, HASHES, IDS, Loss, SOURCE, TENSORS, TEXTS, hash_of_file,
    hash_of_path, hash_of_tensor, loss_of,
};
use gguf_rs_lite::{GgufFile, TensorInfo, Value};
use std::io;
use std::path::{Component, Path};
use teff_kernels::KernelTable;

/// Errors may differ from those in a receipt by this part of them: sums come in another order.
const ERROR_TOLERANCE: f64 = 1e-4;

/// Result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Tensors that are as the receipt says.
    pub same: usize,
    /// Faults: what is not as it says, a line each, with the tensor's name.
    pub faults: Vec<String>,
    /// Tensors whose losses are not measured.
    pub unmeasured: usize,
    /// Why not.
    pub why: &'static str,
}

/// A receipt as it is in a file.
struct Receipt<'a> {
    names: Vec<&'a str>,
    hashes: Vec<&'a str>,
    errors: Vec<f64>,
    factors: Vec<bool>,
}

/// A list of texts.
fn texts<'a>(file: &'a GgufFile, key: &str) -> Option<Vec<&'a str>> {
    file.get(key)?.as_array()?.iter().map(|value| value.as_str()).collect()
}

impl<'a> Receipt<'a> {
    /// `None` if there is none; an error if it does not fit together.
    fn of(file: &'a GgufFile) -> Option<Result<Receipt<'a>, String>> {
        file.get(TENSORS)?;
        let number =
            |value: Value<'_>| if let Value::F32(x) = value { Some(x.into()) } else { None };
        let flag = |value: Value<'_>| if let Value::Bool(x) = value { Some(x) } else { None };
        let read = || {
            let (names, hashes) = (texts(file, TENSORS)?, texts(file, HASHES)?);
            let errors = file.get(ERRORS)?.as_array()?.iter().map(number);
            let errors = errors.collect::<Option<Vec<f64>>>()?;
            let factors = match file.get(FACTORS) {
                Some(value) => value.as_array()?.iter().map(flag).collect::<Option<_>>()?,
                None => vec![false; names.len()],
            };
            let n = names.len();
            let fits = hashes.len() == n && errors.len() == n && factors.len() == n;
            fits.then_some(Receipt { names, hashes, errors, factors })
        };
        Some(read().ok_or_else(|| "the receipt is damaged".to_owned()))
    }
}

/// Holds a file's tensors against its receipt; `None` if it has none, or `goes_on` said no.
///
/// # Errors
/// The file was cut meanwhile.
pub fn check(
    file: &GgufFile,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Checked>, QuantizeError> {
    let mut checked = Checked::default();
    let receipt = match Receipt::of(file) {
        None => return Ok(None),
        Some(Ok(receipt)) => receipt,
        Some(Err(fault)) => return Ok(Some(Checked { faults: vec![fault], ..checked })),
    };
    for (name, expected) in receipt.names.iter().zip(&receipt.hashes) {
        let Some(info) = file.tensor(name) else {
            checked.faults.push(format!("tensor {name:?} is missing"));
            continue;
        };
        match hash_of_tensor(file, info, goes_on)? {
            None => return Ok(None),
            Some(found) if found == **expected => checked.same += 1,
            Some(_) => checked.faults.push(format!("tensor {name:?} has been changed")),
        }
    }
    for info in file.tensors().iter().filter(|info| !receipt.names.contains(&&info.name[..])) {
        checked.faults.push(format!("tensor {:?} is not in the receipt", info.name));
    }
    Ok(Some(checked))
}

/// Texts of a receipt, and the ids that their tokens had.
pub fn tokens(file: &GgufFile) -> Vec<(&str, &str)> {
    let (texts, ids) = (texts(file, TEXTS), texts(file, IDS));
    texts.into_iter().flatten().zip(ids.into_iter().flatten()).collect()
}

/// Holds a receipt against the file that it was made of: hashes, and what each tensor lost, measured anew;
/// `None` if there is no receipt, or `goes_on` said no.
///
/// # Errors
/// A file was cut meanwhile, or a type has no kernels.
pub fn check_source(
    file: &GgufFile,
    source: &GgufFile,
    kernels: &KernelTable,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Checked>, QuantizeError> {
    let mut checked = Checked::default();
    let Some(Ok(receipt)) = Receipt::of(file) else { return Ok(None) };
    let Some(found) = hash_of_file(source, goes_on)? else { return Ok(None) };
    if file.get(SOURCE).and_then(|value| value.as_str()) != Some(&found) {
        checked.faults.push("the source is not the one that the file was made of".into());
    }
    if file.get("general.type").and_then(|value| value.as_str()) == Some("adapter") {
        (checked.unmeasured, checked.why) = (receipt.names.len(), "an adapter has its own");
        return Ok(Some(checked));
    }
    let tensors = receipt.names.iter().zip(&receipt.errors).zip(&receipt.factors);
    for ((name, &expected), has_factors) in tensors {
        let pair = (file.tensor(name), source.tensor(name));
        let (Some(made), Some(from)) = pair else {
            checked.faults.push(format!("tensor {name:?} is not in both files"));
            continue;
        };
        if made.dims != from.dims {
            checked.faults.push(format!("tensor {name:?} is of another shape in the source"));
            continue;
        }
        if *has_factors {
            checked.unmeasured += 1;
            checked.why = "they are the source's times factors";
            continue;
        }
        if !goes_on() {
            return Ok(None);
        }
        let found = measure((file, made), (source, from), kernels)?.rms_error();
        if (found - expected).abs() > ERROR_TOLERANCE * expected.max(f64::from(f32::MIN_POSITIVE)) {
            checked.faults.push(format!(
                "tensor {name:?} has an RMS error of {found:.3e}, not {expected:.3e}"
            ));
        } else {
            checked.same += 1;
        }
    }
    Ok(Some(checked))
}

/// Holds a receipt against the folder that its file was converted from: the hashes of that folder's files.
/// What tensors lost is not measured anew. `None` if there is no receipt, or `goes_on` said no.
///
/// # Errors
/// A file of the folder cannot be read.
pub fn check_folder(
    file: &GgufFile,
    folder: &Path,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<Option<Checked>> {
    let mut checked = Checked::default();
    let Some(Ok(receipt)) = Receipt::of(file) else { return Ok(None) };
    let (Some(names), Some(hashes)) = (texts(file, FILES), texts(file, FILE_HASHES)) else {
        checked.faults.push("the file was not made of a folder".into());
        return Ok(Some(checked));
    };
    (checked.unmeasured, checked.why) = (receipt.names.len(), "the source is no GGUF file");
    for (name, expected) in names.iter().zip(hashes) {
        let path = folder.join(name);
        // A name from a file is no way out of the folder.
        let is_within = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        if !is_within || !path.is_file() {
            checked.faults.push(format!("the source's file {name:?} is missing"));
            continue;
        }
        match hash_of_path(&path, goes_on)? {
            None => return Ok(None),
            Some(found) if found == expected => {}
            Some(_) => checked.faults.push(format!("the source's file {name:?} is another")),
        }
    }
    Ok(Some(checked))
}

/// Loss of a tensor.
fn measure(
    (file, made): (&GgufFile, &TensorInfo),
    (source, from): (&GgufFile, &TensorInfo),
    kernels: &KernelTable,
) -> Result<Loss, QuantizeError> {
    let mut loss = Loss::default();
    let types = |info: &TensorInfo| {
        let (name, ty) = (info.name.clone(), info.ty);
        kernels.types(ty).ok_or(QuantizeError::CannotRead { name, ty })
    };
    if made.ty == from.ty && file.data(made) == source.data(from) {
        return Ok(loss);
    }
    let (new, old) = (types(made)?, types(from)?);
    let cols = made.cols() as usize;
    let [mut x, mut y] = [vec![0.0; cols], vec![0.0; cols]];
    let row_bytes = |info: &TensorInfo| info.bytes as usize / info.rows().max(1) as usize;
    let rows = file.data(made).chunks(row_bytes(made).max(1));
    for (made, from) in rows.zip(source.data(from).chunks(row_bytes(from).max(1))) {
        new.dequantize(made, &mut y);
        old.dequantize(from, &mut x);
        loss.add(loss_of(&x, &y));
    }
    Ok(loss)
}
