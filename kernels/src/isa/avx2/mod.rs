//! AVX2, FMA and F16C: the table, and safe entries to the kernels.
//!
//! An entry's one `unsafe` calls a function of the three features. It is sound because entries
//! leave this file only inside [`TABLE`], and that only against an [`Avx2`] token.
//!
//! Hot loops count and index: `array::map` and `from_fn` lack the features, so what they are given
//! is not inlined through them.

#![allow(clippy::needless_range_loop, reason = "see above")]

mod attention;
mod dense;
mod exp;
mod float;
mod mem;
mod pack;
mod panels;
mod quantized;
mod rows;
mod sum;
mod unpack;

use crate::act::{ActPlan, ActUnit, Acts, Layout};
use crate::block::*;
use crate::float::{Activation, RopePairing};
use crate::isa::Level;
use crate::isa::detect::Avx2;
use crate::table::{
    FloatOps, KernelTable, MatmulFn, Scratch, TypeKernels, blocks_32, blocks_256, floats,
};

pub(crate) use panels::PanelScratch;

/// Rows of float weights that are widened at a time.
pub(crate) const WIDENED_ROWS: usize = dense::R;

/// The table, for those who can show that the CPU has the features.
pub(crate) fn table(_: Avx2) -> &'static KernelTable {
    &TABLE
}

static TABLE: KernelTable =
    KernelTable { level: Level::Avx2, types: &TYPES, float: FLOAT, pack: entry_pack };

static TYPES: [TypeKernels; 13] = [
    on_avx2(floats::<F32>(), f32),
    on_avx2(floats::<F16>(), f16),
    on_avx2(floats::<Bf16>(), bf16),
    on_avx2(blocks_32::<BlockQ4_0>(), q4_0),
    on_avx2(blocks_32::<BlockQ4_1>(), q4_1),
    on_avx2(blocks_32::<BlockQ5_0>(), q5_0),
    on_avx2(blocks_32::<BlockQ5_1>(), q5_1),
    on_avx2(blocks_32::<BlockQ8_0>(), q8_0),
    on_avx2(blocks_256::<BlockQ2K>(), q2_k),
    on_avx2(blocks_256::<BlockQ3K>(), q3_k),
    on_avx2(blocks_256::<BlockQ4K>(), q4_k),
    on_avx2(blocks_256::<BlockQ5K>(), q5_k),
    on_avx2(blocks_256::<BlockQ6K>(), q6_k),
];

const fn on_avx2(scalar: TypeKernels, matmul: MatmulFn) -> TypeKernels {
    TypeKernels { level: Level::Avx2, matmul, ..scalar }
}

/// Matrix products: `name: module::function(what unpacks a block)`.
macro_rules! matmuls {
    ($($name:ident: $layouts:ident($($argument:tt)*);)*) => {$(
        fn $name(w: &[u8], n_rows: usize, acts: &Acts<'_>, scratch: &mut Scratch, y: &mut [f32]) {
            #[target_feature(enable = "avx2,fma,f16c")]
            fn kernel(
                w: &[u8],
                n_rows: usize,
                acts: &Acts<'_>,
                scratch: &mut Scratch,
                y: &mut [f32],
            ) {
                $layouts!(w, n_rows, acts, scratch, y, $($argument)*)
            }
            // SAFETY: the CPU has the features, see the head of this file.
            unsafe { kernel(w, n_rows, acts, scratch, y) }
        }
    )*};
}

macro_rules! blocks_32 {
    ($w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident, $codes:expr) => {
        match ($acts.plan.layout(), $acts.plan.n_tokens) {
            (Layout::Panels, _) => {
                panels::blocks_32($w, $n_rows, $acts, &mut $scratch.panels, $y, $codes)
            }
            (_, 1) => rows::blocks_32::<_, 1>($w, $n_rows, $acts, $y, $codes),
            (_, 2) => rows::blocks_32::<_, 2>($w, $n_rows, $acts, $y, $codes),
            (_, 3) => rows::blocks_32::<_, 3>($w, $n_rows, $acts, $y, $codes),
            _ => rows::blocks_32::<_, 4>($w, $n_rows, $acts, $y, $codes),
        }
    };
}

macro_rules! blocks_256 {
    ($w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident,
     $codes:expr, $scales:expr, $eight:expr) => {
        match ($acts.plan.layout(), $acts.plan.n_tokens) {
            (Layout::Panels, _) => {
                panels::blocks_256($w, $n_rows, $acts, &mut $scratch.panels, $y, $codes, $scales)
            }
            (_, 1) => rows::blocks_256::<_, 1>($w, $n_rows, $acts, $y, $codes, $eight),
            (_, 2) => rows::blocks_256::<_, 2>($w, $n_rows, $acts, $y, $codes, $eight),
            (_, 3) => rows::blocks_256::<_, 3>($w, $n_rows, $acts, $y, $codes, $eight),
            _ => rows::blocks_256::<_, 4>($w, $n_rows, $acts, $y, $codes, $eight),
        }
    };
}

macro_rules! bytes {
    ($w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident,) => {
        match ($acts.plan.layout(), $acts.plan.n_tokens) {
            (Layout::Panels, _) => panels::q8_0($w, $n_rows, $acts, &mut $scratch.panels, $y),
            (_, 1) => rows::q8_0::<1>($w, $n_rows, $acts, $y),
            (_, 2) => rows::q8_0::<2>($w, $n_rows, $acts, $y),
            (_, 3) => rows::q8_0::<3>($w, $n_rows, $acts, $y),
            _ => rows::q8_0::<4>($w, $n_rows, $acts, $y),
        }
    };
}

macro_rules! dense {
    ($w:ident, $n_rows:ident, $acts:ident, $scratch:ident, $y:ident, $widen:expr) => {{
        let _ = $n_rows;
        dense::matmul($w, $acts, &mut $scratch.widened, $y, $widen)
    }};
}

matmuls! {
    f32: dense(|w| dense::widen_f32(w));
    f16: dense(|w| dense::widen_f16(w));
    bf16: dense(|w| dense::widen_bf16(w));
    q4_0: blocks_32(|b: &BlockQ4_0| unpack::nibbles(&b.qs));
    q4_1: blocks_32(|b: &BlockQ4_1| unpack::nibbles(&b.qs));
    q5_0: blocks_32(|b: &BlockQ5_0| unpack::nibbles_and_fifth(&b.qs, &b.qh));
    q5_1: blocks_32(|b: &BlockQ5_1| unpack::nibbles_and_fifth(&b.qs, &b.qh));
    q8_0: bytes();
    q2_k: blocks_256(
        |b, j| unpack::q2_k(b, j),
        |b| unpack::scales_q2_k(b),
        |blocks| unpack::eight_q2_k(blocks)
    );
    q3_k: blocks_256(
        |b, j| unpack::q3_k(b, j),
        |b| unpack::scales_q3_k(b),
        |blocks| unpack::eight_q3_k(blocks)
    );
    q4_k: blocks_256(
        |b, j| unpack::q4_k(b, j),
        |b: &BlockQ4K| unpack::scales_and_mins(&b.scales),
        |blocks| unpack::eight_scales_and_mins(blocks)
    );
    q5_k: blocks_256(
        |b, j| unpack::q5_k(b, j),
        |b: &BlockQ5K| unpack::scales_and_mins(&b.scales),
        |blocks| unpack::eight_scales_and_mins(blocks)
    );
    q6_k: blocks_256(
        |b, j| unpack::q6_k(b, j),
        |b| unpack::scales_q6_k(b),
        |blocks| unpack::eight_q6_k(blocks)
    );
}

fn entry_pack(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    // SAFETY: the CPU has the features, see the head of this file.
    unsafe { pack::pack(plan, x, unit) }
}

macro_rules! float_ops {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)?;)*) => {
        const FLOAT: FloatOps = FloatOps {
            $($name: {
                fn entry($($arg: $ty),*) $(-> $out)? {
                    // SAFETY: the CPU has the features, see the head of this file.
                    unsafe { float::$name($($arg),*) }
                }
                entry
            },)*
        };
    };
}

float_ops! {
    rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]);
    layer_norm(x: &[f32], w: Option<&[f32]>, b: Option<&[f32]>, eps: f32, out: &mut [f32]);
    act(f: Activation, x: &mut [f32]);
    glu(f: Activation, gate: &[f32], up: &[f32], out: &mut [f32]);
    rope(x: &mut [f32], cos: &[f32], sin: &[f32], pairing: RopePairing);
    add(y: &mut [f32], x: &[f32]);
    scale(y: &mut [f32], f: f32);
    add_scaled(y: &mut [f32], x: &[f32], f: f32);
    dot(a: &[f32], b: &[f32]) -> f32;
    add_product_f32(n: usize, a: (&[f32], usize), b: &[f32], cols: usize, c: (&mut [f32], usize));
    add_product_f16(n: usize, a: (&[f32], usize), b: &[u16], cols: usize, c: (&mut [f32], usize));
    widen_lanes_q8_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]);
    widen_lanes_q4_0(codes: &[u8], scales: &[u16], lanes: usize, out: &mut [f32]);
    widen_rows_q8_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]);
    widen_rows_q4_0(codes: &[u8], scales: &[u16], dim: usize, out: &mut [f32]);
    hadamard(x: &mut [f32]);
    soft_cap(x: &mut [f32], cap: f32);
    prefetch(address: *const u8, bytes: usize);
    exp_sum(x: &mut [f32], max: f32) -> f32;
    max(x: &[f32]) -> f32;
    softmax(x: &mut [f32]);
    f16_to_f32(x: &[u16], out: &mut [f32]);
    f32_to_f16(x: &[f32], out: &mut [u16]);
}
