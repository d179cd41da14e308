//! Reads and writes of an operation: the weights and the columns of buffers.
//!
//! Every `match` here lists all operations. So a new one does not compile before it has said what
//! it touches, and whatever is derived from that (checks, liveness, packed lengths, side tables of
//! weights) holds for it too.

use super::{
    BoundWeight, Buf, CopyPieces, HeadLinear, Linear, MixStreams, Moe, Op, Output, Part, Router,
    Tokens,
};
use crate::backend::program::{Conv, Scan, ScanKind};

/// Use of a weight by an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// Rows are looked up by token id or position.
    Lookup,
    /// Multiplied with activations.
    Product,
}

/// Use of columns of a buffer by an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Reads them.
    Read,
    /// Overwrites them, whatever they held.
    Write,
    /// Reads and overwrites each of them.
    Change,
}

/// Columns of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// All columns from this one to the end of the row.
    From(usize),
    /// Runs of equal length.
    Runs {
        /// First column.
        from: usize,
        /// Columns from one run to the next.
        stride: usize,
        /// Columns of a run.
        len: usize,
        /// Number of runs.
        n: usize,
    },
}

impl Columns {
    /// The whole row.
    pub const ALL: Columns = Columns::From(0);

    /// `len` columns from `from` on.
    pub fn run(from: usize, len: usize) -> Columns {
        Columns::Runs { from, stride: 0, len, n: 1 }
    }
}

/// Columns of a buffer that an operation reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The buffer.
    pub buf: Buf,
    /// Reading, writing, or both.
    pub kind: AccessKind,
    /// Columns of a token's row.
    pub columns: Columns,
    /// Tokens whose rows are used; the rows of others are neither read nor changed.
    pub rows: Tokens,
}

impl Op {
    /// The operation's name.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "Embed",
            Op::Normalize { .. } => "Normalize",
            Op::Scale { .. } => "Scale",
            Op::Xielu { .. } => "Xielu",
            Op::MulBroadcast { .. } => "MulBroadcast",
            Op::Linear(_) => "Linear",
            Op::HeadLinear(_) => "HeadLinear",
            Op::CopyPieces(_) => "CopyPieces",
            Op::RopeKv(_) => "RopeKv",
            Op::Conv(_) => "Conv",
            Op::Scan(_) => "Scan",
            Op::Attention(_) => "Attention",
            Op::AddNorm { .. } => "AddNorm",
            Op::Sparsify { .. } => "Sparsify",
            Op::MatchLength { .. } => "MatchLength",
            Op::MixStreams(_) => "MixStreams",
            Op::Add { .. } => "Add",
            Op::Moe(_) => "Moe",
            Op::Result { .. } => "Result",
        }
    }

    /// The weights that the operation reads, and how.
    pub fn weights(&self) -> impl Iterator<Item = (WeightUse, &BoundWeight)> {
        let (parts, products, tables): (&[Part], _, _) = match self {
            Op::Embed { table, positions, .. } => {
                (&[], [None; 4], [Some(table), positions.as_ref()])
            }
            Op::Linear(op) => (&op.parts, [None; 4], [None; 2]),
            Op::HeadLinear(op) => (&[], [Some(&op.weight), None, None, None], [None; 2]),
            Op::Moe(op) => {
                let router = match &op.router {
                    Router::Input(part) => Some(&part.weight),
                    Router::Scores(_) => None,
                };
                let gate = op.gate.as_ref().map(|gate| &gate.weight);
                (&[], [router, gate, Some(&op.up.weight), Some(&op.down.weight)], [None; 2])
            }
            Op::Normalize { .. }
            | Op::Scale { .. }
            | Op::Xielu { .. }
            | Op::MulBroadcast { .. }
            | Op::CopyPieces(_)
            | Op::RopeKv(_)
            | Op::Conv(_)
            | Op::Scan(_)
            | Op::Attention(_)
            | Op::AddNorm { .. }
            | Op::Sparsify { .. }
            | Op::MatchLength { .. }
            | Op::MixStreams(_)
            | Op::Add { .. }
            | Op::Result { .. } => (&[], [None; 4], [None; 2]),
        };
        let products = parts.iter().map(|part| &part.weight).chain(products.into_iter().flatten());
        let tables = tables.into_iter().flatten();
        tables
            .map(|table| (WeightUse::Lookup, table))
            .chain(products.map(|weight| (WeightUse::Product, weight)))
    }

    /// The weights that are multiplied with activations.
    pub fn products(&self) -> impl Iterator<Item = &BoundWeight> {
        self.weights().filter(|(used, _)| *used == WeightUse::Product).map(|(_, weight)| weight)
    }

    /// Floats per token that the operation needs besides its buffers.
    pub fn inner_width(&self) -> usize {
        match self {
            Op::Moe(moe) => {
                let slot = moe.down.weight.cols.saturating_add(moe.down.weight.rows);
                moe.n_used.saturating_mul(slot).saturating_add(moe.n_experts)
            }
            Op::Embed { .. }
            | Op::Normalize { .. }
            | Op::Scale { .. }
            | Op::Xielu { .. }
            | Op::MulBroadcast { .. }
            | Op::Linear(_)
            | Op::HeadLinear(_)
            | Op::CopyPieces(_)
            | Op::RopeKv(_)
            | Op::Conv(_)
            | Op::Scan(_)
            | Op::Attention(_)
            | Op::AddNorm { .. }
            | Op::Sparsify { .. }
            | Op::MatchLength { .. }
            | Op::MixStreams(_)
            | Op::Add { .. }
            | Op::Result { .. } => 0,
        }
    }

    /// Columns of buffers that the operation reads and writes, reads first.
    pub fn buffers(&self) -> Vec<Access> {
        let mut list = List::default();
        match self {
            Op::Embed { out, .. } => list.write(*out, Columns::ALL, Tokens::All),
            Op::Normalize { buf, rows, .. }
            | Op::Scale { buf, rows, .. }
            | Op::Xielu { buf, rows, .. }
            | Op::Sparsify { buf, rows, .. } => list.change(*buf, Columns::ALL, *rows),
            Op::MulBroadcast { gate: other, buf, rows }
            | Op::MatchLength { to: other, buf, rows } => {
                list.read(*other, Columns::ALL, *rows);
                list.change(*buf, Columns::ALL, *rows);
            }
            Op::Linear(op) => list.linear(op),
            Op::HeadLinear(op) => list.head_linear(op),
            Op::CopyPieces(op) => list.copy_pieces(op),
            Op::RopeKv(op) => list.change(op.qkv, Columns::ALL, Tokens::All),
            Op::Conv(op) => list.conv(op),
            Op::Scan(op) => list.scan(op),
            Op::Attention(op) => {
                list.read(op.qkv, Columns::ALL, op.rows);
                list.write(op.out, Columns::ALL, op.rows);
            }
            Op::AddNorm { input, out, rows, .. } => {
                list.read(*input, Columns::ALL, *rows);
                list.change(*out, Columns::ALL, *rows);
            }
            Op::MixStreams(op) => list.mix_streams(op),
            Op::Add { input, out, from, rows } => {
                list.read(*input, Columns::ALL, *rows);
                list.change(*out, Columns::From(*from), *rows);
            }
            Op::Moe(op) => list.moe(op),
            Op::Result { input, .. } => list.read(*input, Columns::ALL, Tokens::Outputs),
        }
        list.0
    }

    /// The buffers that the operation names, to be renamed.
    pub(super) fn buffers_mut(&mut self) -> Vec<&mut Buf> {
        match self {
            Op::Embed { out, .. } => vec![out],
            Op::Normalize { buf, .. }
            | Op::Scale { buf, .. }
            | Op::Xielu { buf, .. }
            | Op::Sparsify { buf, .. } => vec![buf],
            Op::MulBroadcast { gate: other, buf, .. } | Op::MatchLength { to: other, buf, .. } => {
                vec![other, buf]
            }
            Op::Linear(Linear { input, addend, out, .. }) => {
                let out = match out {
                    Output::Store(buf) | Output::Add(buf, _) => Some(buf),
                    Output::Logits { .. } => None,
                };
                [input].into_iter().chain(addend).chain(out).collect()
            }
            Op::HeadLinear(HeadLinear { input, out, .. }) => vec![input, out],
            Op::CopyPieces(CopyPieces { pieces, out, .. }) => {
                pieces.iter_mut().map(|piece| &mut piece.input).chain([out]).collect()
            }
            Op::RopeKv(op) => vec![&mut op.qkv],
            Op::Conv(Conv { input, out, .. }) => vec![input, out],
            Op::Scan(scan) => {
                let Scan { kind, gate, out, .. } = &mut **scan;
                let sources = match kind {
                    ScanKind::StateSpace { x, bc, dt, .. } => vec![&mut x.0, &mut bc.0, &mut dt.0],
                    ScanKind::Linear { qkv, .. } => vec![&mut qkv.0],
                    ScanKind::Delta { qkv, alpha, beta, .. } => {
                        vec![&mut qkv.0, &mut alpha.0, &mut beta.0]
                    }
                };
                let gate = gate.as_mut().map(|gate| &mut gate.0);
                sources.into_iter().chain(gate).chain([out]).collect()
            }
            Op::Attention(op) => vec![&mut op.qkv, &mut op.out],
            Op::AddNorm { input, out, .. } | Op::Add { input, out, .. } => vec![input, out],
            Op::MixStreams(op) => {
                let MixStreams { streams, made, .. } = &mut **op;
                [streams].into_iter().chain(made).collect()
            }
            Op::Moe(op) => {
                let Moe { input, router, out, .. } = &mut **op;
                let scores = match router {
                    Router::Input(_) => None,
                    Router::Scores(buf) => Some(buf),
                };
                [input, out].into_iter().chain(scores).collect()
            }
            Op::Result { input, .. } => vec![input],
        }
    }
}

#[derive(Default)]
struct List(Vec<Access>);

impl List {
    fn read(&mut self, buf: Buf, columns: Columns, rows: Tokens) {
        self.0.push(Access { buf, kind: AccessKind::Read, columns, rows });
    }

    fn write(&mut self, buf: Buf, columns: Columns, rows: Tokens) {
        self.0.push(Access { buf, kind: AccessKind::Write, columns, rows });
    }

    fn change(&mut self, buf: Buf, columns: Columns, rows: Tokens) {
        self.0.push(Access { buf, kind: AccessKind::Change, columns, rows });
    }

    fn linear(&mut self, op: &Linear) {
        let cols = op.parts.first().map_or(0, |part| part.weight.cols);
        self.read(op.input, Columns::run(0, cols), op.rows);
        if let Some(addend) = op.addend {
            self.read(addend, Columns::run(0, op.n_products()), op.rows);
        }
        let columns = Columns::run(0, op.n_rows());
        match op.out {
            Output::Store(buf) => self.write(buf, columns, op.rows),
            Output::Add(buf, _) => self.change(buf, columns, op.rows),
            Output::Logits { .. } => {}
        }
    }

    fn head_linear(&mut self, op: &HeadLinear) {
        let n = op.weight.n;
        let runs = |stride, len| Columns::Runs { from: 0, stride, len, n };
        self.read(op.input, runs(op.input_stride, op.weight.cols), op.rows);
        self.write(op.out, runs(op.out_stride, op.weight.rows), op.rows);
    }

    fn copy_pieces(&mut self, op: &CopyPieces) {
        for piece in &op.pieces {
            let (from, stride) = (piece.from, piece.from_stride);
            let columns = Columns::Runs { from, stride, len: piece.len, n: piece.n };
            self.read(piece.input, columns, op.rows);
        }
        for piece in &op.pieces {
            let (from, stride) = (piece.to, piece.to_stride);
            let columns = Columns::Runs { from, stride, len: piece.len, n: piece.n };
            self.write(op.out, columns, op.rows);
        }
    }

    fn conv(&mut self, op: &Conv) {
        let n_channels = op.n_channels();
        let factors = op.factors.into_iter().flat_map(|(first, second)| [first, second]);
        for from in [op.from].into_iter().chain(factors) {
            self.read(op.input, Columns::run(from, n_channels), Tokens::All);
        }
        self.write(op.out, Columns::run(0, n_channels), Tokens::All);
    }

    fn scan(&mut self, op: &Scan) {
        let &Scan { n_heads, head_dim, state_dim, .. } = op;
        let width = n_heads * head_dim;
        let mut read = |(buf, from): (Buf, usize), len: usize| {
            self.read(buf, Columns::run(from, len), Tokens::All);
        };
        match &op.kind {
            ScanKind::StateSpace { x, bc, n_groups, dt, .. } => {
                read(*x, width);
                bc.1.iter().for_each(|&from| read((bc.0, from), n_groups * state_dim));
                read(*dt, n_heads);
            }
            ScanKind::Linear { qkv, head_stride, .. } => {
                for (from, len) in qkv.1.into_iter().zip([state_dim, state_dim, head_dim]) {
                    let columns = Columns::Runs { from, stride: *head_stride, len, n: n_heads };
                    self.read(qkv.0, columns, Tokens::All);
                }
            }
            ScanKind::Delta { qkv, key_head, alpha, alpha_bias, beta, .. } => {
                let n_keys = key_head.iter().max().map_or(0, |&head| head + 1) * state_dim;
                for (from, len) in qkv.1.into_iter().zip([n_keys, n_keys, width]) {
                    read((qkv.0, from), len);
                }
                let n_alpha = alpha_bias.len() / n_heads.max(1);
                alpha.1.iter().for_each(|&from| read((alpha.0, from), n_alpha));
                beta.1.iter().for_each(|&from| read((beta.0, from), 1));
            }
        }
        if let Some((gate, from)) = op.gate {
            self.read(gate, Columns::run(from, width), Tokens::All);
        }
        self.write(op.out, Columns::run(0, width), Tokens::All);
    }

    fn mix_streams(&mut self, op: &MixStreams) {
        if let Some(made) = op.made {
            self.read(made, Columns::ALL, op.rows);
        }
        self.change(op.streams, Columns::ALL, op.rows);
    }

    fn moe(&mut self, op: &Moe) {
        self.read(op.input, Columns::ALL, op.rows);
        if let Router::Scores(scores) = op.router {
            self.read(scores, Columns::run(0, op.n_experts), op.rows);
        }
        match op.adds {
            true => self.change(op.out, Columns::ALL, op.rows),
            false => self.write(op.out, Columns::ALL, op.rows),
        }
    }
}
