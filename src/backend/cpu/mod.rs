//! The CPU backend: runs a [`Program`] with all workers of a pool, one phase per operation.
//!
//! Bits do not depend on the number of threads or on how tokens are batched: what a worker computes
//! for one token and one output is a function of that token's inputs alone, in a fixed order.

mod attention;
mod gathered;
mod interleaved;
mod matmul;
mod memory;
mod moe;
mod observe;
mod pages;
mod pool;
mod recurrent;
mod rope_kv;
mod states;
mod streams;
pub mod topology;

pub use gathered::Cpu;
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
pub use gathered::Gathered;
pub(crate) use pool::LEN_MAX;
pub use pool::MAX_THREADS;

use super::pages::CacheOp;
use super::program::{BoundWeight, Buf, CopyPieces, Norm, NormKind, Op, Program, Tokens};
use super::{BackendOptions, Observer, Results, StepInput, Unfinished};
use crate::tensor::memory::{OutOfMemory, reserve};
use crate::workers::Workers;
use observe::WithObserver;
use pages::Arena;
use pool::{Leader, Phase, Shared, Worker};
use states::States;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use teff_kernels::{ActFormat, FloatOps, KernelTable, MAX_BLOCK, Scratch};

/// The tokens that an operation computes.
#[derive(Clone, Copy)]
struct TokenSet<'a> {
    outputs: Option<&'a [u32]>,
    n_tokens: usize,
}

impl TokenSet<'_> {
    fn len(&self) -> usize {
        self.outputs.map_or(self.n_tokens, <[u32]>::len)
    }

    /// Batch index of the `i`-th token of the set.
    fn get(&self, i: usize) -> usize {
        self.outputs.map_or(i, |list| list[i] as usize)
    }

    /// Place of a token in the set.
    fn position(&self, token: usize) -> Option<usize> {
        self.outputs.map_or(Some(token), |list| list.binary_search(&(token as u32)).ok())
    }

    fn contains(&self, token: usize) -> bool {
        self.position(token).is_some()
    }
}

/// Activations packed for one format, and the room for them.
struct PackBuffers {
    q: Shared<i8>,
    d: Shared<f32>,
    s: Shared<i16>,
    x: Shared<f32>,
}

impl PackBuffers {
    /// Buffers for each of [`FORMATS`], of so many elements.
    fn of_formats(
        what: &'static str,
        lens: [[usize; 4]; FORMATS.len()],
    ) -> Result<[PackBuffers; FORMATS.len()], OutOfMemory> {
        let of = |[q, d, s, x]: [usize; 4]| {
            let (q, d) = (Shared::new(what, 1, q)?, Shared::new(what, 1, d)?);
            Ok(PackBuffers { q, d, s: Shared::new(what, 1, s)?, x: Shared::new(what, 1, x)? })
        };
        let [first, second] = lens;
        Ok([of(first)?, of(second)?])
    }
}

/// Memory that belongs to one worker.
struct WorkerScratch {
    kernels: Scratch,
    /// Normalized input rows.
    row: Vec<f32>,
    /// Products before they are stored.
    y: Vec<f32>,
    /// Rows of a table that are in their native order again.
    group: Vec<u8>,
    attention: attention::Scratch,
    rope_kv: rope_kv::Scratch,
    pack: matmul::PrivatePack,
    moe: moe::Scratch,
    recurrent: recurrent::Scratch,
}

/// A program with its buffers.
struct CpuBackend {
    kernels: &'static KernelTable,
    program: Arc<Program>,
    /// Keys and values.
    arena: Arena,
    states: States,
    buffers: Vec<Shared<f32>>,
    /// Per token: cosines, then sines.
    ropes: Vec<Shared<f32>>,
    results: Shared<f32>,
    /// Maxima of blocks of logits.
    maxima: Shared<f32>,
    packs: [PackBuffers; FORMATS.len()],
    moe: moe::Buffers,
    interleaved: interleaved::Interleaved,
    /// Whether decoding may interleave weights.
    #[cfg(any(feature = "gpu", target_vendor = "apple"))]
    repacks: bool,
    /// Tiles of the current step.
    tiles: attention::Tiles,
    /// Attention's results that are yet to be merged.
    partials: Shared<f32>,
    scratch: Vec<Mutex<WorkerScratch>>,
    max_tokens: usize,
    max_outputs: usize,
}

/// The formats in the order of `CpuBackend::packs`.
const FORMATS: [ActFormat; 2] = [ActFormat::F32, ActFormat::Q8x32];

fn format_index(format: ActFormat) -> usize {
    FORMATS.iter().position(|&f| f == format).expect("FORMATS lists every format")
}

/// The first `n` elements of a scratch buffer that only grows, whatever they hold.
fn at_least<T: Copy + Default>(scratch: &mut Vec<T>, n: usize) -> &mut [T] {
    if scratch.len() < n {
        resize(scratch, n);
    }
    &mut scratch[..n]
}

/// Makes a worker's scratch buffer `n` elements long; new ones are default values. Without memory
/// the worker leaves the job, and [`CpuBackend::run`] gives the error.
fn resize<T: Copy + Default>(scratch: &mut Vec<T>, n: usize) {
    if scratch.capacity() < n
        && let Err(error) = reserve(scratch, n, "a worker's part of a step")
    {
        // No panic of the program: nobody is told but `CpuBackend::run`.
        resume_unwind(Box::new(error));
    }
    scratch.resize(n, T::default());
}

/// State that the phases of a step share.
struct Context<'a> {
    backend: &'a CpuBackend,
    ops: &'a FloatOps,
    input: &'a StepInput<'a>,
    arena: &'a Arena,
    worker: &'a Worker<'a>,
    /// Sees the inputs of products, if there is one.
    observer: Option<&'a WithObserver<'a>>,
}

impl<'a> Context<'a> {
    fn set(&self, rows: Tokens) -> TokenSet<'a> {
        TokenSet {
            outputs: (rows == Tokens::Outputs).then_some(self.input.outputs),
            n_tokens: self.input.tokens.len(),
        }
    }
}

impl CpuBackend {
    /// Buffers for steps as large as `options` say, and teams of at most `max_threads` workers, to run
    /// the operations for which `is_here` holds.
    /// Large buffers take real memory only when touched. With `repack`, decoding interleaves the
    /// weights bit by bit.
    ///
    /// # Errors
    /// The system has no memory for the buffers.
    ///
    /// # Panics
    /// If a weight's type has no kernel: [`KernelTable::types`] was to be asked first.
    fn new(
        program: Arc<Program>,
        options: &BackendOptions,
        max_threads: usize,
        is_here: &dyn Fn(usize) -> bool,
    ) -> Result<CpuBackend, OutOfMemory> {
        let &BackendOptions { kernels, max_tokens, max_outputs, .. } = options;
        let interleaved = match options.repack {
            true => interleaved::Interleaved::plan(kernels, &program, is_here),
            false => interleaved::Interleaved::none(),
        };
        let pack_lens =
            FORMATS.map(|format| matmul::pack_lens(kernels, &program, format, max_tokens));
        let buffers = program.widths.iter().map(|&w| Shared::new("activations", max_tokens, w));
        let ropes = program.ropes.iter().map(|rope| {
            Shared::new("cosines and sines of positions", max_tokens, 2 * rope.inv_freq.len())
        });
        let n_maxima = program.n_out.div_ceil(MAX_BLOCK);
        let scratch = (0..max_threads.max(1)).map(|_| {
            Mutex::new(WorkerScratch {
                kernels: Scratch::default(),
                row: Vec::new(),
                y: Vec::new(),
                group: Vec::new(),
                attention: attention::Scratch::default(),
                rope_kv: rope_kv::Scratch::default(),
                pack: matmul::PrivatePack::default(),
                moe: moe::Scratch::default(),
                recurrent: recurrent::Scratch::default(),
            })
        });
        Ok(CpuBackend {
            kernels,
            buffers: buffers.collect::<Result<_, _>>()?,
            ropes: ropes.collect::<Result<_, _>>()?,
            results: Shared::new("rows of results", max_outputs, program.n_out)?,
            maxima: Shared::new("maxima of logits", max_outputs, n_maxima)?,
            packs: PackBuffers::of_formats("packed inputs of products", pack_lens)?,
            moe: moe::Buffers::new(kernels, &program, max_tokens)?,
            tiles: attention::Tiles::new(&program),
            partials: Shared::empty(),
            scratch: scratch.collect(),
            interleaved,
            #[cfg(any(feature = "gpu", target_vendor = "apple"))]
            repacks: options.repack,
            arena: Arena::new(options.kv_type, &program.kv, &program.stored_by(is_here)),
            states: States::new(&program.states),
            program,
            max_tokens,
            max_outputs,
        })
    }

    /// Runs all operations from now on. Pages and states hold anything then; decoding begins anew to
    /// interleave, without those weights that there is no memory for.
    #[cfg(any(feature = "gpu", target_vendor = "apple"))]
    fn take_over(&mut self) {
        self.arena.take_all(&self.program.kv);
        if self.repacks {
            // Those that are interleaved go first: their memory may be wanted.
            self.interleaved = interleaved::Interleaved::none();
            self.interleaved =
                interleaved::Interleaved::plan(self.kernels, &self.program, &|_| true);
        }
    }

    fn program(&self) -> &Arc<Program> {
        &self.program
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn max_outputs(&self) -> usize {
        self.max_outputs
    }

    /// Bytes of weights that are interleaved now, and of those that will be.
    fn interleaved_bytes(&self) -> [usize; 2] {
        self.interleaved.bytes()
    }

    fn lock_weights(&self) -> std::io::Result<()> {
        self.interleaved.lock()
    }

    fn results<'a>(&'a mut self, workers: &'a dyn Workers) -> Results<'a> {
        let n_out = self.results.width();
        Results { rows: self.results.get_mut(), maxima: self.maxima.get_mut(), n_out, workers }
    }

    /// Changes the cache and makes what the step fills.
    fn prepare(&mut self, ops: &[CacheOp], input: &StepInput<'_>) -> Result<(), OutOfMemory> {
        for op in ops {
            match *op {
                CacheOp::CopyPage { group, from, to } => self.arena.copy(group, from, to)?,
                CacheOp::CopyStates { from, to } => self.states.copy(from, to)?,
                CacheOp::ClearStates(slot) => self.states.clear(slot)?,
            }
        }
        self.arena.make_filled(input.fills)
    }

    /// Computes a range of the program for one step.
    fn run(
        &mut self,
        leader: &Leader<'_>,
        ops: Range<usize>,
        input: &StepInput<'_>,
        cancel: Option<&AtomicBool>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<(), Unfinished> {
        assert!(input.tokens.len() <= self.max_tokens && input.outputs.len() <= self.max_outputs);
        assert!(input.tokens.len() == input.positions.len());
        assert!(input.tokens.len() == input.sequence.len());
        assert!(leader.n_threads() <= self.scratch.len());
        let decoding = input.tokens.len() <= teff_kernels::ROWS_MAX;
        let batch = if decoding { self.interleaved.next_batch() } else { Vec::new() };
        self.tiles.set(input);
        let n = attention::partials_len(&self.program, input, &self.tiles, leader.n_threads());
        if self.partials.width() < n {
            // Freed first: its elements are of no use.
            self.partials = Shared::empty();
            let what = "partial results of attention";
            self.partials = Shared::new(what, 1, n.next_power_of_two())?;
        }
        self.arena.set_fills(input.fills);
        let stop = Stop::new(cancel);
        let observer = observer.map(observe::shared);
        let backend = &*self;
        run_job(leader, &|worker| {
            let mut scratch =
                backend.scratch[worker.index()].lock().unwrap_or_else(PoisonError::into_inner);
            let ops_of_level = backend.kernels.float();
            let arena = &backend.arena;
            let observer = observer.as_ref().map(|shared| shared as &WithObserver<'_>);
            let cx = Context { backend, ops: ops_of_level, input, arena, worker, observer };
            cx.fill_ropes();
            let program = &backend.program.ops;
            for (i, op) in ops.clone().zip(&program[ops.clone()]) {
                if decoding && matches!(op, Op::Linear(_)) {
                    cx.expect_product(program[i + 1..].iter().chain(program));
                }
                let is_check = Stop::is_check(op);
                if is_check {
                    stop.look(worker, i);
                }
                cx.run(op, &mut scratch);
                if is_check && stop.at(i) {
                    return;
                }
            }
            batch.iter().for_each(|part| cx.interleave(part));
        })?;
        if stop.is_decided() {
            return Err(Unfinished::Cancelled);
        }
        self.interleaved.finish(&batch);
        Ok(())
    }
}

/// Runs a job on the leader's workers.
///
/// # Errors
/// A worker had no memory for its part, see [`resize`].
fn run_job(leader: &Leader<'_>, job: &(dyn Fn(&Worker<'_>) + Sync)) -> Result<(), OutOfMemory> {
    catch_unwind(AssertUnwindSafe(|| leader.run(job))).map_err(|payload| {
        match payload.downcast::<OutOfMemory>() {
            Ok(error) => *error,
            Err(payload) => resume_unwind(payload),
        }
    })
}

/// The decision to leave a step early, which all workers take behind the same operation.
///
/// The leader looks at the caller's flag right before an operation that has a phase whatever the
/// step, and writes down that operation's number. The barrier of the phase hands the number to the
/// others, who compare it with their own when they are through. A leader that is ahead of them by
/// then may have written the number of a later operation: they do not stop here, but there, as the
/// leader does. So there is no barrier of its own, and without a flag no cost.
struct Stop<'a> {
    cancel: Option<&'a AtomicBool>,
    /// The operation behind which the step ends; `usize::MAX` for none.
    behind: AtomicUsize,
}

impl<'a> Stop<'a> {
    fn new(cancel: Option<&'a AtomicBool>) -> Stop<'a> {
        Stop { cancel, behind: AtomicUsize::new(usize::MAX) }
    }

    /// Whether the flag is looked at before the operation. Every layer whose tokens see each other
    /// has one of these, and all workers enter a phase of it.
    fn is_check(op: &Op) -> bool {
        matches!(op, Op::RopeKv(_) | Op::Conv(_) | Op::Scan(_))
    }

    /// Looks at the flag before operation `i`, if the worker is the leader.
    fn look(&self, worker: &Worker<'_>, i: usize) {
        let is_leader = worker.index() == 0;
        let is_set = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if is_leader && !self.is_decided() && self.cancel.is_some_and(is_set) {
            self.behind.store(i, Ordering::Relaxed);
        }
    }

    /// Whether the step ends behind operation `i`.
    fn at(&self, i: usize) -> bool {
        self.cancel.is_some() && self.behind.load(Ordering::Relaxed) <= i
    }

    fn is_decided(&self) -> bool {
        self.behind.load(Ordering::Relaxed) != usize::MAX
    }
}

impl Context<'_> {
    /// [`Op::Embed`]
    fn embed(
        &self,
        table: &BoundWeight,
        scale: f32,
        addend: Option<&[f32]>,
        positions: Option<&BoundWeight>,
        out: Buf,
        scratch: &mut WorkerScratch,
    ) {
        let kernels = self.backend.kernels.types(table.ty).expect("checked at load");
        let out = &self.backend.buffers[out.0];
        self.worker.phase(|phase| {
            let interleaved = self.backend.interleaved.read(phase);
            for mut ticket in phase.tickets(self.input.tokens.len(), 1) {
                let item = ticket.items().start;
                let token = self.input.tokens[item] as usize;
                let row = out.write_cells(&mut ticket, table.cols);
                match self.backend.interleaved.groups(table, token..token + 1) {
                    Some(groups) => {
                        // Its pages of the file have been given back.
                        let (group, bytes) = (&interleaved[groups.bytes], table.row_bytes());
                        let rows = &mut scratch.group;
                        groups.kernels.dequantize_lane(group, bytes, token, rows, row);
                    }
                    None => kernels.dequantize(table.rows_of(0, token..token + 1), row),
                }
                if scale != 1.0 {
                    (self.ops.scale)(row, scale);
                }
                if let Some(addend) = addend {
                    (self.ops.add)(row, addend);
                }
                if let Some(table) = positions {
                    let at = self.input.positions[item] as usize;
                    let kernels = self.type_kernels(table);
                    let added = at_least(&mut scratch.row, table.cols);
                    kernels.dequantize(table.rows_of(0, at..at + 1), added);
                    (self.ops.add)(row, added);
                }
            }
        });
    }

    /// [`Op::AddNorm`]
    fn add_norm(
        &self,
        input: Buf,
        norm: &Norm,
        scale: f32,
        out: Buf,
        rows: Tokens,
        scratch: &mut WorkerScratch,
    ) {
        let (input, out) = (&self.backend.buffers[input.0], &self.backend.buffers[out.0]);
        let set = self.set(rows);
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.n_tokens, 1) {
                let token = ticket.items().start;
                if set.contains(token) {
                    let row = at_least(&mut scratch.row, input.width());
                    self.normalize(norm, input.read_row(phase, token), row);
                    let out = out.write_cells(&mut ticket, out.width());
                    (self.ops.add_scaled)(out, row, scale);
                }
            }
        });
    }

    fn run(&self, op: &Op, scratch: &mut WorkerScratch) {
        match op {
            Op::Embed { table, scale, addend, positions, out } => {
                self.embed(table, *scale, addend.as_deref(), positions.as_ref(), *out, scratch);
            }
            Op::Normalize { buf, norm, rows } => {
                self.change(*buf, *rows, |_, _, row| {
                    let x = at_least(&mut scratch.row, row.len());
                    x.copy_from_slice(row);
                    self.normalize(norm, x, row);
                });
            }
            Op::Scale { buf, factors, rows } => self.change(*buf, *rows, |_, _, row| {
                row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
            }),
            Op::Xielu { buf, f, rows } => self.change(*buf, *rows, |_, _, row| {
                row.iter_mut().for_each(|x| *x = f.at(*x));
            }),
            Op::MulBroadcast { gate, buf, rows } => {
                let gate = &self.backend.buffers[gate.0];
                self.change(*buf, *rows, |phase, token, row| {
                    let n = row.len() / gate.width();
                    for (x, factor) in row.chunks_exact_mut(n).zip(gate.read_row(phase, token)) {
                        x.iter_mut().for_each(|x| *x *= factor);
                    }
                });
            }
            Op::Linear(op) => self.linear(op, scratch),
            Op::HeadLinear(op) => self.head_linear(op, scratch),
            Op::CopyPieces(op) => self.copy_pieces(op),
            Op::RopeKv(op) => self.rope_kv(op, scratch),
            Op::Attention(op) => self.attention(op, scratch),
            Op::AddNorm { input, norm, scale, out, rows } => {
                self.add_norm(*input, norm, *scale, *out, *rows, scratch);
            }
            Op::Conv(op) => self.conv(op, scratch),
            Op::Scan(op) => self.scan(op, scratch),
            Op::Sparsify { buf, deviations, rows } => {
                self.change(*buf, *rows, |_, _, row| streams::sparsify(row, *deviations));
            }
            Op::MatchLength { to, buf, rows } => {
                let to = &self.backend.buffers[to.0];
                self.change(*buf, *rows, |phase, token, row| {
                    self.match_length(to.read_row(phase, token), row);
                });
            }
            Op::MixStreams(op) => self.mix_streams(op, scratch),
            Op::Add { input, out, from, rows } => {
                let input = &self.backend.buffers[input.0];
                self.change(*out, *rows, |phase, token, row| {
                    for part in row[*from..].chunks_exact_mut(input.width()) {
                        (self.ops.add)(part, input.read_row(phase, token));
                    }
                });
            }
            Op::Moe(op) => self.moe(op, scratch),
            Op::Result { input, norm } => {
                let (input, out) = (&self.backend.buffers[input.0], &self.backend.results);
                let set = self.set(Tokens::Outputs);
                self.worker.phase(|phase| {
                    for mut ticket in phase.tickets(set.len(), 1) {
                        let x = input.read_row(phase, set.get(ticket.items().start));
                        let row = out.write_cells(&mut ticket, out.width());
                        match norm {
                            Some(norm) => self.normalize(norm, x, row),
                            None => row.copy_from_slice(x),
                        }
                    }
                });
            }
        }
    }

    fn copy_pieces(&self, op: &CopyPieces) {
        self.change(op.out, op.rows, |phase, token, row| {
            for piece in &op.pieces {
                let input = self.backend.buffers[piece.input.0].read_row(phase, token);
                for i in 0..piece.n {
                    let x = &input[piece.from + i * piece.from_stride..][..piece.len];
                    let out = &mut row[piece.to + i * piece.to_stride..][..piece.len];
                    match &piece.norm {
                        Some(norm) => self.normalize(norm, x, out),
                        None => out.copy_from_slice(x),
                    }
                    if let Some(act) = piece.act {
                        (self.ops.act)(act, out);
                    }
                }
            }
        });
    }

    /// A phase that changes rows of a buffer one by one: `f(phase, token, row)`.
    fn change(&self, buf: Buf, rows: Tokens, mut f: impl FnMut(&Phase<'_>, usize, &mut [f32])) {
        let (buffer, set) = (&self.backend.buffers[buf.0], self.set(rows));
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(set.n_tokens, 1) {
                let token = ticket.items().start;
                if set.contains(token) {
                    f(phase, token, buffer.write_cells(&mut ticket, buffer.width()));
                }
            }
        });
    }

    fn normalize(&self, norm: &Norm, x: &[f32], out: &mut [f32]) {
        let (weight, bias) = (norm.weight.as_deref(), norm.bias.as_deref());
        match norm.kind {
            NormKind::Rms => {
                (self.ops.rms_norm)(x, weight, norm.eps, out);
                if let Some(bias) = bias {
                    (self.ops.add)(out, bias);
                }
            }
            NormKind::Layer => (self.ops.layer_norm)(x, weight, bias, norm.eps, out),
        }
    }

    /// Cosines and sines of the batch's positions. The angle is taken in f64: at position 100,000
    /// an f32 product is off by a hundredth of a radian.
    fn fill_ropes(&self) {
        for (rope, table) in self.backend.program.ropes.iter().zip(&self.backend.ropes) {
            self.worker.phase(|phase| {
                for mut ticket in phase.tickets(self.input.tokens.len(), 1) {
                    let position = f64::from(self.input.positions[ticket.items().start]);
                    let row = table.write_cells(&mut ticket, table.width());
                    let (cos, sin) = row.split_at_mut(rope.inv_freq.len());
                    for ((cos, sin), &freq) in cos.iter_mut().zip(sin).zip(&rope.inv_freq) {
                        let (s, c) = (position * freq).sin_cos();
                        *cos = c as f32 * rope.magnitude;
                        *sin = s as f32 * rope.magnitude;
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pool::Pool;
    use super::*;

    #[test]
    fn a_worker_without_memory_ends_the_job_with_an_error() {
        let pool = Pool::new(2).unwrap();
        pool.lead(|leader| {
            let too_much = |worker: &Worker<'_>| {
                worker.phase(|_| {
                    if worker.index() + 1 == worker.n_threads() {
                        resize(&mut Vec::<f32>::new(), usize::MAX / 8);
                    }
                });
                worker.phase(|_| ());
            };
            let error = run_job(leader, &too_much).unwrap_err();
            assert_eq!(error.bytes, usize::MAX / 8 * 4, "{error}");
            run_job(leader, &|worker| worker.phase(|_| ())).unwrap();
            // Other panics go on as they are.
            let job = || run_job(leader, &|_| panic!("of another kind"));
            let payload = catch_unwind(AssertUnwindSafe(job)).unwrap_err();
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"of another kind"));
        });
    }
}
