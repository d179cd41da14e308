//! Methods: how the codes of a row are found once its type is chosen.
//!
//! A method is a row of [`METHODS`] and a function from weights to blocks. A method that sees the inputs
//! of products besides, of a text, makes the tensors of layers in another way, which
//! [`calibrate`](crate::calibrate) drives; what that does not reach, it makes by its function.

use super::hqq;
use gguf_rs_lite::GgmlType;
use teff_kernels::{Group, Scales, TypeKernels};

/// A way of quantizing rows.
#[derive(Debug)]
pub struct Method {
    /// Name that users say.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Whether importances change what it does.
    pub uses_importances: bool,
    /// Whether it feeds errors back, for which it has to see a text.
    pub feeds_back: bool,
    row: RowFn,
}

/// Kernels, a row of weights and the importances of its columns to the blocks of the row.
type RowFn = fn(&TypeKernels, &[f32], Option<&[f32]>, &mut [u8]) -> Result<(), NoMethod>;

/// A type that a method has no way for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMethod(pub GgmlType);

/// Every method; the first is the default.
pub static METHODS: &[Method] = &[
    Method {
        name: "search",
        about: "scales that lose least, searched block by block, weighted by importances",
        uses_importances: true,
        feeds_back: false,
        row: search,
    },
    Method {
        name: "rtn",
        about: "rounding to the nearest code, with scales that just cover each block",
        uses_importances: false,
        feeds_back: false,
        row: round_to_nearest,
    },
    Method {
        name: "hqq",
        about: "half-quadratic zero points for types with a minimum, without importances",
        uses_importances: false,
        feeds_back: false,
        row: hqq::quantize,
    },
    Method {
        name: "gptq",
        about: "codes that make up for the errors of those before them, at the inputs of a text",
        uses_importances: true,
        feeds_back: true,
        row: search,
    },
];

impl Method {
    /// The method of a name.
    pub fn from_name(name: &str) -> Option<&'static Method> {
        METHODS.iter().find(|method| method.name.eq_ignore_ascii_case(name))
    }

    /// Writes the blocks of one row.
    pub(super) fn quantize(
        &self,
        kernels: &TypeKernels,
        x: &[f32],
        importance: Option<&[f32]>,
        blocks: &mut [u8],
    ) -> Result<(), NoMethod> {
        (self.row)(kernels, x, importance, blocks)
    }

    /// Whether there is a way to this type: asked before any work is done.
    pub(super) fn supports(&self, kernels: &TypeKernels) -> bool {
        let x = vec![0.0; kernels.ty.block_len()];
        let mut block = vec![0; kernels.ty.block_bytes()];
        self.quantize(kernels, &x, None, &mut block).is_ok()
    }
}

fn search(
    kernels: &TypeKernels,
    x: &[f32],
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) -> Result<(), NoMethod> {
    kernels.quantize(x, importance, blocks).map_err(|_| NoMethod(kernels.ty))
}

/// Scales that cover the weights of each group: from the least to the largest where the type has a
/// minimum, and else from zero to the largest magnitude.
fn round_to_nearest(
    kernels: &TypeKernels,
    x: &[f32],
    _importance: Option<&[f32]>,
    blocks: &mut [u8],
) -> Result<(), NoMethod> {
    let Ok(encoder) = kernels.encoder() else {
        // Floats have nothing but rounding.
        let is_float = kernels.ty.block_len() == 1;
        return if is_float { search(kernels, x, None, blocks) } else { Err(NoMethod(kernels.ty)) };
    };
    let levels = || (0..encoder.codes).map(|code| f32::from(encoder.level(code as u8)));
    let (least, most) = levels().fold((0.0, 0.0), |(a, b): (f32, f32), l| (a.min(l), b.max(l)));
    let group_of = |x: &[f32]| {
        let (low, high) = x.iter().fold((0.0, 0.0), |(a, b): (f32, f32), &x| (a.min(x), b.max(x)));
        if least < 0.0 {
            return Group { scale: high.max(-low) / most, min: 0.0 };
        }
        Group { scale: (high - low) / most, min: -low }
    };
    let scales: Vec<Scales> = x
        .chunks_exact(encoder.len)
        .map(|block| {
            let groups: Vec<Group> = block.chunks_exact(encoder.group).map(group_of).collect();
            encoder.compose(&groups)
        })
        .collect();
    encoder.encode(x, &scales, blocks);
    Ok(())
}
