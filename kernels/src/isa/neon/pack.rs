//! Quantizing activations: the bytes of [`crate::act::pack`].

use super::dot::transpose;
use super::vector::*;
use crate::act::{ActFormat, ActPlan, ActUnit, Layout, PANEL_TOKENS, PanelOrder, SUMS, scale_of};

pub(in crate::isa) fn pack(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    match (plan.format, plan.layout()) {
        (ActFormat::F32, _) => unit.x.copy_from_slice(x),
        (ActFormat::Q8x32, Layout::Rows) => row(x, unit),
        (ActFormat::Q8x32, Layout::Panels) => panel(plan, x, unit),
    }
}

/// One token.
fn row(x: &[f32], unit: ActUnit<'_>) {
    let (x, _) = x.as_chunks();
    let (q, _) = unit.q.as_chunks_mut::<16>().0.as_chunks_mut::<2>();
    let (s, _) = unit.s.as_chunks_mut::<SUMS>();
    for (((x, q), d), s) in x.iter().zip(q).zip(unit.d).zip(s) {
        let codes;
        (codes, *d) = block(x);
        store(&mut q[0], codes[0]);
        store(&mut q[1], codes[1]);
        *s = codes.map(vaddlvq_s8);
    }
}

/// Up to eight tokens.
fn panel(plan: &ActPlan, x: &[f32], unit: ActUnit<'_>) {
    assert!(plan.order == PanelOrder::Plus128, "panels of this level");
    let (panel, _) = unit.q.as_chunks_mut::<16>().0.as_chunks_mut::<16>();
    let (d, _) = unit.d.as_chunks_mut::<PANEL_TOKENS>();
    let (s, _) = unit.s.as_chunks_mut::<SUMS>().0.as_chunks_mut::<PANEL_TOKENS>();
    let plus_128 = vdupq_n_s8(-128);
    for (b, ((panel, d), s)) in panel.iter_mut().zip(d).zip(s).enumerate() {
        // Tokens that are not there are zeros.
        let mut codes = [[vdupq_n_s8(0); 2]; PANEL_TOKENS];
        (*d, *s) = ([0.0; PANEL_TOKENS], [[0; SUMS]; PANEL_TOKENS]);
        for (lane, x) in x.chunks_exact(plan.cols).enumerate() {
            (codes[lane], d[lane]) = block(&x.as_chunks().0[b]);
            s[lane] = codes[lane].map(vaddlvq_s8);
        }
        for half in 0..2 {
            for quad in 0..2 {
                let words = transpose([0, 1, 2, 3].map(|t| codes[4 * quad + t][half]));
                for (k, words) in words.into_iter().enumerate() {
                    store(&mut panel[8 * half + 2 * k + quad], veorq_s8(words, plus_128));
                }
            }
        }
    }
}

/// Codes and scale of one block.
#[inline(always)]
fn block(x: &[f32; 32]) -> ([int8x16_t; 2], f32) {
    let (x, _) = x.as_chunks();
    // As integers magnitudes order as floats do, with infinity and NaN on top.
    let magnitude = |x: &[f32; 4]| vreinterpretq_u32_f32(vabsq_f32(load_f32(x)));
    let mut amax = magnitude(&x[0]);
    for x in &x[1..] {
        amax = vmaxq_u32(amax, magnitude(x));
    }
    let (d, factor) = scale_of(f32::from_bits(vmaxvq_u32(amax)));
    if factor == 0.0 {
        return ([vdupq_n_s8(0); 2], d);
    }
    let factor = vdupq_n_f32(factor);
    let codes = |i: usize| vcvtnq_s32_f32(vmulq_f32(load_f32(&x[i]), factor));
    let sixteen = |i: usize| narrow([codes(i), codes(i + 1), codes(i + 2), codes(i + 3)]);
    ([sixteen(0), sixteen(4)], d)
}
