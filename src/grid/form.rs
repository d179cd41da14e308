//! Forms of codes that types of GGUF have, and blocks of a row's codes.

use super::fit::{Fit, Origin};
use super::precision::Precision;
use gguf_rs_lite::GgmlType::{self, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0};
use half::f16;
use teff_kernels::block::F16;
use teff_kernels::{Encoder, Scales};

/// Types whose codes are whole numbers under one scale, or between a minimum and a scale, those of few
/// bits first.
pub const TYPES: &[GgmlType] = &[TQ2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0];

/// Codes of a type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    low: i16,
    high: i16,
    has_min: bool,
    /// Elements of a block.
    pub block: usize,
}

/// Scales chosen for a group, and how its codes turn.
pub(super) struct Chosen {
    /// Scale and minimum.
    pub scales: [f32; 2],
    /// Factor and addend that make the new code of an old one.
    pub turn: [i16; 2],
    /// Whether the values come back.
    pub is_exact: bool,
    /// Distance of the scale from the step, in steps.
    pub distance: f64,
}

impl Form {
    /// The form of a type; `None` of a type that has another.
    pub fn of(ty: GgmlType) -> Option<Form> {
        let (low, high, has_min) = match ty {
            TQ1_0 | TQ2_0 => (-1, 1, false),
            Q4_0 => (-8, 7, false),
            Q5_0 => (-16, 15, false),
            Q8_0 => (-128, 127, false),
            Q4_1 => (0, 15, true),
            Q5_1 => (0, 31, true),
            _ => return None,
        };
        Some(Form { low, high, has_min, block: ty.block_len() })
    }

    /// Whether groups of so many elements, or of whole rows, have whole blocks.
    pub fn divides(&self, group: usize, cols: usize) -> bool {
        cols.is_multiple_of(self.block) && (group == cols || group.is_multiple_of(self.block))
    }

    /// Whether codes count from where the type's can.
    pub fn has_origin(&self, origin: Origin) -> bool {
        origin == Origin::Zero || self.has_min
    }

    /// The sign of the scale with which a group's codes are the type's.
    fn sign(&self, (low, high): (i16, i16)) -> Option<i16> {
        let fits = |low, high| low >= self.low && high <= self.high;
        match () {
            () if self.has_min => (high - low <= self.high).then_some(1),
            () if fits(low, high) => Some(1),
            () => fits(-high, -low).then_some(-1),
        }
    }

    /// Whether the type has a group's codes, and f16 its scale to its full precision.
    pub fn holds(&self, fit: &Fit) -> bool {
        let range = fit.range();
        let span = f64::from(range.1 - range.0);
        let (least, most) = (f16::MIN_POSITIVE.to_f64(), f16::MAX.to_f64());
        let is_half = fit.steps.is_none_or(|steps| {
            steps.low >= least && steps.high <= most && steps.high * span <= most
        });
        let least = if self.has_min { fit.least.abs() } else { 0.0 };
        is_half && f64::from(least) <= most && self.sign(range).is_some()
    }

    /// The best scales of a group that it holds.
    pub fn choose(
        &self,
        fit: &Fit,
        values: &[f32],
        (origin, precision): (Origin, Precision),
    ) -> Chosen {
        let step = fit.steps.map_or(0.0, super::steps::Steps::middle);
        let off = |scale: f32| if step > 0.0 { (f64::from(scale) / step - 1.0).abs() } else { 0.0 };
        if self.has_min {
            let (scales, add, is_exact) = fit.half_with_min(values, (origin, precision), self.high);
            let distance = if is_exact { 0.0 } else { off(scales[0]) };
            return Chosen { scales, turn: [1, add], is_exact, distance };
        }
        let sign = self.sign(fit.range()).unwrap_or(1);
        let (scale, times, is_exact) = fit.half(values, precision, self.high);
        let distance = if is_exact { 0.0 } else { off(scale) };
        Chosen {
            scales: [scale * f32::from(sign), 0.0],
            turn: [sign * times, 0],
            is_exact,
            distance,
        }
    }
}

/// Codes of a type by their levels.
pub struct Levels {
    code_of: [u8; 256],
    has_min: bool,
}

impl Levels {
    /// Levels of an encoder.
    pub fn new(encoder: &Encoder) -> Levels {
        let mut code_of = [0; 256];
        for code in 0..encoder.codes {
            code_of[usize::from(encoder.level(code as u8) as u8)] = code as u8;
        }
        Levels { code_of, has_min: Form::of(encoder.ty).is_some_and(|form| form.has_min) }
    }

    /// The code of a level; those of types with a minimum are the levels.
    pub fn code(&self, level: i16) -> u8 {
        if self.has_min { level as u8 } else { self.code_of[usize::from(level as i8 as u8)] }
    }
}

/// Scales of a block in f16, a scale and a minimum that is added.
pub fn scales([scale, min]: [f32; 2]) -> Scales {
    Scales::of_block(F16::from_f32(scale), F16::from_f32(min))
}
