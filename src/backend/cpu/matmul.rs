//! Products of weights and a batch of tokens, with the norm before and the epilogue after.
//!
//! The input is normalized and quantized once into the layout that the kernels want. For a few
//! tokens every worker does that for itself, which is cheaper than a barrier; for many they share
//! the work. Then rows of the weights are dealt out in chunks.

use super::pool::{Phase, Shared, Ticket, write_cells_of_four};
use super::{
    Context, CpuBackend, FORMATS, PackBuffers, TokenSet, WorkerScratch, at_least, format_index,
    resize,
};
use crate::backend::program::{
    BoundWeight, Buf, Epilogue, HeadLinear, Linear, Norm, Op, Output, Part, Program,
};
use crate::tensor::Weight;
use std::ops::Range;
use teff_kernels::float::block_max;
use teff_kernels::{
    ActFormat, ActPlan, ActUnit, Acts, Ahead, KernelTable, Layout, MAX_BLOCK, PANEL_TOKENS, Scratch,
};

/// Chunks per thread that even out unequal cores, where there are enough rows.
const CHUNKS_PER_THREAD: usize = 6;
/// Rows that the tiled kernels unpack at a time; chunks for many tokens are a multiple of it.
const ROW_BLOCK: usize = 48;
/// Most blocks in a chunk for many tokens, so that products stay in the second-level cache.
const BLOCKS_MAX: usize = 2;
/// Chunks for a few tokens are a multiple of this, so that kernels have rows to interleave.
const ROWS_MIN: usize = 16;
/// Bytes that a worker prefetches while it waits for others: a part of the second-level cache of
/// most CPUs.
const AHEAD_BYTES: usize = 128 << 10;
/// Most rows of a chunk for a few tokens.
const ROWS_MAX: usize = 1024;

/// No block of logits is in two chunks.
const _: () = assert!(ROW_BLOCK.is_multiple_of(MAX_BLOCK) && ROWS_MIN.is_multiple_of(MAX_BLOCK));

/// Packed activations of one worker.
#[derive(Default)]
pub(super) struct PrivatePack {
    per_format: [OwnedPack; FORMATS.len()],
}

#[derive(Default)]
struct OwnedPack {
    q: Vec<i8>,
    d: Vec<f32>,
    s: Vec<i16>,
    x: Vec<f32>,
}

impl PrivatePack {
    /// Packs rows `x` of all tokens.
    fn fill(&mut self, kernels: &KernelTable, plan: &ActPlan, x: &[f32]) {
        let OwnedPack { q, d, s, x: xs } = &mut self.per_format[format_index(plan.format)];
        let n = plan.units();
        resize(q, n * plan.q_len());
        resize(d, n * plan.d_len());
        resize(s, n * plan.s_len());
        resize(xs, n * plan.x_len());
        for unit in 0..n {
            let tokens = plan.tokens_of(unit);
            let x = &x[tokens.start * plan.cols..tokens.end * plan.cols];
            kernels.pack(plan, x, unit_of(plan, unit, q, d, s, xs));
        }
    }

    /// Packs rows `x`, each as the one token of `plan`. Neighbouring rows, if they are few, are
    /// then what a plan of as many tokens wants.
    pub fn fill_each(&mut self, kernels: &KernelTable, plan: &ActPlan, x: &[f32]) {
        let OwnedPack { q, d, s, x: xs } = &mut self.per_format[format_index(plan.format)];
        let n = x.len() / plan.cols;
        let q = at_least(q, n * plan.q_len());
        let d = at_least(d, n * plan.d_len());
        let s = at_least(s, n * plan.s_len());
        let xs = at_least(xs, n * plan.x_len());
        for (i, x) in x.chunks_exact(plan.cols).enumerate() {
            kernels.pack(plan, x, unit_of(plan, i, q, d, s, xs));
        }
    }
}

impl OwnedPack {
    fn acts<'a>(&'a self, plan: &'a ActPlan) -> Acts<'a> {
        Acts { plan, q: &self.q, d: &self.d, s: &self.s, x: &self.x }
    }
}

/// Place of packed inputs.
#[derive(Clone, Copy)]
pub(super) enum Packed<'a> {
    /// In a worker's own memory, see [`PrivatePack::fill_each`].
    Private(&'a PrivatePack),
    /// In shared buffers, see [`PackBuffers::fill`].
    Shared(&'a [PackBuffers; FORMATS.len()]),
}

/// The tokens of a plan whose first one is token `first` of what the buffers hold: the first of a
/// panel, if the plan has panels.
fn acts_from<'a>(
    plan: &'a ActPlan,
    first: usize,
    (q, d, s, x): (&'a [i8], &'a [f32], &'a [i16], &'a [f32]),
) -> Acts<'a> {
    let (units, unit) = match plan.layout() {
        Layout::Panels => (plan.units(), first / PANEL_TOKENS),
        Layout::Rows => (plan.units(), first),
    };
    Acts {
        plan,
        q: &q[unit * plan.q_len()..][..units * plan.q_len()],
        d: &d[unit * plan.d_len()..][..units * plan.d_len()],
        s: &s[unit * plan.s_len()..][..units * plan.s_len()],
        x: &x[unit * plan.x_len()..][..units * plan.x_len()],
    }
}

/// Elements of q, d, s and x that packed inputs of this format need at most.
pub(super) fn pack_lens(
    kernels: &KernelTable,
    program: &Program,
    format: ActFormat,
    max_tokens: usize,
) -> [usize; 4] {
    let mut lens = [0; 4];
    for weight in program.products() {
        let of_type = kernels.types(weight.ty).unwrap_or_else(|| panic!("no kernel: {weight:?}"));
        if of_type.act != format {
            continue;
        }
        for n_tokens in [teff_kernels::ROWS_MAX, max_tokens] {
            let plan = kernels.plan(format, weight.cols, n_tokens);
            let unit = [plan.q_len(), plan.d_len(), plan.s_len(), plan.x_len()];
            let units = plan.units().next_multiple_of(PANEL_TOKENS);
            for (len, unit) in lens.iter_mut().zip(unit) {
                *len = (*len).max(units * unit);
            }
        }
    }
    lens
}

/// Input of a product: rows of a buffer, normalized.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub buffer: &'a Shared<f32>,
    pub norm: Option<&'a Norm>,
    pub set: TokenSet<'a>,
}

/// Inputs of the rows of a product.
pub(super) struct Operands<'a> {
    /// The packed input, for each of [`FORMATS`] that the weights want.
    acts: [Option<Acts<'a>>; FORMATS.len()],
    /// All interleaved weights.
    interleaved: &'a [u8],
    phase: &'a Phase<'a>,
}

impl PackBuffers {
    /// Packs rows `x` of the tokens `tokens`, which are one ticket's eight: one unit of a panel
    /// layout, or one unit each.
    pub fn fill(
        &self,
        kernels: &KernelTable,
        plan: &ActPlan,
        tokens: Range<usize>,
        x: &[f32],
        ticket: &mut Ticket<'_>,
    ) {
        let units = match plan.layout() {
            Layout::Panels => 1,
            Layout::Rows => PANEL_TOKENS,
        };
        let first = tokens.start / PANEL_TOKENS * units;
        let [q_len, d_len, s_len, x_len] =
            [plan.q_len(), plan.d_len(), plan.s_len(), plan.x_len()].map(|len| len * units);
        let (q, d, s, xs) = write_cells_of_four(
            ticket,
            (&self.q, q_len),
            (&self.d, d_len),
            (&self.s, s_len),
            (&self.x, x_len),
        );
        for unit in first..(first + units).min(plan.units()) {
            let unit_tokens = plan.tokens_of(unit);
            let start = (unit_tokens.start - tokens.start) * plan.cols;
            let x = &x[start..start + unit_tokens.len() * plan.cols];
            kernels.pack(plan, x, unit_of(plan, unit - first, q, d, s, xs));
        }
    }

    /// Activations that [`PackBuffers::fill`] wrote in the phase before.
    fn acts<'p>(&'p self, plan: &'p ActPlan, phase: &'p Phase<'_>) -> Acts<'p> {
        self.acts_from(plan, 0, phase)
    }

    /// Activations that [`PackBuffers::fill`] wrote in the phase before, from token `first` on.
    fn acts_from<'p>(&'p self, plan: &'p ActPlan, first: usize, phase: &'p Phase<'_>) -> Acts<'p> {
        let PackBuffers { q, d, s, x } = self;
        acts_from(plan, first, (q.read(phase), d.read(phase), s.read(phase), x.read(phase)))
    }
}

/// The parts of unit `unit` in buffers of several units.
fn unit_of<'a>(
    plan: &ActPlan,
    unit: usize,
    q: &'a mut [i8],
    d: &'a mut [f32],
    s: &'a mut [i16],
    x: &'a mut [f32],
) -> ActUnit<'a> {
    ActUnit {
        q: &mut q[unit * plan.q_len()..][..plan.q_len()],
        d: &mut d[unit * plan.d_len()..][..plan.d_len()],
        s: &mut s[unit * plan.s_len()..][..plan.s_len()],
        x: &mut x[unit * plan.x_len()..][..plan.x_len()],
    }
}

/// Step and maximum of the rows of a chunk, for a product with `n_tokens` tokens.
pub(super) fn chunk_limits(n_tokens: usize) -> (usize, usize) {
    match n_tokens > teff_kernels::ROWS_MAX {
        true => (ROW_BLOCK, BLOCKS_MAX * ROW_BLOCK),
        false => (ROWS_MIN, ROWS_MAX),
    }
}

impl Context<'_> {
    pub(super) fn linear(&self, op: &Linear, scratch: &mut WorkerScratch) {
        let set = self.set(op.rows);
        let n_rows = op.n_rows();
        let buffer = &self.backend.buffers[op.input.0];
        let source = Source { buffer, norm: op.norm.as_ref(), set };
        let weights = op.parts.iter().map(|part| &part.weight);
        self.products(source, weights, n_rows, scratch, |operands, ticket, kernels, y| {
            match op.epilogue {
                Epilogue::Glu(act, clamp) => {
                    let rows = ticket.items();
                    let n = rows.len() * set.len();
                    let (gate, rest) = at_least(y, 3 * n).split_at_mut(n);
                    let (up, out) = rest.split_at_mut(n);
                    self.product(&op.parts[0], rows.clone(), operands, kernels, gate);
                    let (part, up_rows) = match &op.parts[..] {
                        [both] => (both, rows.start + n_rows..rows.end + n_rows),
                        parts => (&parts[1], rows.clone()),
                    };
                    self.product(part, up_rows, operands, kernels, up);
                    if let Some(addend) = op.addend {
                        let up_columns = rows.start + n_rows..rows.end + n_rows;
                        self.add_columns(addend, set, rows.clone(), operands, gate);
                        self.add_columns(addend, set, up_columns, operands, up);
                    }
                    if let Some(clamp) = clamp {
                        clamp.apply(gate, up);
                    }
                    (self.ops.glu)(act, gate, up, out);
                    self.store(op.out, set, ticket, rows, out);
                }
                Epilogue::None | Epilogue::Act(_) => {
                    let mut first = 0;
                    for part in &op.parts {
                        let end = first + part.weight.rows;
                        let columns = ticket.items().start.max(first)..ticket.items().end.min(end);
                        if !columns.is_empty() {
                            let rows = columns.start - first..columns.end - first;
                            let y = at_least(y, rows.len() * set.len());
                            self.product(part, rows, operands, kernels, y);
                            if let Some(addend) = op.addend {
                                self.add_columns(addend, set, columns.clone(), operands, y);
                            }
                            if let Epilogue::Act(act) = op.epilogue {
                                (self.ops.act)(act, y);
                            }
                            self.store(op.out, set, ticket, columns, y);
                        }
                        first = end;
                    }
                }
            }
        });
    }

    /// Every worker packs what it needs of the input: a head is read by one worker alone.
    pub(super) fn head_linear(&self, op: &HeadLinear, scratch: &mut WorkerScratch) {
        let (weight, set) = (&op.weight, self.set(op.rows));
        if set.len() == 0 {
            return;
        }
        let (input, out) = (&self.backend.buffers[op.input.0], &self.backend.buffers[op.out.0]);
        let plan = self.backend.kernels.plan(self.type_kernels(weight).act, weight.cols, set.len());
        let WorkerScratch { kernels, row, y, pack, .. } = scratch;
        self.show_heads(op, set, row);
        self.worker.phase(|phase| {
            let interleaved = self.backend.interleaved.read(phase);
            for mut ticket in phase.tickets(weight.n * op.out_stride, op.out_stride) {
                let head = ticket.items().start / op.out_stride;
                let rows = at_least(row, set.len() * weight.cols);
                for (i, row) in rows.chunks_exact_mut(weight.cols).enumerate() {
                    let x = input.read_row(phase, set.get(i));
                    row.copy_from_slice(&x[head * op.input_stride..][..weight.cols]);
                }
                pack.fill(self.backend.kernels, &plan, rows);
                let acts = FORMATS.map(|format| {
                    let own = &pack.per_format[format_index(format)];
                    (format == plan.format).then(|| own.acts(&plan))
                });
                let operands = Operands { acts, interleaved, phase };
                let y = at_least(y, weight.rows * set.len());
                self.multiply(weight, head, 0..weight.rows, &operands, kernels, y);
                if op.scale != 1.0 {
                    (self.ops.scale)(y, op.scale);
                }
                let first = ticket.items().start;
                for (i, y) in y.chunks_exact(weight.rows).enumerate() {
                    let columns = first..first + weight.rows;
                    out.write_columns(&mut ticket, set.get(i), columns).copy_from_slice(y);
                }
            }
        });
    }

    /// Tells the worker what it reads first of the next product of `ops`.
    pub(super) fn expect_product<'p>(&self, mut ops: impl Iterator<Item = &'p Op>) {
        let ahead = match ops.find(|op| op.products().next().is_some()) {
            Some(Op::Linear(op)) => self.first_bytes(op),
            Some(Op::HeadLinear(op)) => self.first_bytes_of_heads(op),
            // Routing decides.
            _ => Ahead::NONE,
        };
        self.worker.expect(self.backend.kernels.float(), ahead);
    }

    /// Bytes that this worker reads first of a product.
    fn first_bytes(&self, op: &Linear) -> Ahead {
        let n_rows = op.n_rows();
        let mut share = self.worker.share(n_rows, self.chunk_rows(n_rows, self.set(op.rows).len()));
        for Part { weight, .. } in &op.parts {
            if share.start < weight.rows {
                return self.rows_ahead(weight, 0, share.start..share.end.min(weight.rows));
            }
            share = share.start - weight.rows..share.end - weight.rows;
        }
        Ahead::NONE
    }

    /// Bytes that this worker reads first of products of heads.
    fn first_bytes_of_heads(&self, op: &HeadLinear) -> Ahead {
        let share = self.worker.share(op.weight.n * op.out_stride, op.out_stride);
        match share.is_empty() {
            true => Ahead::NONE,
            false => self.rows_ahead(&op.weight, share.start / op.out_stride, 0..op.weight.rows),
        }
    }

    /// The first bytes of rows of matrix `index`, at most [`AHEAD_BYTES`] if a row is no longer.
    fn rows_ahead(&self, weight: &BoundWeight, index: usize, rows: Range<usize>) -> Ahead {
        let n = (AHEAD_BYTES / weight.row_bytes()).max(1);
        let rows = rows.start..rows.end.min(rows.start + n);
        let of_stack = index * weight.rows + rows.start..index * weight.rows + rows.end;
        match self.backend.interleaved.groups(weight, of_stack) {
            Some(groups) => self.backend.interleaved.ahead(groups.bytes),
            None => Ahead::of(weight.rows_of(index, rows)),
        }
    }

    /// Packs the input and deals `n_rows` rows of products of the weights, which share it.
    pub(super) fn products<'w>(
        &self,
        source: Source<'_>,
        weights: impl Iterator<Item = &'w BoundWeight> + Clone,
        n_rows: usize,
        scratch: &mut WorkerScratch,
        mut f: impl FnMut(&Operands<'_>, &mut Ticket<'_>, &mut Scratch, &mut Vec<f32>),
    ) {
        let n_tokens = source.set.len();
        if n_tokens == 0 {
            return;
        }
        let cols = weights.clone().next().expect("a product has weights").cols;
        let plans = FORMATS.map(|format| {
            let wanted = |w: &&BoundWeight| self.type_kernels(w).act == format;
            let mut weights = weights.clone().filter(wanted).peekable();
            weights.peek().is_some().then(|| self.plan(weights, format, cols, n_tokens))
        });
        let plans = || plans.iter().flatten();
        let private = n_tokens <= teff_kernels::ROWS_MAX;
        let WorkerScratch { kernels, row, y, pack, .. } = scratch;
        self.show_input(source, weights.clone(), row);
        if !private {
            self.pack_shared(source, cols, plans, row);
        }
        let chunk = self.chunk_rows(n_rows, n_tokens);
        self.worker.phase(|phase| {
            if private {
                self.read_rows(source, 0..n_tokens, cols, phase, row);
                plans().for_each(|plan| pack.fill(self.backend.kernels, plan, row));
            }
            let acts = FORMATS.map(|format| {
                let plan = plans().find(|plan| plan.format == format)?;
                let index = format_index(format);
                Some(match private {
                    true => pack.per_format[index].acts(plan),
                    false => self.backend.packs[index].acts(plan, phase),
                })
            });
            let interleaved = self.backend.interleaved.read(phase);
            let operands = Operands { acts, interleaved, phase };
            for mut ticket in phase.tickets(n_rows, chunk) {
                f(&operands, &mut ticket, kernels, y);
            }
        });
    }

    /// The layout of inputs of weights.
    pub(super) fn plan<'w>(
        &self,
        weights: impl Iterator<Item = &'w BoundWeight>,
        format: ActFormat,
        cols: usize,
        n_tokens: usize,
    ) -> ActPlan {
        let CpuBackend { kernels, interleaved, .. } = self.backend;
        let mut all_done = true;
        let weights = weights.inspect(|weight| all_done &= interleaved.is_done(weight));
        let types = weights.map(|weight| self.type_kernels(weight));
        let of_file = kernels.plan_of(types, format, cols, n_tokens);
        match all_done {
            true => kernels.plan_interleaved(format, cols, n_tokens),
            false => of_file,
        }
    }

    /// Operands for products of weights with the tokens of `plans`, the first of which is token
    /// `first` of the packed ones.
    pub(super) fn operands<'a>(
        &'a self,
        packed: Packed<'a>,
        plans: &'a [Option<ActPlan>; FORMATS.len()],
        first: usize,
        phase: &'a Phase<'a>,
    ) -> Operands<'a> {
        let acts = FORMATS.map(|format| {
            let index = format_index(format);
            let plan = plans[index].as_ref()?;
            Some(match packed {
                Packed::Private(pack) => {
                    let OwnedPack { q, d, s, x } = &pack.per_format[index];
                    acts_from(plan, first, (q, d, s, x))
                }
                Packed::Shared(packs) => packs[index].acts_from(plan, first, phase),
            })
        });
        Operands { acts, interleaved: self.backend.interleaved.read(phase), phase }
    }

    /// `y = scale * W x + bias` for rows `rows`, `[tokens][rows]`.
    pub(super) fn product(
        &self,
        part: &Part,
        rows: Range<usize>,
        operands: &Operands<'_>,
        scratch: &mut Scratch,
        y: &mut [f32],
    ) {
        let bias = part.bias.as_ref().map(|bias| &bias[rows.clone()]);
        let n = rows.len();
        self.multiply(&part.weight, 0, rows, operands, scratch, y);
        if part.scale != 1.0 {
            (self.ops.scale)(y, part.scale);
        }
        if let Some(bias) = bias {
            y.chunks_exact_mut(n).for_each(|y| (self.ops.add)(y, bias));
        }
    }

    /// `y = W x` for rows `rows` of matrix `index`, `[tokens][rows]`.
    pub(super) fn multiply(
        &self,
        weight: &BoundWeight,
        index: usize,
        rows: Range<usize>,
        operands: &Operands<'_>,
        scratch: &mut Scratch,
        y: &mut [f32],
    ) {
        let kernels = self.type_kernels(weight);
        let acts = operands.acts[format_index(kernels.act)].as_ref();
        let acts = acts.expect("packed for every weight");
        let of_stack = index * weight.rows + rows.start..index * weight.rows + rows.end;
        match self.backend.interleaved.groups(weight, of_stack.clone()) {
            Some(groups) => {
                let (kernels, groups) = (groups.kernels, &operands.interleaved[groups.bytes]);
                kernels.matmul_interleaved(groups, of_stack, acts, scratch, y);
            }
            None => {
                let n = rows.len();
                kernels.matmul(weight.rows_of(index, rows), n, acts, scratch, y);
            }
        }
    }

    /// Adds columns of a buffer to products `[set][columns]`.
    fn add_columns(
        &self,
        addend: Buf,
        set: TokenSet<'_>,
        columns: Range<usize>,
        operands: &Operands<'_>,
        y: &mut [f32],
    ) {
        let addend = &self.backend.buffers[addend.0];
        for (i, y) in y.chunks_exact_mut(columns.len()).enumerate() {
            let row = addend.read_row(operands.phase, set.get(i));
            (self.ops.add)(y, &row[columns.clone()]);
        }
    }

    /// Puts products `[set][columns]` where the operation wants them.
    fn store(
        &self,
        out: Output,
        set: TokenSet<'_>,
        ticket: &mut Ticket<'_>,
        columns: Range<usize>,
        y: &mut [f32],
    ) {
        for (i, y) in y.chunks_exact_mut(columns.len()).enumerate() {
            match out {
                Output::Store(buf) => {
                    let out = &self.backend.buffers[buf.0];
                    out.write_columns(ticket, set.get(i), columns.clone()).copy_from_slice(y);
                }
                Output::Add(buf, scale) => {
                    let out = &self.backend.buffers[buf.0];
                    let out = out.write_columns(ticket, set.get(i), columns.clone());
                    (self.ops.add_scaled)(out, y, scale);
                }
                Output::Logits { scale, softcap } => {
                    if scale != 1.0 {
                        (self.ops.scale)(y, scale);
                    }
                    if let Some(cap) = softcap {
                        (self.ops.soft_cap)(y, cap);
                    }
                    let CpuBackend { results, maxima, .. } = self.backend;
                    results.write_columns(ticket, i, columns.clone()).copy_from_slice(y);
                    if self.input.maxima {
                        let blocks = columns.start / MAX_BLOCK..columns.end.div_ceil(MAX_BLOCK);
                        block_max(y, maxima.write_blocks(ticket, i, blocks, MAX_BLOCK));
                    }
                }
            }
        }
    }

    /// Rows of a chunk, for a product with `n_tokens` tokens.
    pub(super) fn chunk_rows(&self, n_rows: usize, n_tokens: usize) -> usize {
        let even = n_rows.div_ceil(self.worker.n_threads() * CHUNKS_PER_THREAD);
        let (step, most) = chunk_limits(n_tokens);
        even.next_multiple_of(step).min(most)
    }

    pub(super) fn type_kernels(&self, weight: &Weight) -> &'static teff_kernels::TypeKernels {
        self.backend.kernels.types(weight.ty).expect("the backend was made for these types")
    }

    /// Packs the input into the shared buffers: a phase of its own, eight tokens a ticket.
    fn pack_shared<'p, P: Iterator<Item = &'p ActPlan>>(
        &self,
        source: Source<'_>,
        cols: usize,
        plans: impl Fn() -> P,
        row: &mut Vec<f32>,
    ) {
        let n = source.set.len();
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(n.div_ceil(PANEL_TOKENS), 1) {
                let first = ticket.items().start * PANEL_TOKENS;
                let tokens = first..n.min(first + PANEL_TOKENS);
                self.read_rows(source, tokens.clone(), cols, phase, row);
                for plan in plans() {
                    let packs = &self.backend.packs[format_index(plan.format)];
                    packs.fill(self.backend.kernels, plan, tokens.clone(), row, &mut ticket);
                }
            }
        });
    }

    /// Copies input rows `tokens` of the source, normalized, to `out`.
    pub(super) fn read_rows(
        &self,
        source: Source<'_>,
        tokens: Range<usize>,
        cols: usize,
        phase: &Phase<'_>,
        out: &mut Vec<f32>,
    ) {
        let out = at_least(out, tokens.len() * cols);
        for (i, out) in tokens.zip(out.chunks_exact_mut(cols)) {
            let x = &source.buffer.read_row(phase, source.set.get(i))[..cols];
            match source.norm {
                Some(norm) => self.normalize(norm, x, out),
                None => out.copy_from_slice(x),
            }
        }
    }
}
