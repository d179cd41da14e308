//! Encoders in two halves: the scales of a block are fitted to weights, then weights become the codes
//! that are nearest for those scales; blocks are taken apart into codes and scales, and put together.
//!
//! [`Quantize::quantize`] is one half after the other. Methods that choose only some of it start in
//! between: error feedback (GPTQ; arXiv:2210.17323) fits the scales when it reaches a block and then
//! encodes column by column, with the value of each code at once; half-quadratic quantization brings
//! scales of its own; refitting and tuning keep the codes and change the scales; an import brings both.
//!
//! One kind of [`Scales`] serves all types: it is a block without its codes, numbers as stored. So no
//! bit is lost by taking a block apart, and code that works on any type needs no generics:
//! [`Encoder`] has a type's functions. Nothing here allocates.

use super::{Block, F16, Quantize, as_blocks, as_blocks_mut, search};
use gguf_rs_lite::GgmlType;

/// Groups of a block at most: those of 16 elements in a super-block of 256.
pub const GROUPS_MAX: usize = 16;

/// A block without its codes. What a type has no use for is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scales {
    /// Scale of the block, or of its scales.
    pub d: F16,
    /// Minimum that a block of 32 adds, or scale of the minimums that a super-block subtracts.
    pub m: F16,
    /// Scale of each group as stored, offset and sign bit included; the exponent of MXFP4.
    pub scales: [u8; GROUPS_MAX],
    /// Minimum of each group as stored.
    pub mins: [u8; GROUPS_MAX],
    /// `d` and `m` before they were rounded, where the type's method encodes by these.
    unrounded: Option<[f32; 2]>,
}

impl Scales {
    /// Scales as stored; codes are the nearest for exactly these.
    pub fn new(d: F16, m: F16, scales: [u8; GROUPS_MAX], mins: [u8; GROUPS_MAX]) -> Scales {
        Scales { d, m, scales, mins, unrounded: None }
    }

    /// The scales of a block that has a scale, and a minimum or none, and no groups.
    #[inline(always)]
    pub fn of_block(d: F16, m: F16) -> Scales {
        Scales::new(d, m, [0; GROUPS_MAX], [0; GROUPS_MAX])
    }

    /// The scales without what [`Encoder::fit`] knew beyond the stored numbers.
    pub fn as_stored(self) -> Scales {
        Scales { unrounded: None, ..self }
    }

    /// A block's only scale and the minimum that is added to it, rounded to halves.
    #[inline(always)]
    pub(super) fn rounded(d: f32, m: f32) -> Scales {
        Scales::of_block(F16::from_f32(d), F16::from_f32(m))
    }

    /// [`Scales::rounded`], with codes chosen by the numbers before rounding, as ggml does.
    #[inline(always)]
    pub(super) fn unrounded(d: f32, m: f32) -> Scales {
        Scales { unrounded: Some([d, m]), ..Scales::rounded(d, m) }
    }

    /// The scale that codes are chosen by.
    #[inline(always)]
    pub(super) fn exact_d(&self) -> f32 {
        self.unrounded.map_or_else(|| self.d.to_f32(), |[d, _]| d)
    }

    /// The coder of a block's only scale and added minimum.
    pub(super) fn coder(&self) -> Coder {
        let m = self.unrounded.map_or_else(|| self.m.to_f32(), |[_, m]| m);
        Coder { stored: self.unrounded.is_none(), ..Coder::by_inverse(self.exact_d(), -m) }
    }

    /// The group of a block's only scale.
    #[inline(always)]
    pub(super) fn only_group(&self) -> Group {
        Group { scale: self.d.to_f32(), min: 0.0 }
    }

    /// The group of a block's only scale and the minimum that is added.
    #[inline(always)]
    pub(super) fn only_group_with_min(&self) -> Group {
        Group { scale: self.d.to_f32(), min: -self.m.to_f32() }
    }

    /// The group whose scale is `scale` times that of the scales.
    #[inline(always)]
    pub(super) fn group_without_min(&self, scale: i8) -> Group {
        Group { scale: self.d.to_f32() * f32::from(scale), min: 0.0 }
    }

    /// Group `g` of a type with a scale and a minimum per group.
    #[inline(always)]
    pub(super) fn group_with_min(&self, g: usize) -> Group {
        Group {
            scale: self.d.to_f32() * f32::from(self.scales[g]),
            min: self.m.to_f32() * f32::from(self.mins[g]),
        }
    }
}

/// Elements under one scale: value = `scale * level - min`, where [`Encoder::level`] has the level of
/// a code.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Group {
    /// Scale, negative in some types.
    pub scale: f32,
    /// Minimum that is subtracted; zero in types without.
    pub min: f32,
}

impl Group {
    /// The value of a level, with the roundings of [`Block::dequantize`].
    pub fn value(&self, level: i8) -> f32 {
        self.scale * f32::from(level) - self.min
    }
}

/// Scale and minimum by which the codes of a group are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Coder {
    /// Factor or divisor, as the type has it.
    pub(super) by: f32,
    pub(super) min: f32,
    /// Whether `by` and `min` are as stored.
    pub(super) stored: bool,
}

impl Coder {
    /// Multiplies by the inverse of `scale`, or by 0 if there is none.
    #[inline(always)]
    pub(super) fn by_inverse(scale: f32, min: f32) -> Coder {
        Coder { by: if scale == 0.0 { 0.0 } else { 1.0 / scale }, min, stored: true }
    }

    /// Code of `x` in 0..=`code_max`, for a scale and a minimum that is added.
    #[inline(always)]
    pub(super) fn affine_code(&self, x: f32, code_max: f32) -> u8 {
        let x = (x + self.min) * self.by;
        let code = if self.stored { search::nearest(x) } else { x + 0.5 };
        search::whole(code.clamp(0.0, code_max))
    }

    /// Divides by the scale.
    #[inline(always)]
    pub(super) fn by_scale(Group { scale, min }: Group) -> Coder {
        Coder { by: scale, min, stored: true }
    }
}

/// A type whose blocks are encoded in two halves.
pub trait Encode: Block {
    /// Elements under one scale.
    const GROUP: usize;

    /// Codes are below this: at most 256.
    const CODES: usize;

    /// The scales for the weights `x` of one block, by the type's method. `mean_square` is the one of
    /// the whole row, which some types weigh importances with.
    fn fit(x: &[f32], importance: Option<&[f32]>, mean_square: f32) -> Scales;

    /// The scales that come nearest to those of all groups of a block.
    fn compose(groups: &[Group]) -> Scales;

    /// Group `g` of a block.
    fn group(scales: &Scales, g: usize) -> Group;

    /// Level of a code below [`Encode::CODES`]: the factor of its group's scale.
    fn level(code: u8) -> i8;

    /// Coder of group `g`, for [`Encode::code`].
    fn coder(scales: &Scales, g: usize) -> Coder;

    /// The code nearest to `x`.
    fn code(coder: &Coder, x: f32) -> u8;

    /// Writes the codes of the block; returns its scales.
    fn take_apart(&self, codes: &mut [u8]) -> Scales;

    /// The block of given codes and scales.
    fn assemble(codes: &[u8], scales: &Scales) -> Self;
}

/// One half after the other, block by block.
impl<B: Encode> Quantize for B {
    #[inline(always)]
    fn quantize(x: &[f32], importance: Option<&[f32]>, out: &mut [B]) {
        let mean_square = if importance.is_some() { search::mean_square(x) } else { 0.0 };
        for (i, (x, block)) in x.chunks_exact(B::LEN).zip(out).enumerate() {
            let importance = importance.map(|w| &w[i * B::LEN..][..B::LEN]);
            *block = encode(x, &B::fit(x, importance, mean_square));
        }
    }
}

/// Scale and minimum of a block of 32 whose codes are 0..=`code_max`. Without importances the codes
/// span least to largest; with them scale and minimum are searched.
#[inline(always)]
pub(super) fn fit_affine(
    x: &[f32],
    importance: Option<&[f32]>,
    mean_square: f32,
    code_max: f32,
) -> Scales {
    match importance {
        None => {
            let (min, max) = search::range(x);
            Scales::unrounded((max - min) / code_max, min)
        }
        Some(w) => {
            let costs = search::emphasize::<32>(all(x), all(w), mean_square);
            let (d, min) = search::affine(all(x), &costs, code_max, &search::FINE_GRID);
            Scales::rounded(d, -min)
        }
    }
}

/// The block of the codes nearest to `x`.
#[inline(always)]
pub(super) fn encode<B: Encode>(x: &[f32], scales: &Scales) -> B {
    let mut codes = [0; 256];
    let codes = &mut codes[..B::LEN];
    for (g, (x, codes)) in
        x.chunks_exact(B::GROUP).zip(codes.chunks_exact_mut(B::GROUP)).enumerate()
    {
        let coder = B::coder(scales, g);
        for (&x, code) in x.iter().zip(codes) {
            *code = B::code(&coder, x);
        }
    }
    B::assemble(codes, scales)
}

/// The weights, importances or codes of a block, of whose length callers made sure.
#[inline(always)]
pub(super) fn all<T, const N: usize>(block: &[T]) -> &[T; N] {
    block.first_chunk().expect("the elements of a block")
}

/// A type's encoder, for code that works on any type.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    /// The type.
    pub ty: GgmlType,
    /// Elements of a block.
    pub len: usize,
    /// Elements under one scale.
    pub group: usize,
    /// Codes are below this.
    pub codes: usize,
    fit: fn(&[f32], Option<&[f32]>, f32) -> Scales,
    compose: fn(&[Group]) -> Scales,
    group_of: fn(&Scales, usize) -> Group,
    level: fn(u8) -> i8,
    code: fn(&Scales, usize, f32) -> u8,
    encode: fn(&[f32], &[Scales], &mut [u8]),
    take_apart: fn(&[u8], &mut [u8], &mut [Scales]),
    assemble: fn(&[u8], &[Scales], &mut [u8]),
}

impl Encoder {
    /// The encoder of a type.
    pub(crate) const fn of<B: Encode>() -> Encoder {
        const { assert!(B::LEN.is_multiple_of(B::GROUP) && B::LEN / B::GROUP <= GROUPS_MAX) }
        const { assert!(B::LEN <= 256 && B::CODES <= 256) }
        Encoder {
            ty: B::TY,
            len: B::LEN,
            group: B::GROUP,
            codes: B::CODES,
            fit: B::fit,
            compose: B::compose,
            group_of: B::group,
            level: B::level,
            code: |scales, g, x| B::code(&B::coder(scales, g), x),
            encode: |x, scales, blocks| {
                let blocks = as_blocks_mut::<B>(blocks).iter_mut();
                for ((x, scales), block) in x.chunks_exact(B::LEN).zip(scales).zip(blocks) {
                    *block = encode(x, scales);
                }
            },
            take_apart: |blocks, codes, scales| {
                let blocks = as_blocks::<B>(blocks).iter();
                for ((codes, scales), block) in
                    codes.chunks_exact_mut(B::LEN).zip(scales).zip(blocks)
                {
                    *scales = block.take_apart(codes);
                }
            },
            assemble: |codes, scales, blocks| {
                let blocks = as_blocks_mut::<B>(blocks).iter_mut();
                for ((codes, scales), block) in codes.chunks_exact(B::LEN).zip(scales).zip(blocks) {
                    *block = B::assemble(codes, scales);
                }
            },
        }
    }

    /// The scales for the weights `x` of one row, whole blocks, by the type's method: `importance` is
    /// how much an error counts per column.
    pub fn fit(&self, x: &[f32], importance: Option<&[f32]>, scales: &mut [Scales]) {
        assert!(x.len() == self.len * scales.len(), "scales for each block");
        assert!(importance.is_none_or(|w| w.len() == x.len()), "an importance per column");
        let mean_square = if importance.is_some() { search::mean_square(x) } else { 0.0 };
        for (i, (x, scales)) in x.chunks_exact(self.len).zip(scales).enumerate() {
            let importance = importance.map(|w| &w[i * self.len..][..self.len]);
            *scales = (self.fit)(x, importance, mean_square);
        }
    }

    /// The scales for one block of a row whose weights have the mean square `mean_square`.
    pub fn fit_block(&self, x: &[f32], importance: Option<&[f32]>, mean_square: f32) -> Scales {
        assert!(x.len() == self.len, "the weights of a block");
        assert!(importance.is_none_or(|w| w.len() == x.len()), "an importance per column");
        (self.fit)(x, importance, mean_square)
    }

    /// The scales that come nearest to given ones of all groups of a block; a type that has only
    /// positive ones makes 0 of others, one without minimums passes them over.
    pub fn compose(&self, groups: &[Group]) -> Scales {
        assert!(groups.len() == self.len / self.group, "all groups of a block");
        (self.compose)(groups)
    }

    /// Group `g` of a block: elements `g * group..(g + 1) * group`.
    pub fn group_of(&self, scales: &Scales, g: usize) -> Group {
        assert!(g < self.len / self.group, "a group of the block");
        (self.group_of)(scales, g)
    }

    /// Level of `code`: the factor of its group's scale.
    pub fn level(&self, code: u8) -> i8 {
        assert!(usize::from(code) < self.codes, "a code of {}", self.ty);
        (self.level)(code)
    }

    /// The code nearest to the weight `x` of element `i` of a block, and its value: what a method
    /// with error feedback needs at each column.
    pub fn code(&self, scales: &Scales, i: usize, x: f32) -> (u8, f32) {
        let g = i / self.group;
        let code = (self.code)(scales, g, x);
        (code, self.group_of(scales, g).value((self.level)(code)))
    }

    /// Writes the blocks of the codes nearest to `x` for given scales of each block.
    pub fn encode(&self, x: &[f32], scales: &[Scales], blocks: &mut [u8]) {
        assert!(x.len() == self.len * scales.len(), "scales for each block");
        self.check_blocks(blocks, scales);
        (self.encode)(x, scales, blocks);
    }

    /// Takes blocks apart into a code per element, as stored, and the scales of each block.
    /// [`Encoder::assemble`] makes the same bytes of them, except that TQ1_0's get the form that
    /// quantizers give them: of its 256 bytes 243 are codes.
    pub fn take_apart(&self, blocks: &[u8], codes: &mut [u8], scales: &mut [Scales]) {
        assert!(codes.len() == self.len * scales.len(), "a code per element");
        self.check_blocks(blocks, scales);
        (self.take_apart)(blocks, codes, scales);
    }

    /// Puts blocks together again.
    ///
    /// # Panics
    /// If a code is none of the type's.
    pub fn assemble(&self, codes: &[u8], scales: &[Scales], blocks: &mut [u8]) {
        assert!(codes.len() == self.len * scales.len(), "a code per element");
        assert!(codes.iter().all(|&code| usize::from(code) < self.codes), "codes of {}", self.ty);
        self.check_blocks(blocks, scales);
        (self.assemble)(codes, scales, blocks);
    }

    fn check_blocks(&self, blocks: &[u8], scales: &[Scales]) {
        assert!(blocks.len() == self.ty.block_bytes() * scales.len(), "scales for each block");
    }
}
