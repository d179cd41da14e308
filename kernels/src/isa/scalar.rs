//! Matrix products for any CPU: every block unpacked once, then walked by all tokens.
//!
//! The specification of the integer levels (bit for bit) and of the float ones.

use crate::act::Acts;
use crate::block::{Block16, Block32, Block256, Float, as_blocks, dot_float};
use crate::table::Scratch;

/// Weights in blocks of 32.
pub(crate) fn matmul_32<B: Block32>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    y.fill(0.0);
    for (r, row) in as_blocks::<B>(w).chunks_exact(acts.plan.blocks()).enumerate() {
        for (b, block) in row.iter().enumerate() {
            let block = block.unpack();
            for (t, y) in y[r..].iter_mut().step_by(n_rows).enumerate() {
                *y = block.step::<B>(*y, &acts.block(t, b));
            }
        }
    }
}

/// Weights in blocks of several times 32.
pub(crate) fn matmul_16<B: Block16>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    y.fill(0.0);
    let parts = B::LEN / 32;
    for (r, row) in as_blocks::<B>(w).chunks_exact(acts.plan.blocks() / parts).enumerate() {
        for b in 0..acts.plan.blocks() {
            let block = row[b / parts].unpack(b % parts);
            for (t, y) in y[r..].iter_mut().step_by(n_rows).enumerate() {
                *y = block.step(*y, &acts.block(t, b));
            }
        }
    }
}

/// Weights in super-blocks of 256.
pub(crate) fn matmul_256<B: Block256>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    y.fill(0.0);
    for (r, row) in as_blocks::<B>(w).chunks_exact(acts.plan.blocks() / 8).enumerate() {
        for (b, block) in row.iter().enumerate() {
            let block = block.unpack();
            for (t, y) in y[r..].iter_mut().step_by(n_rows).enumerate() {
                *y = block.step::<B>(*y, &std::array::from_fn(|j| acts.block(t, 8 * b + j)));
            }
        }
    }
}

/// Float weights.
pub(crate) fn matmul_float<W: Float>(
    w: &[u8],
    n_rows: usize,
    acts: &Acts<'_>,
    _: &mut Scratch,
    y: &mut [f32],
) {
    let cols = acts.plan.cols;
    for (r, row) in as_blocks::<W>(w).chunks_exact(cols).enumerate() {
        for (t, x) in acts.x.chunks_exact(cols).enumerate() {
            y[t * n_rows + r] = dot_float(row, x);
        }
    }
}
