//! Products of float matrices, by the kernels that models are computed with.

use teff_kernels::{ActFormat, Acts, KernelTable, Scratch};

/// Sets `y[t][r] = w[r] . x[t]` for the rows of `x`; `w` has rows of `cols` floats as bytes.
///
/// # Panics
/// If lengths do not fit, or there are no kernels of floats, which each table has.
pub(super) fn product(
    kernels: &KernelTable,
    w: &[u8],
    x: &[f32],
    cols: usize,
    scratch: &mut Scratch,
    y: &mut Vec<f32>,
) {
    let n_rows = w.len() / (cols * size_of::<f32>());
    let plan = kernels.plan(ActFormat::F32, cols, x.len() / cols);
    y.clear();
    y.resize(n_rows * plan.n_tokens, 0.0);
    let floats = kernels.types(gguf_rs_lite::GgmlType::F32).expect("floats are in each table");
    let acts = Acts { plan: &plan, q: &[], d: &[], s: &[], x };
    floats.matmul(w, n_rows, &acts, scratch, y);
}

/// The bytes of floats, as a matrix of a model has them.
pub(super) fn bytes_of(x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(x)];
    for (bytes, x) in bytes.as_chunks_mut().0.iter_mut().zip(x) {
        *bytes = x.to_le_bytes();
    }
    bytes
}
