//! Repacking: while a model decodes, its weights are copied to a layout that the kernels stream best,
//! with rows interleaved ([`TypeKernels::interleave`](teff_kernels::TypeKernels::interleave)).
//!
//! A model starts from the file's pages, without a copy. Each step of decoding repacks some more rows
//! into memory of the backend and gives the pages they came from back to the system: memory in use
//! stays about the file's size, results stay the same to the bit, and a step takes some milliseconds
//! longer until all is done. Prompts are computed from either layout: a few tokens from the repacked
//! rows as they are, more of them from rows that are put back for each chunk.
//!
//! Only weights in codebook types (IQ1, IQ2, IQ3) grow, to 4.6 bits each at most, because they are
//! repacked as the numbers that the codebook has: that makes them several times as fast.
//!
//! Weights that pruning has left two of every four neighbours shrink: they are repacked without zeros
//! where the kernels have such a form ([`KernelTable::sparse`]). Some rows of a weight are tried when a
//! model is loaded; where rows that come later do not fit the form, they stay as they are in the file.

use super::Context;
use super::pool::{Phase, Shared};
use super::topology::available_bytes;
use crate::backend::program::{BoundWeight, Program};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use teff_kernels::{Ahead, KernelTable, TypeKernels};

/// Steps that repack all weights: even a short answer gains from it, and little memory is held
/// twice while a step repacks.
const STEPS: usize = 32;
/// Fewest bytes that a step repacks: about two milliseconds of two cores.
const STEP_BYTES_MIN: usize = 24 << 20;
/// Bytes that a ticket repacks, about.
const TICKET_BYTES: usize = 256 << 10;
/// Divisor of the available memory that repacked weights may take: a system that runs out of memory
/// can drop pages of a file, but not these.
const AVAILABLE_SHARE: usize = 2;
/// Groups of rows of a weight that are tried for a form without zeros.
const TRIED: usize = 4;

/// The repacked weights of a program.
pub(super) struct Interleaved {
    bytes: Shared<u8>,
    weights: Vec<Entry>,
    /// Index into `weights` by [`WeightId`](crate::backend::program::WeightId).
    by_id: Vec<Option<usize>>,
    /// The first weight that is not done.
    next: usize,
}

struct Entry {
    weight: BoundWeight,
    /// Kernels for the form of its groups.
    kernels: &'static TypeKernels,
    /// Rows of a group, their bytes in the file, and the group's.
    lanes: usize,
    file_bytes: usize,
    group_bytes: usize,
    /// Place of the groups in `bytes`, in groups of this size.
    groups: Range<usize>,
    /// Groups that are there.
    done: usize,
}

/// Groups of one weight that a step interleaves.
pub(super) struct Part {
    entry: usize,
    groups: Range<usize>,
    /// Whether rows were found that do not fit the form.
    is_unfit: AtomicBool,
}

/// Groups that hold rows of a product.
pub(super) struct Groups {
    /// Kernels for their form.
    pub kernels: &'static TypeKernels,
    /// Their bytes.
    pub bytes: Range<usize>,
}

impl Interleaved {
    /// No weight ever.
    pub fn none() -> Interleaved {
        Interleaved { bytes: Shared::empty(), weights: Vec::new(), by_id: Vec::new(), next: 0 }
    }

    /// All weights that the kernels have such a form of, none of them done. Without enough memory,
    /// only those that take no more of it than in the file, or none at all. Operations for which
    /// `is_here` does not hold are run elsewhere.
    pub fn plan(
        kernels: &'static KernelTable,
        program: &Program,
        is_here: &dyn Fn(usize) -> bool,
    ) -> Interleaved {
        let most = available_bytes().map_or(0, |available| available / AVAILABLE_SHARE);
        for may_grow in [true, false] {
            let (weights, end) = entries(kernels, program, may_grow, is_here);
            if end <= most
                && let Ok(bytes) = Shared::mapped("interleaved weights", end)
            {
                let mut by_id = vec![None; program.weights.len()];
                for (i, entry) in weights.iter().enumerate() {
                    by_id[entry.weight.id().0] = Some(i);
                }
                return Interleaved { bytes, weights, by_id, next: 0 };
            }
        }
        Interleaved::none()
    }

    /// Bytes that are interleaved, and that will be.
    pub fn bytes(&self) -> [usize; 2] {
        let sum = |groups: fn(&Entry) -> usize| {
            self.weights.iter().map(|entry| groups(entry) * entry.group_bytes).sum()
        };
        [sum(|entry| entry.done), sum(|entry| entry.groups.len())]
    }

    /// Keeps them in memory, those to come included.
    pub fn lock(&self) -> std::io::Result<()> {
        self.bytes.lock()
    }

    /// Parts of weights that the next step is to interleave.
    pub fn next_batch(&self) -> Vec<Part> {
        let mut budget = (self.bytes.width() / STEPS).max(STEP_BYTES_MIN);
        let mut parts = Vec::new();
        for (i, entry) in self.weights.iter().enumerate().skip(self.next) {
            let n = (budget / entry.group_bytes).min(entry.groups.len() - entry.done);
            if n > 0 {
                let groups = entry.done..entry.done + n;
                parts.push(Part { entry: i, groups, is_unfit: AtomicBool::new(false) });
            }
            budget -= n * entry.group_bytes;
            if entry.done + n < entry.groups.len() {
                break;
            }
        }
        parts
    }

    /// Takes note of what a step has done.
    pub fn finish(&mut self, batch: &[Part]) {
        for part in batch {
            let entry = &mut self.weights[part.entry];
            match part.is_unfit.load(Ordering::Relaxed) {
                true => entry.groups.end = entry.groups.start + entry.done,
                false => {
                    entry.done = part.groups.end;
                    let bytes = |group: usize| group * entry.file_bytes;
                    entry.weight.release(bytes(part.groups.start)..bytes(part.groups.end));
                }
            }
            if entry.done == entry.groups.len() {
                self.next = part.entry + 1;
            }
        }
    }

    /// All bytes, of which [`Interleaved::groups`] are there.
    pub fn read<'p>(&'p self, phase: &'p Phase<'_>) -> &'p [u8] {
        self.bytes.read(phase)
    }

    /// Groups that a coming phase reads.
    pub fn ahead(&self, groups: Range<usize>) -> Ahead {
        self.bytes.ahead(groups)
    }

    /// Whether all rows that fill groups are interleaved.
    pub fn is_done(&self, weight: &BoundWeight) -> bool {
        let entry = self.by_id.get(weight.id().0).copied().flatten().map(|i| &self.weights[i]);
        entry.is_some_and(|entry| entry.done == entry.groups.len())
    }

    /// The groups that hold rows `rows` of the stack, if all of them are interleaved.
    pub fn groups(&self, weight: &BoundWeight, rows: Range<usize>) -> Option<Groups> {
        let entry = &self.weights[(*self.by_id.get(weight.id().0)?)?];
        let groups = rows.start / entry.lanes..rows.end.div_ceil(entry.lanes);
        let bytes = |group: usize| (entry.groups.start + group) * entry.group_bytes;
        (groups.end <= entry.done).then(|| Groups {
            kernels: entry.kernels,
            bytes: bytes(groups.start)..bytes(groups.end),
        })
    }
}

/// The products that have an interleaved form, if it is no larger or `may_grow`, in the order of
/// their first use, and the bytes of all.
fn entries(
    kernels: &'static KernelTable,
    program: &Program,
    may_grow: bool,
    is_here: &dyn Fn(usize) -> bool,
) -> (Vec<Entry>, usize) {
    let mut weights: Vec<Entry> = Vec::new();
    let mut is_known = vec![false; program.weights.len()];
    let mut end = 0;
    let here = program.ops.iter().enumerate().filter(|&(i, _)| is_here(i));
    for weight in here.flat_map(|(_, op)| op.products()) {
        if std::mem::replace(&mut is_known[weight.id().0], true) {
            continue;
        }
        let sparse = kernels.sparse(weight.ty).find(|kernels| fits(kernels, weight));
        let Some(kernels) = sparse.or_else(|| kernels.types(weight.ty)) else { continue };
        let Some(lanes) = kernels.lanes() else { continue };
        let row_bytes = kernels.interleaved_row_bytes(weight.row_bytes());
        if row_bytes > weight.row_bytes() && !may_grow {
            continue;
        }
        let file_bytes = lanes * weight.row_bytes();
        let group_bytes = lanes * row_bytes;
        let first = end / group_bytes + usize::from(end % group_bytes != 0);
        // Rows that fill no group stay as they are.
        let groups = first..first + weight.n * weight.rows / lanes;
        end = groups.end * group_bytes;
        let weight = weight.clone();
        weights.push(Entry { weight, kernels, lanes, file_bytes, group_bytes, groups, done: 0 });
    }
    (weights, end)
}

/// Whether some groups of a weight, the first and the last among them, fit a form without zeros.
fn fits(kernels: &TypeKernels, weight: &BoundWeight) -> bool {
    let (lanes, row_bytes) = (kernels.lanes().unwrap_or(1), weight.row_bytes());
    let n_groups = weight.n * weight.rows / lanes;
    if n_groups == 0 {
        return false;
    }
    let mut group = vec![0; lanes * kernels.interleaved_row_bytes(row_bytes)];
    let mut tried = (0..TRIED).map(|i| (n_groups - 1) * i / (TRIED - 1));
    tried.all(|i| {
        let rows = &weight.bytes()[i * lanes * row_bytes..][..lanes * row_bytes];
        kernels.interleave(rows, row_bytes, &mut group)
    })
}

impl Context<'_> {
    /// Interleaves some groups: a phase of its own.
    pub(super) fn interleave(&self, part: &Part) {
        let Interleaved { bytes, weights, .. } = &self.backend.interleaved;
        let entry = &weights[part.entry];
        let first = entry.groups.start;
        let items = first + part.groups.start..first + part.groups.end;
        let chunk = (TICKET_BYTES / entry.group_bytes).max(1);
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets_of(items, chunk) {
                let groups = ticket.items();
                let bytes_of = |group: usize| (group - first) * entry.file_bytes;
                let rows = bytes_of(groups.start)..bytes_of(groups.end);
                let out = bytes.write_cells(&mut ticket, entry.group_bytes);
                let (rows, row_bytes) = (&entry.weight.bytes()[rows], entry.weight.row_bytes());
                if !entry.kernels.interleave(rows, row_bytes, out) {
                    part.is_unfit.store(true, Ordering::Relaxed);
                }
            }
        });
    }
}
