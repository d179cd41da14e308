//! Checks of a program before it is run: identifiers, shapes, and that nothing is read before it is
//! written.
//!
//! A fault here is a bug of whoever made the program, or metadata that no check before has refused.
//! Backends rely on a checked program and index without asking again. Cost: some microseconds per
//! operation, once per load.

use super::{
    Access, AccessKind, Attention, Buf, Columns, CopyPieces, Epilogue, ExpertPart, HeadLinear,
    HeadNorm, KvShape, Linear, MixStreams, Moe, Norm, Op, Output, Part, Program, RopeKv, Router,
    STREAMS_MAX, Tokens, WeightId,
};
use crate::backend::program::{Conv, Scan, ScanKind, StateId};
use std::fmt;
use std::ops::Range;

/// Error of a program that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramError {
    /// Index and name of the operation at fault; `None`: the program as a whole.
    pub op: Option<(usize, &'static str)>,
    /// The fault.
    pub fault: Fault,
}

/// A fault of a program or of one of its operations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A number that names nothing.
    NoSuch {
        /// Kind of thing that the number should name.
        what: &'static str,
        /// The number.
        id: usize,
        /// Number of such things.
        n: usize,
    },
    /// A weight is not the one of its number.
    OtherWeight(WeightId),
    /// A length that does not fit the others.
    Length {
        /// Name of what has the length.
        what: &'static str,
        /// The length.
        found: usize,
        /// Length that fits.
        expected: usize,
    },
    /// A number outside of its range.
    Range {
        /// Name of the number.
        what: &'static str,
        /// The number.
        found: usize,
    },
    /// Columns beyond the end of a buffer's rows.
    OutOfRow {
        /// The buffer.
        buf: Buf,
        /// End of the columns, exclusive.
        end: usize,
        /// Columns that it has.
        width: usize,
    },
    /// A column is read that nothing has written.
    Unwritten {
        /// The buffer.
        buf: Buf,
        /// The column.
        column: usize,
        /// [`Tokens::Outputs`]: no token has it; [`Tokens::All`]: only tokens with results have it.
        rows: Tokens,
    },
    /// A buffer is read and written by different workers at the same time.
    Aliased(Buf),
    /// Pieces overlap in their destination.
    Overlap(Buf),
    /// Keys and values of this layer are not stored before they are read.
    NotStored(usize),
    /// Keys and values of this layer are stored by two operations.
    StoredTwice(usize),
    /// A state belongs to two operations.
    SharedState(StateId),
    /// The last operation, and no other, has to give the results.
    Results,
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((i, name)) = self.op {
            write!(f, "operation {i} ({name}): ")?;
        }
        match &self.fault {
            Fault::NoSuch { what, id, n } => write!(f, "{what} {id} of {n}"),
            Fault::OtherWeight(id) => write!(f, "weight {} is another one", id.0),
            Fault::Length { what, found, expected } => {
                write!(f, "{what} has a length of {found}, not {expected}")
            }
            Fault::Range { what, found } => write!(f, "{what} is {found}"),
            Fault::OutOfRow { buf, end, width } => {
                write!(f, "columns up to {end} of buffer {}, which has {width}", buf.0)
            }
            Fault::Unwritten { buf, column, rows } => {
                let of =
                    if *rows == Tokens::Outputs { "any token" } else { "tokens without results" };
                write!(f, "column {column} of buffer {} is read unwritten for {of}", buf.0)
            }
            Fault::Aliased(buf) => write!(f, "buffer {} is source and destination", buf.0),
            Fault::Overlap(buf) => write!(f, "pieces overlap in buffer {}", buf.0),
            Fault::NotStored(layer) => write!(f, "keys of layer {layer} are not stored yet"),
            Fault::StoredTwice(layer) => write!(f, "keys of layer {layer} are stored twice"),
            Fault::SharedState(id) => write!(f, "state {} has two operations", id.0),
            Fault::Results => write!(f, "the last operation alone has to give the results"),
        }
    }
}

impl std::error::Error for ProgramError {}

impl Program {
    /// Checks that a backend can run the program: every number names something, widths and lengths
    /// fit, nothing is read that was not written in the same step, one operation gives the results.
    ///
    /// # Errors
    /// The first operation at fault.
    pub fn check(&self) -> Result<(), ProgramError> {
        let whole = |fault| ProgramError { op: None, fault };
        self.kv.iter().try_for_each(check_kv_shape).map_err(whole)?;
        let mut checker = Checker {
            program: self,
            written: vec![Default::default(); self.widths.len()],
            stored: vec![false; self.kv.len()],
            states: vec![false; self.states.len()],
        };
        for (i, op) in self.ops.iter().enumerate() {
            let at = |fault| ProgramError { op: Some((i, op.name())), fault };
            checker.weights(op).map_err(at)?;
            checker.ids(op).map_err(at)?;
            checker.shapes(op).map_err(at)?;
            checker.accesses(op).map_err(at)?;
            if gives_results(op) != (i + 1 == self.ops.len()) {
                return Err(at(Fault::Results));
            }
        }
        match self.ops.is_empty() {
            true => Err(whole(Fault::Results)),
            false => Ok(()),
        }
    }
}

fn check_kv_shape(shape: &KvShape) -> Result<(), Fault> {
    positive("number of key heads", shape.n_kv_heads)?;
    positive("length of keys", shape.k_dim)?;
    positive("length of values", shape.v_dim)?;
    positive("attention window", shape.window.unwrap_or(1))
}

fn gives_results(op: &Op) -> bool {
    match op {
        Op::Result { .. } => true,
        Op::Linear(op) => matches!(op.out, Output::Logits { .. }),
        Op::Embed { .. }
        | Op::Normalize { .. }
        | Op::Scale { .. }
        | Op::Xielu { .. }
        | Op::MulBroadcast { .. }
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
        | Op::Moe(_) => false,
    }
}

fn same(what: &'static str, found: usize, expected: usize) -> Result<(), Fault> {
    if found == expected { Ok(()) } else { Err(Fault::Length { what, found, expected }) }
}

fn in_range(what: &'static str, found: usize, range: bool) -> Result<(), Fault> {
    if range { Ok(()) } else { Err(Fault::Range { what, found }) }
}

fn positive(what: &'static str, found: usize) -> Result<(), Fault> {
    in_range(what, found, found > 0)
}

/// A length that has to be `n` times another, with `n` above 0.
fn multiple(what: &'static str, found: usize, of: usize) -> Result<(), Fault> {
    in_range(what, found, of > 0 && found > 0 && found.is_multiple_of(of))
}

/// Some vector, if there is one, of this length.
fn vector(what: &'static str, values: Option<&Vec<f32>>, len: usize) -> Result<(), Fault> {
    values.map_or(Ok(()), |values| same(what, values.len(), len))
}

fn norm(norm: Option<&Norm>, len: usize) -> Result<(), Fault> {
    let Some(norm) = norm else { return Ok(()) };
    vector("weight of the norm", norm.weight.as_ref(), len)?;
    vector("bias of the norm", norm.bias.as_ref(), len)
}

/// A norm of heads in a row of `len`.
fn head_norm(norm: Option<&HeadNorm>, len: usize) -> Result<(), Fault> {
    let Some(HeadNorm { norm, dim }) = norm else { return Ok(()) };
    in_range("length of a norm of heads", *dim, *dim > 0 && len.is_multiple_of(*dim))?;
    for values in norm.weight.iter().chain(&norm.bias) {
        if values.len() != *dim {
            same("parameters of a norm of heads", values.len(), len)?;
        }
    }
    Ok(())
}

fn product(a: usize, b: usize) -> usize {
    a.saturating_mul(b)
}

/// Facts about the operations checked so far.
struct Checker<'a> {
    program: &'a Program,
    /// Written columns of each buffer: of the tokens whose results are wanted, and of the others.
    written: Vec<[Spans; 2]>,
    /// True for each layer that has stored keys and values.
    stored: Vec<bool>,
    /// True for each state that has its operation.
    states: Vec<bool>,
}

impl Checker<'_> {
    fn width(&self, buf: Buf) -> usize {
        self.program.widths[buf.0]
    }

    fn weights(&self, op: &Op) -> Result<(), Fault> {
        for (_, weight) in op.weights() {
            let (id, n) = (weight.id(), self.program.weights.len());
            let known = self.program.weights.get(id.0);
            let known = known.ok_or(Fault::NoSuch { what: "weight", id: id.0, n })?;
            if !weight.is(known) {
                return Err(Fault::OtherWeight(id));
            }
        }
        Ok(())
    }

    /// Buffers, layers, states and tables that the operation names.
    fn ids(&mut self, op: &Op) -> Result<(), Fault> {
        let known = |what, id: usize, n: usize| match id < n {
            true => Ok(()),
            false => Err(Fault::NoSuch { what, id, n }),
        };
        for access in op.buffers() {
            known("buffer", access.buf.0, self.program.widths.len())?;
        }
        let state = match op {
            Op::RopeKv(op) => {
                known("layer", op.layer, self.stored.len())?;
                if let Some((rope, _)) = op.rope {
                    known("rotary table", rope.0, self.program.ropes.len())?;
                }
                if op.stores && std::mem::replace(&mut self.stored[op.layer], true) {
                    return Err(Fault::StoredTwice(op.layer));
                }
                return match self.stored[op.layer] {
                    true => Ok(()),
                    false => Err(Fault::NotStored(op.layer)),
                };
            }
            Op::Attention(op) => {
                known("layer", op.layer, self.stored.len())?;
                return match self.stored[op.layer] {
                    true => Ok(()),
                    false => Err(Fault::NotStored(op.layer)),
                };
            }
            Op::Conv(op) => op.state,
            Op::Scan(op) => op.state,
            Op::Embed { .. }
            | Op::Normalize { .. }
            | Op::Scale { .. }
            | Op::Xielu { .. }
            | Op::MulBroadcast { .. }
            | Op::Linear(_)
            | Op::HeadLinear(_)
            | Op::CopyPieces(_)
            | Op::AddNorm { .. }
            | Op::Sparsify { .. }
            | Op::MatchLength { .. }
            | Op::MixStreams(_)
            | Op::Add { .. }
            | Op::Moe(_)
            | Op::Result { .. } => return Ok(()),
        };
        known("state", state.0, self.states.len())?;
        match std::mem::replace(&mut self.states[state.0], true) {
            true => Err(Fault::SharedState(state)),
            false => Ok(()),
        }
    }

    /// Lengths and counts.
    fn shapes(&self, op: &Op) -> Result<(), Fault> {
        match op {
            Op::Embed { table, addend, positions, out, .. } => {
                let width = self.width(*out);
                same("row of the table", table.cols, width)?;
                in_range("rows of the table", table.rows, table.rows >= self.program.n_vocab)?;
                vector("addend", addend.as_ref(), width)?;
                same("row of the positions", positions.as_ref().map_or(width, |p| p.cols), width)
            }
            Op::Normalize { buf, norm: by, .. } => norm(Some(by), self.width(*buf)),
            Op::Scale { buf, factors, .. } => same("factors", factors.len(), self.width(*buf)),
            Op::Xielu { .. } | Op::Sparsify { .. } => Ok(()),
            Op::MulBroadcast { gate: other, buf, .. } | Op::MatchLength { to: other, buf, .. } => {
                multiple("width of the buffer", self.width(*buf), self.width(*other))
            }
            Op::Linear(op) => self.linear(op),
            Op::HeadLinear(op) => check_head_linear(op),
            Op::CopyPieces(op) => check_copy_pieces(op),
            Op::RopeKv(op) => self.rope_kv(op),
            Op::Conv(op) => self.conv(op),
            Op::Scan(op) => self.scan(op),
            Op::Attention(op) => self.attention(op),
            Op::AddNorm { input, norm: by, out, .. } => {
                same("width of the input", self.width(*input), self.width(*out))?;
                norm(Some(by), self.width(*input))
            }
            Op::MixStreams(op) => self.mix_streams(op),
            Op::Add { input, out, from, .. } => {
                let rest = self.width(*out).saturating_sub(*from);
                multiple("width behind the first column", rest, self.width(*input))
            }
            Op::Moe(op) => self.moe(op),
            Op::Result { input, norm: by } => {
                same("width of the input", self.width(*input), self.program.n_out)?;
                norm(by.as_ref(), self.program.n_out)
            }
        }
    }

    fn linear(&self, op: &Linear) -> Result<(), Fault> {
        let Some(first) = op.parts.first() else {
            return Err(Fault::Range { what: "number of matrices", found: 0 });
        };
        op.parts.iter().try_for_each(|part| check_part(part, first.weight.cols))?;
        norm(op.norm.as_ref(), first.weight.cols)?;
        if let Epilogue::Glu(..) = op.epilogue {
            in_range("number of matrices", op.parts.len(), op.parts.len() <= 2)?;
            multiple("rows of gate and up projection", op.n_products(), 2)?;
            if let [gate, up] = &op.parts[..] {
                same("rows of the up projection", up.weight.rows, gate.weight.rows)?;
            }
        }
        match op.out {
            Output::Logits { .. } => {
                in_range("rows of logits", op.n_rows(), op.rows == Tokens::Outputs)?;
                same("rows of logits", op.n_rows(), self.program.n_out)
            }
            Output::Store(_) | Output::Add(..) => Ok(()),
        }
    }

    fn rope_kv(&self, op: &RopeKv) -> Result<(), Fault> {
        let shape = &self.program.kv[op.layer];
        multiple("number of query heads", op.n_heads, shape.n_kv_heads)?;
        let (q, n_kv) =
            (product(op.n_heads, shape.k_dim), usize::from(op.stores) * shape.n_kv_heads);
        let (k, v) = (product(n_kv, shape.k_dim), product(n_kv, shape.v_dim));
        let width = q.saturating_add(k).saturating_add(v);
        same("queries, keys and values", self.width(op.qkv), width)?;
        head_norm(op.q_norm.as_ref(), q)?;
        head_norm(op.k_norm.as_ref(), k)?;
        head_norm(op.v_norm.as_ref(), v)?;
        if let Some((rope, _)) = op.rope {
            let end = product(2, self.program.ropes[rope.0].inv_freq.len());
            let end = end.saturating_add(op.rope_from);
            in_range("end of the rotated dimensions", end, end <= shape.k_dim)?;
        }
        positive("period", op.temperature.map_or(1, |temperature| temperature.period as usize))
    }

    fn attention(&self, op: &Attention) -> Result<(), Fault> {
        let shape = &self.program.kv[op.layer];
        multiple("number of query heads", op.n_heads, shape.n_kv_heads)?;
        let queries = product(op.n_heads, shape.k_dim);
        in_range("queries", self.width(op.qkv), self.width(op.qkv) >= queries)?;
        vector("slopes", op.slopes.as_ref(), op.n_heads)?;
        vector("sinks", op.sinks.as_ref(), op.n_heads)?;
        same("width of the output", self.width(op.out), product(op.n_heads, shape.v_dim))
    }

    fn conv(&self, op: &Conv) -> Result<(), Fault> {
        positive("number of taps", op.taps)?;
        multiple("weights of the convolution", op.weight.len(), op.taps)?;
        let n_channels = op.n_channels();
        vector("bias", op.bias.as_ref(), n_channels)?;
        same("state", self.program.states[op.state.0], product(n_channels, op.taps - 1))
    }

    fn scan(&self, op: &Scan) -> Result<(), Fault> {
        let &Scan { n_heads, head_dim, state_dim, .. } = op;
        positive("number of heads", n_heads)?;
        positive("length of a head", head_dim)?;
        positive("columns of the state", state_dim)?;
        let len = product(product(n_heads, head_dim), state_dim);
        same("state", self.program.states[op.state.0], len)?;
        norm(op.norm.as_ref(), head_dim)?;
        let per_head = |what, found: usize| match found == n_heads {
            true => Ok(()),
            false => same(what, found, product(n_heads, state_dim)),
        };
        match &op.kind {
            ScanKind::StateSpace { n_groups, dt_bias, a, d, .. } => {
                multiple("number of heads", n_heads, *n_groups)?;
                same("bias of time steps", dt_bias.len(), n_heads)?;
                per_head("decay", a.len())?;
                same("factors of the input", d.len(), n_heads)
            }
            ScanKind::Linear { decay, .. } => same("decay", decay.len(), n_heads),
            ScanKind::Delta { key_head, alpha, alpha_bias, a, beta, .. } => {
                same("key heads", key_head.len(), n_heads)?;
                same("columns of alpha", alpha.1.len(), n_heads)?;
                per_head("bias of alpha", alpha_bias.len())?;
                same("factors of the decay", a.len(), n_heads)?;
                same("columns of beta", beta.1.len(), n_heads)
            }
        }
    }

    fn mix_streams(&self, op: &MixStreams) -> Result<(), Fault> {
        in_range("number of streams", op.n, (1..=STREAMS_MAX).contains(&op.n))?;
        multiple("width of the streams", self.width(op.streams), op.n)?;
        let width = self.width(op.streams) / op.n;
        if let Some(made) = op.made {
            same("width of a stream", self.width(made), width)?;
        }
        norm(Some(&op.norm), width)?;
        same("router of the streams", op.router.len(), product(op.n, width))?;
        let n_mixed = if op.made.is_some() { op.n } else { op.n * op.n };
        same("coefficients", op.coefficients.len(), n_mixed * op.n)
    }

    fn moe(&self, op: &Moe) -> Result<(), Fault> {
        let (cols, n_ff) = (self.width(op.input), op.down.weight.cols);
        norm(op.norm.as_ref(), cols)?;
        if let Router::Input(part) = &op.router {
            check_part(part, cols)?;
            same("rows of the router", part.weight.rows, op.n_experts)?;
        }
        let in_groups = match op.groups {
            None => op.n_experts,
            Some(groups) => {
                multiple("number of experts", op.n_experts, groups.n_groups)?;
                let n = groups.n_used;
                in_range("groups that take part", n, n <= groups.n_groups)?;
                op.n_experts / groups.n_groups * n
            }
        };
        in_range("experts per token", op.n_used, (1..=in_groups).contains(&op.n_used))?;
        vector("bias of the choice", op.choice_bias.as_ref(), op.n_experts)?;
        for part in op.gate.iter().chain([&op.up]) {
            check_expert_part(part, op.n_experts)?;
            same("columns of the experts", part.weight.cols, cols)?;
        }
        let fused = product(2, n_ff);
        match &op.gate {
            Some(gate) => same("rows of gates", gate.weight.rows, n_ff)?,
            None if op.up.weight.rows == fused => {}
            None => same("rows of up projections", op.up.weight.rows, n_ff)?,
        }
        if op.gate.is_some() {
            same("rows of up projections", op.up.weight.rows, n_ff)?;
        }
        check_expert_part(&op.down, op.n_experts)?;
        same("rows of down projections", op.down.weight.rows, self.width(op.out))
    }

    /// Columns within their rows; what is read has been written, and not by the operation itself.
    fn accesses(&mut self, op: &Op) -> Result<(), Fault> {
        let accesses = op.buffers();
        // A mixture reads its input in a phase of its own.
        let in_phases = matches!(op, Op::Moe(_));
        for access in &accesses {
            let &Access { buf, kind, columns, rows } = access;
            let width = self.width(buf);
            let end = runs(columns, width).map(|run| run.end).max().unwrap_or(0);
            if end > width {
                return Err(Fault::OutOfRow { buf, end, width });
            }
            let is_read = |other: &Access| other.buf == buf && other.kind == AccessKind::Read;
            if kind != AccessKind::Read && !in_phases && accesses.iter().any(is_read) {
                return Err(Fault::Aliased(buf));
            }
            if kind == AccessKind::Write {
                continue;
            }
            for (class, written) in classes(rows).zip(&self.written[buf.0]) {
                let gap = runs(columns, width).find_map(|run| written.gap(run));
                if let Some(column) = gap {
                    return Err(Fault::Unwritten { buf, column, rows: class });
                }
            }
        }
        for Access { buf, columns, rows, .. } in
            accesses.into_iter().filter(|access| access.kind != AccessKind::Read)
        {
            let width = self.width(buf);
            for (_, written) in classes(rows).zip(&mut self.written[buf.0]) {
                runs(columns, width).for_each(|run| written.insert(run));
            }
        }
        Ok(())
    }
}

/// The classes of tokens that an operation computes: those whose results are wanted come first.
fn classes(rows: Tokens) -> impl Iterator<Item = Tokens> {
    let all = [Tokens::Outputs, Tokens::All].into_iter();
    all.take(if rows == Tokens::Outputs { 1 } else { 2 })
}

/// The runs of columns in a row of `width`.
fn runs(columns: Columns, width: usize) -> impl Iterator<Item = Range<usize>> {
    let (from, stride, len, n) = match columns {
        Columns::From(from) => (from, 0, width.saturating_sub(from), 1),
        // Without a stride all runs are the same.
        Columns::Runs { from, stride: 0, len, n } => (from, 0, len, n.min(1)),
        Columns::Runs { from, stride, len, n } => (from, stride, len, n),
    };
    (0..n).map(move |i| {
        let start = from.saturating_add(product(i, stride));
        start..start.saturating_add(len)
    })
}

fn check_part(part: &Part, cols: usize) -> Result<(), Fault> {
    same("stack of a product", part.weight.n, 1)?;
    positive("rows of a product", part.weight.rows)?;
    same("columns of a product", part.weight.cols, cols)?;
    vector("bias", part.bias.as_ref(), part.weight.rows)
}

fn check_expert_part(part: &ExpertPart, n_experts: usize) -> Result<(), Fault> {
    let [n, rows, cols] = part.weight.shape();
    same("stack of experts", n, n_experts)?;
    vector("biases of experts", part.biases.as_ref(), product(n, rows))?;
    vector("factors of experts", part.scales.as_ref(), n)?;
    part.low_rank.iter().try_for_each(|low| {
        positive("rank", low.rank)?;
        same("low-rank matrices A", low.a.len(), product(product(n, low.rank), cols))?;
        same("low-rank matrices B", low.b.len(), product(product(n, rows), low.rank))
    })
}

fn check_head_linear(op: &HeadLinear) -> Result<(), Fault> {
    positive("number of heads", op.weight.n)?;
    in_range("elements between heads", op.out_stride, op.out_stride >= op.weight.rows)
}

fn check_copy_pieces(op: &CopyPieces) -> Result<(), Fault> {
    let (mut written, mut len) = (Spans::default(), 0_usize);
    for piece in &op.pieces {
        norm(piece.norm.as_ref(), piece.len)?;
        for i in 0..piece.n {
            let start = piece.to.saturating_add(product(i, piece.to_stride));
            written.insert(start..start.saturating_add(piece.len));
            len = len.saturating_add(piece.len);
        }
    }
    if written.len() == len { Ok(()) } else { Err(Fault::Overlap(op.out)) }
}

/// A set of columns: disjoint ranges in ascending order that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spans(Vec<Range<usize>>);

impl Spans {
    fn insert(&mut self, run: Range<usize>) {
        if run.is_empty() {
            return;
        }
        let first = self.0.partition_point(|span| span.end < run.start);
        let end = self.0.partition_point(|span| span.start <= run.end);
        let joined = match self.0.get(first..end) {
            Some([one, ..]) => {
                let last = &self.0[end - 1];
                one.start.min(run.start)..last.end.max(run.end)
            }
            _ => run,
        };
        self.0.splice(first..end, [joined]);
    }

    /// The first column of `run` that is missing.
    fn gap(&self, run: Range<usize>) -> Option<usize> {
        if run.is_empty() {
            return None;
        }
        let after = self.0.partition_point(|span| span.end <= run.start);
        match self.0.get(after) {
            Some(span) if span.start <= run.start => (span.end < run.end).then_some(span.end),
            _ => Some(run.start),
        }
    }

    /// Number of columns.
    fn len(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }
}
