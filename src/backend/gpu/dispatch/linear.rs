//! Products.

use super::{
    Bound, Builder, CHUNK, GRID_MAX, Grid, Kernel, NONE, Scratch, Segments, THREADS, activation,
    outputs, windows,
};
use crate::backend::gpu::shader::Shader;
use crate::backend::gpu::submission::Work;
use crate::backend::program::{Buf, Epilogue, GluClamp, Linear, Norm, Output, Part, Tokens};
use teff_kernels::Activation;

/// Input of products: a buffer, and four times how many columns its rows have.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub buffer: Bound,
    pub stride: usize,
}

/// Destination of products.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub out: Bound,
    /// Columns of a row.
    pub stride: usize,
    /// First column.
    pub from: usize,
    pub addend: Option<(Buf, usize)>,
    pub act: Option<Activation>,
    pub mode: Mode,
}

/// Mode in which products are stored.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    Store,
    Add(f32),
    Logits(f32, Option<f32>),
}

/// Gate and up projections that become one.
pub(super) struct Glu {
    /// Rows for each token.
    pub per_token: usize,
    pub len: usize,
    pub has_gate: bool,
    pub act: Activation,
    pub clamp: Option<GluClamp>,
    pub out: Bound,
    pub stride: usize,
    /// Factor of what is added, if it is not stored.
    pub adds: Option<f32>,
    pub padding: usize,
    pub rows: Tokens,
}

impl Builder<'_> {
    /// Inputs of products: the first `cols` columns of a buffer, normalized. A row is a whole number
    /// of chunks, the rest of which is zero.
    pub(super) fn input(
        &mut self,
        buf: Buf,
        cols: usize,
        norm: Option<&Norm>,
        rows: Tokens,
    ) -> Input {
        let width = self.width(buf);
        if norm.is_none() && cols.is_multiple_of(CHUNK) && width.is_multiple_of(4) {
            return Input { buffer: Bound::Buf(buf), stride: width / 4 };
        }
        let padded = cols.next_multiple_of(CHUNK);
        let buffer = self.scratch(Scratch::Input, padded);
        let segments = Segments { norm, padding: padded - cols, ..Segments::row(cols) };
        self.segments(Bound::Buf(buf), width, buffer, padded, segments, rows);
        Input { buffer, stride: padded / 4 }
    }

    pub(super) fn linear(&mut self, op: &Linear) {
        let cols = op.parts.first().map_or(0, |part| part.weight.cols);
        let input = self.input(op.input, cols, op.norm.as_ref(), op.rows);
        let addend = op.addend.map(|addend| (addend, self.width(addend)));
        let n_products = op.n_products();
        let mut target = match (op.epilogue, op.out) {
            (Epilogue::Glu(..), _) => {
                let out = self.scratch(Scratch::Products, n_products);
                let (act, mode) = (None, Mode::Store);
                Target { out, stride: n_products, from: 0, addend, act, mode }
            }
            (epilogue, out) => {
                let act = match epilogue {
                    Epilogue::Act(act) => Some(act),
                    Epilogue::None | Epilogue::Glu(..) => None,
                };
                let (out, stride, mode) = self.output(out);
                Target { out, stride, from: 0, addend, act, mode }
            }
        };
        for part in &op.parts {
            self.product(input, part, target, op.rows);
            target.from += part.weight.rows;
        }
        if let Epilogue::Glu(act, clamp) = op.epilogue {
            let (out, stride, mode) = self.output(op.out);
            let adds = match mode {
                Mode::Store => None,
                Mode::Add(scale) => Some(scale),
                Mode::Logits(..) => unreachable!("`support` refuses gated logits"),
            };
            let (len, rows) = (op.n_rows(), op.rows);
            let (per_token, has_gate, padding) = (1, true, 0);
            let glu =
                Glu { per_token, len, has_gate, act, clamp, out, stride, adds, padding, rows };
            self.glu(&glu);
        }
    }

    fn output(&self, out: Output) -> (Bound, usize, Mode) {
        match out {
            Output::Store(buf) => (Bound::Buf(buf), self.width(buf), Mode::Store),
            Output::Add(buf, scale) => (Bound::Buf(buf), self.width(buf), Mode::Add(scale)),
            Output::Logits { scale, softcap } => {
                (Bound::Results, self.program.n_out, Mode::Logits(scale, softcap))
            }
        }
    }

    /// Products of a matrix.
    pub(super) fn product(&mut self, input: Input, part: &Part, target: Target, rows: Tokens) {
        let weight = &part.weight;
        let bias = self.constant(part.bias.as_deref());
        let (mode, out_scale, softcap) = match target.mode {
            Mode::Store => (0, 1.0, None),
            Mode::Add(scale) => (1, scale, None),
            Mode::Logits(scale, softcap) => (2, scale, softcap),
        };
        for (i, window) in windows(weight, self.shape.window_bytes_max).into_iter().enumerate() {
            let first = window.start as u32;
            let params = vec![
                outputs(rows),
                window.len() as u32,
                weight.row_bytes() as u32,
                weight.cols as u32,
                weight.cols.div_ceil(CHUNK) as u32,
                GRID_MAX,
                input.stride as u32,
                target.stride as u32,
                target.from as u32 + first,
                if bias == NONE { NONE } else { bias + first },
                target.addend.map_or(0, |(_, stride)| stride as u32),
                activation(target.act),
                mode,
                part.scale.to_bits(),
                out_scale.to_bits(),
                softcap.unwrap_or(0.0).to_bits(),
            ];
            let addend = target.addend.map_or(Bound::Nothing, |(buf, _)| Bound::Buf(buf));
            let buffers = vec![Bound::Weight(weight.id(), i), input.buffer, addend, target.out];
            let grid = Grid::Product { rows: window.len() as u32 };
            self.push(Kernel::Product(weight.ty), params, buffers, grid, rows);
            self.set_work(Work::PerToken((window.len() * weight.cols) as u64));
        }
    }

    /// Gate and up projections in [`Scratch::Products`] made one.
    pub(super) fn glu(&mut self, glu: &Glu) {
        let in_stride = glu.len * if glu.has_gate { 2 } else { 1 };
        let clamp = glu.clamp.unwrap_or(GluClamp { gate_max: 0.0, up_max: 0.0, up_plus: 0.0 });
        let params = vec![
            outputs(glu.rows),
            glu.per_token as u32,
            glu.len as u32,
            in_stride as u32,
            glu.stride as u32,
            u32::from(glu.has_gate),
            activation(Some(glu.act)),
            u32::from(glu.adds.is_some()),
            glu.padding as u32,
            glu.adds.unwrap_or(0.0).to_bits(),
            clamp.gate_max.to_bits(),
            clamp.up_max.to_bits(),
            clamp.up_plus.to_bits(),
            u32::from(glu.clamp.is_some()),
        ];
        let buffers = vec![Bound::Scratch(Scratch::Products), glu.out];
        let x = (glu.len + glu.padding).div_ceil(THREADS) as u32;
        let grid = Grid::Rows { x, per_token: glu.per_token as u32 };
        self.push(Kernel::One(Shader::Glu), params, buffers, grid, glu.rows);
    }
}
