//! Rows, dealt out to threads: a slab of a tensor's rows at a time becomes the bytes of its new type.
//!
//! A thread takes some rows, widens them to f32, checks that all are finite, quantizes, and reads the
//! result back to see what was lost. Sums of errors are kept for each of these parts, and added in
//! their order, so that they do not depend on who took what.

use super::error::QuantizeError;
use super::plan::{Options, Planned};
use crate::tensor::memory::reserve;
use gguf_rs_lite::GgufFile;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use teff_kernels::TypeKernels;

/// Elements of a slab, about: 4 MiB as F32. What is written at a time, and what is computed between
/// two looks at whether to stop: less than a second for the slowest types.
const SLAB_ELEMENTS: u64 = 1 << 20;

/// Elements that a thread takes at a time, about: 64 KiB as F32 stay in its cache.
const PART_ELEMENTS: u64 = 16 << 10;

/// What was lost in a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Number of weights.
    pub elements: u64,
    /// Sum of squared errors.
    pub error2: f64,
    /// Sum of squared weights.
    pub weight2: f64,
}

impl Loss {
    /// Root mean square error.
    pub fn rms_error(&self) -> f64 {
        (self.error2 / self.elements.max(1) as f64).sqrt()
    }

    /// The error as a part of the weights' own size; 0 of weights that are all zero.
    pub fn relative(&self) -> f64 {
        if self.weight2 == 0.0 { 0.0 } else { (self.error2 / self.weight2).sqrt() }
    }

    fn add(&mut self, other: Loss) {
        self.elements += other.elements;
        self.error2 += other.error2;
        self.weight2 += other.weight2;
    }
}

/// Progress of a file that is written.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The tensor.
    pub tensor: &'a Planned<'a>,
    /// Its number in the file.
    pub number: usize,
    /// Rows of it that are done.
    pub rows: u64,
    /// What was lost so far.
    pub loss: Loss,
    /// Elements that are done, of all tensors that are not copied.
    pub done: u64,
    /// Elements that there are.
    pub total: u64,
}

/// Quantizes one tensor, handing over its bytes slab by slab with the rows done so far.
pub(super) fn quantize(
    file: &GgufFile,
    tensor: &Planned<'_>,
    options: &Options,
    write: &mut dyn FnMut(&[u8], u64, Loss) -> Result<(), QuantizeError>,
) -> Result<Loss, QuantizeError> {
    let work = Work::new(file, tensor, options)?;
    let (cols, rows) = (tensor.info.cols(), tensor.info.rows());
    let slab_rows = (SLAB_ELEMENTS / cols).clamp(1, rows);
    let mut out = Vec::new();
    let slab_bytes = slab_rows as usize * work.new_row_bytes;
    reserve(&mut out, slab_bytes, "quantized rows")?;
    out.resize(slab_bytes, 0);
    let mut loss = Loss::default();
    let mut first = 0;
    while first < rows {
        let n = slab_rows.min(rows - first);
        let out = &mut out[..n as usize * work.new_row_bytes];
        for part in work.slab(first, out, options.threads)? {
            loss.add(part);
        }
        if !(loss.error2.is_finite()) {
            let (name, ty) = (tensor.info.name.clone(), tensor.ty);
            return Err(QuantizeError::TooLarge { name, ty });
        }
        let bytes = work.old_row_bytes;
        file.release(tensor.info, first as usize * bytes..(first + n) as usize * bytes);
        first += n;
        write(out, first, loss)?;
    }
    Ok(loss)
}

/// What the threads that share a tensor know.
struct Work<'a> {
    tensor: &'a Planned<'a>,
    /// The rows as they are.
    data: &'a [u8],
    old: &'a TypeKernels,
    new: &'a TypeKernels,
    old_row_bytes: usize,
    new_row_bytes: usize,
    /// Rows that a thread takes.
    part_rows: usize,
}

impl<'a> Work<'a> {
    fn new(
        file: &'a GgufFile,
        tensor: &'a Planned<'a>,
        options: &'a Options,
    ) -> Result<Work<'a>, QuantizeError> {
        let name = || tensor.info.name.clone();
        let old = options.kernels.types(tensor.info.ty);
        let old =
            old.ok_or_else(|| QuantizeError::CannotRead { name: name(), ty: tensor.info.ty })?;
        let (ty, method) = (tensor.ty, tensor.method.name);
        let new = options.kernels.types(ty);
        let new = new.ok_or_else(|| QuantizeError::NoMethod { name: name(), ty, method })?;
        let cols = tensor.info.cols();
        let rows = tensor.info.rows() as usize;
        Ok(Work {
            tensor,
            data: file.data(tensor.info),
            old,
            new,
            old_row_bytes: tensor.info.bytes as usize / rows,
            new_row_bytes: tensor.bytes as usize / rows,
            part_rows: (PART_ELEMENTS / cols).max(1) as usize,
        })
    }

    /// Quantizes the rows from `first` on that `out` has room for; returns what each part lost.
    fn slab(&self, first: u64, out: &mut [u8], threads: usize) -> Result<Vec<Loss>, QuantizeError> {
        let parts = out.chunks_mut(self.part_rows * self.new_row_bytes);
        let mut losses = vec![Loss::default(); parts.len()];
        let n_threads = threads.clamp(1, parts.len().max(1));
        let queue = Mutex::new(parts.zip(&mut losses).enumerate());
        let failed: Mutex<Option<(u64, QuantizeError)>> = Mutex::new(None);
        let stop = AtomicBool::new(false);
        let run = || {
            let mut buffers = Buffers::default();
            while !stop.load(Ordering::Relaxed) {
                // A worker that panics takes the whole scope with it.
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((number, (out, loss))) = next else { break };
                let row = first + (number * self.part_rows) as u64;
                match self.part(row, out, &mut buffers) {
                    Ok(part) => *loss = part,
                    Err(error) => {
                        stop.store(true, Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        // The first row's error, whoever found another one meanwhile.
                        if failed.as_ref().is_none_or(|(at, _)| row < *at) {
                            *failed = Some((row, error));
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..n_threads {
                let thread = std::thread::Builder::new().name("teff-quantize".into());
                thread.spawn_scoped(scope, run).map_err(QuantizeError::Threads)?;
            }
            run();
            Ok::<(), QuantizeError>(())
        })?;
        drop(queue);
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(losses),
        }
    }

    fn part(&self, row: u64, out: &mut [u8], buffers: &mut Buffers) -> Result<Loss, QuantizeError> {
        let cols = self.tensor.info.cols() as usize;
        buffers.resize(cols)?;
        let Buffers { x, y } = buffers;
        let rows_of_matrix = self.tensor.info.dims.get(1).copied().unwrap_or(1);
        let mut loss = Loss::default();
        for (i, out) in out.chunks_exact_mut(self.new_row_bytes).enumerate() {
            let row = row + i as u64;
            let at = row as usize * self.old_row_bytes;
            self.old.dequantize(&self.data[at..at + self.old_row_bytes], x);
            check_finite(&self.tensor.info.name, row, x)?;
            let importance = self.tensor.importances.as_ref().map(|all| {
                let matrix = (row / rows_of_matrix) as usize;
                &all[matrix * cols..][..cols]
            });
            let method = self.tensor.method;
            method.quantize(self.new, x, importance, out).map_err(|_| QuantizeError::NoMethod {
                name: self.tensor.info.name.clone(),
                ty: self.tensor.ty,
                method: method.name,
            })?;
            self.new.dequantize(out, y);
            loss.add(loss_of(x, y));
        }
        Ok(loss)
    }
}

/// A row before and after.
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Buffers {
    fn resize(&mut self, cols: usize) -> Result<(), QuantizeError> {
        for buffer in [&mut self.x, &mut self.y] {
            reserve(buffer, cols, "a row of weights")?;
            buffer.resize(cols, 0.0);
        }
        Ok(())
    }
}

/// Sums of squares in eight chains, which compilers turn into vectors.
fn loss_of(x: &[f32], y: &[f32]) -> Loss {
    const CHAINS: usize = 8;
    let (mut error2, mut weight2) = ([0f64; CHAINS], [0f64; CHAINS]);
    let mut add = |i: usize, x: f32, y: f32| {
        let error = f64::from(x) - f64::from(y);
        error2[i] += error * error;
        weight2[i] += f64::from(x) * f64::from(x);
    };
    let ((x8, x_rest), (y8, y_rest)) = (x.as_chunks::<CHAINS>(), y.as_chunks::<CHAINS>());
    for (x, y) in x8.iter().zip(y8) {
        (0..CHAINS).for_each(|i| add(i, x[i], y[i]));
    }
    for (i, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
        add(i, x, y);
    }
    Loss { elements: x.len() as u64, error2: error2.iter().sum(), weight2: weight2.iter().sum() }
}

/// Notices NaN and infinity.
pub(super) fn check_finite(name: &str, row: u64, x: &[f32]) -> Result<(), QuantizeError> {
    // A sum of products with zero is zero unless one of them is not finite.
    if x.chunks(64).all(|x| x.iter().map(|x| x * 0.0).sum::<f32>() == 0.0) {
        return Ok(());
    }
    let column = x.iter().position(|x| !x.is_finite()).unwrap_or(0) as u64;
    Err(QuantizeError::NotFinite { name: name.to_owned(), row, column })
}
