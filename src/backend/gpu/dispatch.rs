//! Operations as dispatches: which shader runs with which parameters on which buffers.
//!
//! Made once, when the backend is. What a step adds are numbers of tokens, and with them sizes of
//! grids.

mod experts;
mod heads;
mod linear;

use super::shader::{FEW_MAX, Form, Shader};
use super::submission::Work;
use crate::backend::pages::{KvType, LayerGroup};
use crate::backend::program::{
    BoundWeight, Buf, CopyPieces, HeadNorm, Norm, NormKind, Op, Program, Tokens, WeightId,
};
use gguf_rs_lite::GgmlType;
use std::ops::Range;
use teff_kernels::Activation;

/// Says that there are no such constants.
const NONE: u32 = u32::MAX;
/// Threads of a workgroup.
const THREADS: usize = 64;
/// Workgroups in one dimension of a grid, at most.
const GRID_MAX: u32 = 65_535;
/// Columns of a weight that are unpacked together.
const CHUNK: usize = 32;
/// First word of the step's header that says where a group's part lies.
pub(super) const GROUPS_FROM: usize = 8;

/// A buffer that a shader is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// A buffer of the program.
    Buf(Buf),
    /// A window of a weight.
    Weight(WeightId, usize),
    /// The pages of a layer.
    Pages(usize),
    /// Cosines and sines of the step.
    Angles,
    /// Something between two dispatches.
    Scratch(Scratch),
    /// The rows of results.
    Results,
    /// A buffer that is not read.
    Nothing,
}

/// Buffers between the dispatches of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scratch {
    /// Normalized inputs of products.
    Input,
    /// Products before they become one.
    Products,
    /// Inputs of the experts' second products.
    Hidden,
    /// Outputs of experts.
    Experts,
    /// Scores of experts.
    Scores,
    /// Chosen experts with their weights.
    Chosen,
}

impl Scratch {
    /// All, in the order of their numbers.
    pub const ALL: [Scratch; 6] = [
        Scratch::Input,
        Scratch::Products,
        Scratch::Hidden,
        Scratch::Experts,
        Scratch::Scores,
        Scratch::Chosen,
    ];
}

/// The shader of a dispatch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kernel {
    /// Always this one.
    One(Shader),
    /// A product, in the form for the number of tokens.
    Product(GgmlType),
}

impl Kernel {
    /// The shader for a step of `n` tokens.
    pub fn shader(self, n: u32, form: Form) -> Shader {
        match self {
            Kernel::One(shader) => shader,
            Kernel::Product(ty) => Shader::product(ty, n, form),
        }
    }

    /// All of its shaders.
    pub fn shaders(self, form: Form) -> impl Iterator<Item = Shader> {
        [1, FEW_MAX, FEW_MAX + 1].into_iter().map(move |n| self.shader(n, form))
    }
}

/// Size of a grid, by the number of tokens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Grid {
    /// So many workgroups for each row, so many rows for each token.
    Rows { x: u32, per_token: u32 },
    /// So many rows of a weight.
    Product { rows: u32 },
    /// So many rows of a matrix for each expert of each token.
    Experts { rows: u32, n_used: u32 },
    /// A thread for each token.
    Tokens,
}

impl Grid {
    /// Workgroups in each dimension, for a shader.
    pub fn size(self, n: u32, shader: Shader, form: Form) -> [u32; 3] {
        let split = |groups: u32| [groups.min(GRID_MAX), groups.div_ceil(GRID_MAX)];
        match self {
            Grid::Rows { x, per_token } => [x, n * per_token, 1],
            Grid::Product { rows } => {
                let [rows_each, tokens_each] = shader.tile(form);
                let [x, y] = split(rows.div_ceil(rows_each));
                [x, y, n.div_ceil(tokens_each)]
            }
            Grid::Experts { rows, n_used } => {
                let [x, y] = split(rows.div_ceil(8));
                [x, y, n * n_used]
            }
            Grid::Tokens => [n.div_ceil(THREADS as u32), 1, 1],
        }
    }
}

/// A dispatch.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    /// Operation that it is a part of.
    pub op: usize,
    pub kernel: Kernel,
    /// Fields of the shader's `Params`, floats as their bits.
    pub params: Vec<u32>,
    /// Buffers from binding 3 on.
    pub buffers: Vec<Bound>,
    pub grid: Grid,
    /// Tokens that are computed.
    pub rows: Tokens,
    pub work: Work,
}

/// Dispatches of operations, and what they need.
#[derive(Debug, Default)]
pub(super) struct Dispatches {
    pub list: Vec<Dispatch>,
    /// All vectors, one behind the other.
    pub constants: Vec<f32>,
    /// Words of each [`Scratch`] for a token.
    pub scratch: [usize; Scratch::ALL.len()],
}

/// Sizes that dispatches depend on beside the program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of a window of a weight, at most.
    pub window_bytes_max: usize,
    /// Tokens in a step, at most.
    pub max_tokens: usize,
    /// Type of keys and values in pages.
    pub kv: KvType,
    /// Longest head, a multiple of 128.
    pub head_max: usize,
    /// Abilities that shaders may rely on.
    pub form: Form,
}

/// Rows of a stack of matrices in windows of `bytes_max` bytes at most.
pub(super) fn windows(weight: &BoundWeight, bytes_max: usize) -> Vec<Range<usize>> {
    let total = weight.n * weight.rows;
    // Some bytes behind the last row may be read.
    let rows = (bytes_max.saturating_sub(CHUNK) / weight.row_bytes().max(1)).max(1);
    (0..total).step_by(rows).map(|first| first..(first + rows).min(total)).collect()
}

/// Turns operations into dispatches.
pub(super) struct Builder<'a> {
    program: &'a Program,
    groups: &'a [LayerGroup],
    shape: Shape,
    op: usize,
    made: Dispatches,
}

impl<'a> Builder<'a> {
    pub fn new(program: &'a Program, groups: &'a [LayerGroup], shape: Shape) -> Builder<'a> {
        Builder { program, groups, shape, op: 0, made: Dispatches::default() }
    }

    /// Dispatches of the operations for which `is_here` holds, which [`super::support`] allows.
    pub fn build(mut self, is_here: impl Fn(usize) -> bool) -> Dispatches {
        for (i, op) in self.program.ops.iter().enumerate().filter(|&(i, _)| is_here(i)) {
            self.op = i;
            self.add(op);
        }
        self.made
    }

    fn add(&mut self, op: &Op) {
        match op {
            Op::Embed { table, scale, addend, positions, out } => {
                let addend = self.constant(addend.as_deref());
                self.embed(table, *scale, addend, false, *out);
                if let Some(positions) = positions {
                    self.embed(positions, 1.0, NONE, true, *out);
                }
            }
            Op::Normalize { buf, norm, rows } => {
                let len = self.width(*buf);
                let segments = Segments { norm: Some(norm), ..Segments::row(len) };
                self.segments_in_place(*buf, segments, *rows);
            }
            Op::Scale { buf, factors, rows } => {
                let factors = self.constant(Some(factors));
                let len = self.width(*buf);
                let params = vec![outputs(*rows), len as u32, factors];
                self.elements(Shader::Scale, params, vec![Bound::Buf(*buf)], len, 1, *rows);
            }
            Op::Linear(op) => self.linear(op),
            Op::CopyPieces(op) => self.copy_pieces(op),
            Op::RopeKv(op) => self.rope_kv(op),
            Op::Attention(op) => self.attention(op),
            Op::AddNorm { input, norm, scale, out, rows } => {
                let len = self.width(*input);
                let adds = Some(*scale);
                let segments = Segments { norm: Some(norm), adds, ..Segments::row(len) };
                self.segments(Bound::Buf(*input), len, Bound::Buf(*out), len, segments, *rows);
            }
            Op::Add { input, out, from, rows } => {
                let (in_width, out_width) = (self.width(*input), self.width(*out));
                let len = out_width - from;
                let params = [outputs(*rows) as usize, len, in_width, out_width, *from];
                let params = params.map(|x| x as u32).to_vec();
                let buffers = vec![Bound::Buf(*input), Bound::Buf(*out)];
                self.elements(Shader::Add, params, buffers, len, 1, *rows);
            }
            Op::Moe(op) => self.moe(op),
            Op::Result { input, norm } => {
                let len = self.width(*input);
                let norm = norm.as_ref();
                let segments = Segments { norm, compact: true, ..Segments::row(len) };
                let n_out = self.program.n_out;
                let rows = Tokens::Outputs;
                self.segments(Bound::Buf(*input), len, Bound::Results, n_out, segments, rows);
            }
            Op::Xielu { .. }
            | Op::MulBroadcast { .. }
            | Op::HeadLinear(_)
            | Op::Conv(_)
            | Op::Scan(_)
            | Op::Sparsify { .. }
            | Op::MatchLength { .. }
            | Op::MixStreams(_) => unreachable!("such operations are not placed here"),
        }
    }

    fn width(&self, buf: Buf) -> usize {
        self.program.widths[buf.0]
    }

    /// Place of a vector among the constants.
    fn constant(&mut self, values: Option<&[f32]>) -> u32 {
        let Some(values) = values else { return NONE };
        let first = self.made.constants.len();
        self.made.constants.extend_from_slice(values);
        first as u32
    }

    /// Room in a buffer between dispatches, of so many words for a token.
    fn scratch(&mut self, kind: Scratch, words: usize) -> Bound {
        let size = &mut self.made.scratch[kind as usize];
        *size = (*size).max(words);
        Bound::Scratch(kind)
    }

    fn push(
        &mut self,
        kernel: Kernel,
        params: Vec<u32>,
        buffers: Vec<Bound>,
        grid: Grid,
        rows: Tokens,
    ) {
        let op = self.op;
        let work = Work::Little;
        self.made.list.push(Dispatch { op, kernel, params, buffers, grid, rows, work });
    }

    /// Says how much the last dispatch computes.
    fn set_work(&mut self, work: Work) {
        if let Some(last) = self.made.list.last_mut() {
            last.work = work;
        }
    }

    /// A thread for each of `len` elements of each row.
    fn elements(
        &mut self,
        shader: Shader,
        params: Vec<u32>,
        buffers: Vec<Bound>,
        len: usize,
        per_token: usize,
        rows: Tokens,
    ) {
        let x = len.div_ceil(THREADS) as u32;
        let grid = Grid::Rows { x, per_token: per_token as u32 };
        self.push(Kernel::One(shader), params, buffers, grid, rows);
    }

    fn embed(&mut self, table: &BoundWeight, scale: f32, addend: u32, positions: bool, out: Buf) {
        let chunks = table.cols.div_ceil(CHUNK);
        for (i, window) in windows(table, self.shape.window_bytes_max).into_iter().enumerate() {
            let params = [
                chunks as u32,
                table.cols as u32,
                table.row_bytes() as u32,
                window.start as u32,
                window.len() as u32,
                u32::from(positions),
                u32::from(positions),
                addend,
                scale.to_bits(),
            ];
            let buffers = vec![Bound::Weight(table.id(), i), Bound::Buf(out)];
            let shader = Shader::Embed(table.ty);
            self.elements(shader, params.to_vec(), buffers, chunks, 1, Tokens::All);
        }
    }

    /// Segments of rows of `input` to `out`.
    fn segments(
        &mut self,
        input: Bound,
        in_stride: usize,
        out: Bound,
        out_stride: usize,
        segments: Segments<'_>,
        rows: Tokens,
    ) {
        let params = self.segment_params(in_stride, out_stride, segments, rows);
        let grid = Grid::Rows { x: segments.n as u32, per_token: 1 };
        let shader = Shader::Rows { in_place: false };
        self.push(Kernel::One(shader), params, vec![input, out], grid, rows);
    }

    /// Segments of rows of a buffer where they are.
    fn segments_in_place(&mut self, buf: Buf, segments: Segments<'_>, rows: Tokens) {
        let width = self.width(buf);
        let params = self.segment_params(width, width, segments, rows);
        let grid = Grid::Rows { x: segments.n as u32, per_token: 1 };
        let shader = Shader::Rows { in_place: true };
        self.push(Kernel::One(shader), params, vec![Bound::Buf(buf)], grid, rows);
    }

    fn segment_params(
        &mut self,
        in_stride: usize,
        out_stride: usize,
        segments: Segments<'_>,
        rows: Tokens,
    ) -> Vec<u32> {
        let Segments { n, len, from, to, norm, .. } = segments;
        let [weight, bias] = self.norm_constants(norm);
        let eps = norm.map_or(0.0, |norm| norm.eps);
        vec![
            outputs(rows),
            n as u32,
            len as u32,
            in_stride as u32,
            from.0 as u32,
            from.1 as u32,
            out_stride as u32,
            to.0 as u32,
            to.1 as u32,
            u32::from(segments.compact),
            segments.padding as u32,
            norm_kind(norm),
            weight,
            bias,
            segments.weight_segment as u32,
            activation(segments.act),
            u32::from(segments.adds.is_some()),
            eps.to_bits(),
            segments.adds.unwrap_or(0.0).to_bits(),
            segments.clamp.unwrap_or(0.0).to_bits(),
        ]
    }

    /// Places of a norm's weight and bias.
    fn norm_constants(&mut self, norm: Option<&Norm>) -> [u32; 2] {
        let weight = self.constant(norm.and_then(|norm| norm.weight.as_deref()));
        [weight, self.constant(norm.and_then(|norm| norm.bias.as_deref()))]
    }

    fn copy_pieces(&mut self, op: &CopyPieces) {
        for piece in &op.pieces {
            let (in_stride, out_stride) = (self.width(piece.input), self.width(op.out));
            let segments = Segments {
                n: piece.n,
                from: (piece.from, piece.from_stride),
                to: (piece.to, piece.to_stride),
                norm: piece.norm.as_ref(),
                act: piece.act,
                ..Segments::row(piece.len)
            };
            let (input, out) = (Bound::Buf(piece.input), Bound::Buf(op.out));
            self.segments(input, in_stride, out, out_stride, segments, op.rows);
        }
    }
}

/// Segments of a row, and what becomes of them.
#[derive(Clone, Copy)]
struct Segments<'a> {
    n: usize,
    len: usize,
    /// First element, and elements from one segment to the next.
    from: (usize, usize),
    /// First element of the destination, and elements from one segment there to the next.
    to: (usize, usize),
    norm: Option<&'a Norm>,
    /// Elements from the parameters of one segment to those of the next.
    weight_segment: usize,
    act: Option<Activation>,
    /// Factor of what is added, if it is not stored.
    adds: Option<f32>,
    /// Bound of the inputs.
    clamp: Option<f32>,
    /// Whether rows of the destination lie one behind the other, whatever their tokens.
    compact: bool,
    /// Zeros behind each segment.
    padding: usize,
}

impl Segments<'_> {
    /// A whole row.
    fn row(len: usize) -> Segments<'static> {
        Segments {
            n: 1,
            len,
            from: (0, 0),
            to: (0, 0),
            norm: None,
            weight_segment: 0,
            act: None,
            adds: None,
            clamp: None,
            compact: false,
            padding: 0,
        }
    }
}

/// 1 for tokens with results only.
fn outputs(rows: Tokens) -> u32 {
    u32::from(rows == Tokens::Outputs)
}

fn norm_kind(norm: Option<&Norm>) -> u32 {
    match norm.map(|norm| norm.kind) {
        None => 0,
        Some(NormKind::Rms) => 1,
        Some(NormKind::Layer) => 2,
    }
}

/// From one head's parameters to the next one's: 0 where all have the same.
fn head_segment(norm: &HeadNorm) -> usize {
    let lens = [&norm.norm.weight, &norm.norm.bias].into_iter().flatten().map(Vec::len);
    lens.fold(0, |segment, len| if len > norm.dim { norm.dim } else { segment })
}

/// The activation's number in `common.wgsl`.
fn activation(act: Option<Activation>) -> u32 {
    match act {
        None => NONE,
        Some(Activation::Silu) => 0,
        Some(Activation::Gelu) => 1,
        Some(Activation::GeluErf) => 2,
        Some(Activation::GeluQuick) => 3,
        Some(Activation::Relu) => 4,
        Some(Activation::ReluSqr) => 5,
        Some(Activation::Tanh) => 6,
        Some(Activation::Sigmoid) => 7,
        Some(Activation::Softplus) => 8,
    }
}
