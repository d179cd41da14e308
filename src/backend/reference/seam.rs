//! The naive backend behind the seam: pages and states by their numbers, the sequences of a batch
//! one after the other.
//!
//! The second implementation of [`Backend`] and [`Executor`]: what the rooms above rely on is what
//! both do. Pages hold f32, whatever the options say. A sequence's keys and values are copied out of
//! its pages before a step and back behind it, so a step that is cancelled changes none; what a
//! window has passed reads as NaN.

use super::{RefSequence, Shown, Step};
use crate::backend::pages::{CacheOp, LayerGroup, PAGE_TOKENS, PageId, StateSlot};
use crate::backend::program::{Buf, KvShape, Program};
use crate::backend::{Backend, Executor, Observer, Results, StepInput, Unfinished};
use crate::workers::Alone;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use teff_kernels::MAX_BLOCK;
use teff_kernels::float::block_max;

/// Keys and values of [`PAGE_TOKENS`] tokens in a layer, `[slots][n_kv_heads][dim]` each.
#[derive(Clone, Debug)]
struct Page {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Page {
    /// A page that holds nothing yet.
    fn new(shape: &KvShape) -> Page {
        let [k, v] = widths(shape);
        Page { keys: vec![f32::NAN; PAGE_TOKENS * k], values: vec![f32::NAN; PAGE_TOKENS * v] }
    }
}

/// Elements of a token's keys and values in a layer.
fn widths(shape: &KvShape) -> [usize; 2] {
    [shape.n_kv_heads * shape.k_dim, shape.n_kv_heads * shape.v_dim]
}

/// Places of a page's keys in the order `[n_kv_heads][k_dim][slots]`, each with its slot.
fn lanes(shape: &KvShape) -> impl Iterator<Item = (usize, usize)> + use<> {
    let n = shape.n_kv_heads * shape.k_dim;
    (0..n).flat_map(move |i| (0..PAGE_TOKENS).map(move |slot| (slot * n + i, slot)))
}

/// Places of a page's values in the order `[n_kv_heads][slots][v_dim]`, each with its slot.
fn rows(shape: &KvShape) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (n, dim) = (shape.n_kv_heads * shape.v_dim, shape.v_dim);
    let heads = 0..shape.n_kv_heads;
    heads.flat_map(move |head| {
        (0..PAGE_TOKENS * dim).map(move |i| (i / dim * n + head * dim + i % dim, i / dim))
    })
}

/// A program that is run in plain loops, with the memory of its cache.
pub struct RefBackend {
    program: Arc<Program>,
    groups: Vec<LayerGroup>,
    /// By layer and number.
    pages: HashMap<(usize, PageId), Page>,
    /// All states of a sequence, by slot.
    states: HashMap<StateSlot, Vec<Vec<f32>>>,
    max_tokens: usize,
    max_outputs: usize,
    /// Rows of the last step.
    results: Vec<f32>,
    /// Maxima of their blocks.
    maxima: Vec<f32>,
}

impl RefBackend {
    /// A backend for a program that [`Program::check`] accepts.
    pub fn new(program: Program, max_tokens: usize, max_outputs: usize) -> RefBackend {
        RefBackend {
            groups: LayerGroup::of_layers(&program.kv),
            program: Arc::new(program),
            pages: HashMap::new(),
            states: HashMap::new(),
            max_tokens,
            max_outputs,
            results: Vec::new(),
            maxima: Vec::new(),
        }
    }

    /// Group of a layer.
    fn group_of(&self, layer: usize) -> usize {
        let is_of = |group: &LayerGroup| group.layers.contains(&layer);
        self.groups.iter().position(is_of).expect("every layer is in a group")
    }

    /// Cache of a sequence of `len` tokens, from its table of pages and its slot.
    fn gather(
        &self,
        table: &[Vec<Option<PageId>>],
        slot: Option<&StateSlot>,
        len: usize,
    ) -> RefSequence {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (layer, shape) in self.program.kv.iter().enumerate() {
            let [k, v] = widths(shape);
            let (mut of_keys, mut of_values) = (Vec::new(), Vec::new());
            for position in 0..len {
                let (page, slot) = (position / PAGE_TOKENS, position % PAGE_TOKENS);
                let id = table[self.group_of(layer)].get(page).copied().flatten();
                match id.map(|id| &self.pages[&(layer, id)]) {
                    Some(page) => {
                        of_keys.extend_from_slice(&page.keys[slot * k..][..k]);
                        of_values.extend_from_slice(&page.values[slot * v..][..v]);
                    }
                    None => {
                        of_keys.resize(of_keys.len() + k, f32::NAN);
                        of_values.resize(of_values.len() + v, f32::NAN);
                    }
                }
            }
            keys.push(of_keys);
            values.push(of_values);
        }
        let states = match slot.filter(|_| !self.program.states.is_empty()) {
            Some(slot) => self.states[slot].clone(),
            None => Vec::new(),
        };
        RefSequence { keys, values, states, len }
    }

    /// Stores what the step of the batch tokens `tokens` has added to its sequence.
    fn scatter(&mut self, input: &StepInput<'_>, tokens: &Range<usize>, step: &Step<'_>) {
        for fill in input.fills.iter().filter(|fill| tokens.contains(&fill.token)) {
            for &layer in &self.groups[fill.group].layers {
                let shape = &self.program.kv[layer];
                let [k, v] = widths(shape);
                let page = self.pages.entry((layer, fill.page)).or_insert_with(|| Page::new(shape));
                let at = step.first + fill.token - tokens.start;
                let (keys, values) = (&step.sequence.keys[layer], &step.sequence.values[layer]);
                page.keys[fill.slot * k..][..fill.n * k]
                    .copy_from_slice(&keys[at * k..][..fill.n * k]);
                page.values[fill.slot * v..][..fill.n * v]
                    .copy_from_slice(&values[at * v..][..fill.n * v]);
            }
        }
        if !self.program.states.is_empty() {
            let slot = input.states[input.sequence[tokens.start] as usize];
            self.states.insert(slot, step.sequence.states.clone());
        }
    }

    fn change(&mut self, op: CacheOp) {
        match op {
            CacheOp::CopyPage { group, from, to } => {
                for &layer in &self.groups[group].layers {
                    let page = self.pages[&(layer, from)].clone();
                    self.pages.insert((layer, to), page);
                }
            }
            CacheOp::CopyStates { from, to } => {
                let states = self.states[&from].clone();
                self.states.insert(to, states);
            }
            CacheOp::ClearStates(slot) => {
                let zeros = self.program.states.iter().map(|&len| vec![0.0; len]);
                self.states.insert(slot, zeros.collect());
            }
        }
    }
}

impl Backend for RefBackend {
    fn program(&self) -> &Arc<Program> {
        &self.program
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    fn max_outputs(&self) -> usize {
        self.max_outputs
    }

    fn n_threads(&self) -> usize {
        1
    }

    /// Nothing is made of the weights.
    fn lock_weights(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn lead(&mut self, f: &mut (dyn FnMut(&mut dyn Executor) + Send)) {
        let program = self.program.clone();
        f(&mut RefExecutor { program: &program, backend: self, steps: Vec::new() });
    }
}

/// The naive backend while it makes steps.
struct RefExecutor<'a> {
    program: &'a Program,
    backend: &'a mut RefBackend,
    /// The current step: its part for each sequence, and the batch tokens of that.
    steps: Vec<(Range<usize>, Step<'a>)>,
}

impl RefExecutor<'_> {
    /// Begins a step.
    fn begin(&mut self, input: &StepInput<'_>) {
        assert!(input.tokens.len() <= self.backend.max_tokens, "the batch is too large");
        assert!(input.outputs.len() <= self.backend.max_outputs, "too many results are wanted");
        self.steps.clear();
        let mut start = 0;
        for run in input.sequence.chunk_by(|a, b| a == b) {
            let tokens = start..start + run.len();
            start = tokens.end;
            let number = run[0] as usize;
            let first = input.positions[tokens.start] as usize;
            let slot = input.states.get(number);
            let sequence = self.backend.gather(input.tables[number], slot, first);
            let outputs = input.outputs.iter().map(|&token| token as usize);
            let outputs = outputs.filter(|token| tokens.contains(token));
            let outputs = outputs.map(|token| token - tokens.start).collect();
            let of_run = input.tokens[tokens.clone()].to_vec();
            self.steps.push((tokens, Step::new(self.program, sequence, of_run, outputs)));
        }
    }

    /// Shows the inputs of an operation's products, of all sequences together.
    fn show(&mut self, observer: &mut dyn Observer) {
        let mut all: Vec<Shown> = Vec::new();
        for shown in self.steps.iter().filter_map(|(_, step)| step.shown.as_ref()) {
            for new in shown.take() {
                match all.iter_mut().find(|shown| shown.product == new.product) {
                    Some(shown) => shown.rows.extend(new.rows),
                    None => all.push(new),
                }
            }
        }
        all.iter().for_each(|shown| observer.matmul_input(shown.product, shown.cols, &shown.rows));
    }

    /// Stores what a step has computed.
    fn finish(&mut self, input: &StepInput<'_>) {
        let backend = &mut *self.backend;
        backend.results.clear();
        for (tokens, step) in self.steps.drain(..) {
            backend.scatter(input, &tokens, &step);
            backend.results.extend(step.results);
        }
        let n_out = self.program.n_out;
        let rows = backend.results.chunks_exact(n_out);
        backend.maxima.resize(rows.len() * n_out.div_ceil(MAX_BLOCK), 0.0);
        if input.maxima {
            let maxima = backend.maxima.chunks_exact_mut(n_out.div_ceil(MAX_BLOCK));
            rows.zip(maxima).for_each(|(row, maxima)| block_max(row, maxima));
        }
    }
}

impl Executor for RefExecutor<'_> {
    /// The memory for tests is there: `Vec`s are not refused.
    fn prepare(&mut self, ops: &[CacheOp], _: &StepInput<'_>) -> Result<(), Unfinished> {
        ops.iter().for_each(|&op| self.backend.change(op));
        Ok(())
    }

    fn run(
        &mut self,
        ops: Range<usize>,
        input: &StepInput<'_>,
        cancel: Option<&AtomicBool>,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<(), Unfinished> {
        if ops.start == 0 {
            self.begin(input);
        }
        for (_, step) in &mut self.steps {
            step.shown = observer.is_some().then(Default::default);
        }
        for op in &self.program.ops[ops.clone()] {
            if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                return Err(Unfinished::Cancelled);
            }
            self.steps.iter_mut().for_each(|(_, step)| step.run(op));
            if let Some(observer) = &mut observer {
                self.show(*observer);
            }
        }
        if ops.end == self.program.ops.len() {
            self.finish(input);
        }
        Ok(())
    }

    fn results(&mut self) -> Results<'_> {
        let RefBackend { results, maxima, .. } = &mut *self.backend;
        Results { rows: results, maxima, n_out: self.program.n_out, workers: &Alone }
    }

    fn read_rows(&mut self, buf: Buf, n: usize, rows: &mut Vec<f32>) -> Result<(), Unfinished> {
        let end = rows.len() + n * self.program.widths[buf.0];
        self.steps.iter().for_each(|(_, step)| rows.extend_from_slice(&step.buffers[buf.0]));
        rows.truncate(end);
        Ok(())
    }

    fn write_rows(&mut self, buf: Buf, mut rows: &[f32]) -> Result<(), Unfinished> {
        for (_, step) in &mut self.steps {
            let (of_step, rest) = rows.split_at(step.buffers[buf.0].len().min(rows.len()));
            step.buffers[buf.0][..of_step.len()].copy_from_slice(of_step);
            rows = rest;
        }
        Ok(())
    }

    fn read_page(
        &mut self,
        group: usize,
        page: PageId,
        n: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfinished> {
        let backend = &*self.backend;
        for &layer in &backend.groups[group].layers {
            let shape = &backend.program.kv[layer];
            let page = &backend.pages[&(layer, page)];
            let kept = |x: f32, slot: usize| if slot < n { x } else { 0.0 };
            for (i, slot) in lanes(shape) {
                out.extend(kept(page.keys[i], slot).to_le_bytes());
            }
            for (i, slot) in rows(shape) {
                out.extend(kept(page.values[i], slot).to_le_bytes());
            }
        }
        Ok(())
    }

    fn write_page(&mut self, group: usize, id: PageId, bytes: &[u8]) -> Result<(), Unfinished> {
        let backend = &mut *self.backend;
        let mut numbers = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        for &layer in &backend.groups[group].layers {
            let shape = &backend.program.kv[layer];
            let mut page = Page::new(shape);
            for ((i, _), x) in lanes(shape).zip(&mut numbers) {
                page.keys[i] = x;
            }
            for ((i, _), x) in rows(shape).zip(&mut numbers) {
                page.values[i] = x;
            }
            backend.pages.insert((layer, id), page);
        }
        Ok(())
    }

    fn read_states(&mut self, slot: StateSlot, out: &mut Vec<u8>) {
        let states = self.backend.states[&slot].iter().flatten();
        states.for_each(|x| out.extend(x.to_le_bytes()));
    }

    fn write_states(&mut self, slot: StateSlot, bytes: &[u8]) -> Result<(), Unfinished> {
        let mut numbers = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        let lens = self.program.states.iter();
        let states = lens.map(|&len| numbers.by_ref().take(len).collect()).collect();
        self.backend.states.insert(slot, states);
        Ok(())
    }

    /// Weights stay as they are.
    fn repacked_bytes(&self) -> [usize; 2] {
        [0, 0]
    }
}
