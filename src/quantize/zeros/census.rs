//! How many weights of a file are zero.

use super::super::error::QuantizeError;
use super::super::share::share;
use super::count;
use gguf_rs_lite::GgufFile;
use teff_kernels::KernelTable;

/// Bytes of a tensor that are given back to the system at a time, about.
const RELEASE_BYTES: usize = 4 << 20;

/// Counts the zeros of each tensor of a file, by threads: all its weights are read. `None` for types that
/// cannot be read as numbers.
///
/// # Errors
/// There are no threads.
pub fn zeros_of(
    file: &GgufFile,
    kernels: &KernelTable,
    threads: usize,
) -> Result<Vec<Option<u64>>, QuantizeError> {
    let mut zeros = vec![None; file.tensors().len()];
    let work = |(info, zeros): (&gguf_rs_lite::TensorInfo, &mut Option<u64>), x: &mut Vec<f32>| {
        let Some(kernels) = kernels.types(info.ty) else { return Ok(()) };
        file.check_uncut()?;
        x.resize(info.cols() as usize, 0.0);
        let row_bytes = (info.bytes / info.rows().max(1)) as usize;
        let (mut sum, mut read, mut released) = (0, 0, 0);
        for row in file.data(info).chunks_exact(row_bytes.max(1)) {
            kernels.dequantize(row, x);
            sum += count(x) as u64;
            read += row_bytes;
            if read - released >= RELEASE_BYTES || read == info.bytes as usize {
                file.release(info, released..read);
                released = read;
            }
        }
        *zeros = Some(sum);
        Ok(())
    };
    share(file.tensors().iter().zip(&mut zeros).collect(), threads, &work)?;
    Ok(zeros)
}
