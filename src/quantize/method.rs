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
    /// Description in one line.
    pub about: &'static str,
    /// Whether importances change what it does.
    pub uses_importances: bool,
    /// Whether it multiplies columns by factors first, which what comes before takes back.
    pub folds: bool,
    /// Whether it shrinks the ranges of groups first, where the outputs lose less by that.
    pub clips: bool,
    /// Whether it feeds errors back.
    pub feeds_back: bool,
    /// Whether scales are fitted again to the codes.
    pub refits: bool,
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
        row: search,
        ..ROWS_ALONE
    },
    Method {
        name: "rtn",
        about: "rounding to the nearest code, with scales that just cover each block",
        row: round_to_nearest,
        ..ROWS_ALONE
    },
    Method {
        name: "hqq",
        about: "half-quadratic zero points for types with a minimum, without importances",
        row: hqq::quantize,
        ..ROWS_ALONE
    },
    Method {
        name: "gptq",
        about: "codes that make up for the errors of those before them, at the inputs of a text",
        feeds_back: true,
        ..AT_INPUTS
    },
    Method {
        name: "refit",
        about: "scales by least squares for the codes of search, at the inputs of a text",
        refits: true,
        ..AT_INPUTS
    },
    Method {
        name: "gptq+refit",
        about: "gptq, then refit",
        feeds_back: true,
        refits: true,
        ..AT_INPUTS
    },
    Method {
        name: "awq",
        about: "columns that see large inputs multiplied before search, which the norm or product before takes back",
        folds: true,
        ..AT_INPUTS
    },
    Method {
        name: "awq+clip",
        about: "awq, and ranges of groups that are shrunk where the outputs lose less by that",
        folds: true,
        clips: true,
        ..AT_INPUTS
    },
    Method {
        name: "awq+clip+refit",
        about: "awq+clip, then refit",
        folds: true,
        clips: true,
        refits: true,
        ..AT_INPUTS
    },
    Method {
        name: "awq+gptq",
        about: "awq, then gptq",
        folds: true,
        feeds_back: true,
        ..AT_INPUTS
    },
    Method { name: "awq+refit", about: "awq, then refit", folds: true, refits: true, ..AT_INPUTS },
    Method {
        name: "awq+gptq+refit",
        about: "awq, then gptq, then refit",
        folds: true,
        feeds_back: true,
        refits: true,
        ..AT_INPUTS
    },
];

/// What methods have that see nothing but a row and importances.
const ROWS_ALONE: Method = Method {
    name: "",
    about: "",
    uses_importances: false,
    folds: false,
    clips: false,
    feeds_back: false,
    refits: false,
    row: search,
};

/// What methods have that begin with the search.
const AT_INPUTS: Method = Method { uses_importances: true, ..ROWS_ALONE };

impl Method {
    /// The method of a name.
    pub fn from_name(name: &str) -> Option<&'static Method> {
        METHODS.iter().find(|method| method.name.eq_ignore_ascii_case(name))
    }

    /// Whether it has to see a text.
    pub fn sees_text(&self) -> bool {
        self.folds || self.clips || self.feeds_back || self.refits
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
