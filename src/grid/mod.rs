//! Grids that floats lie on: matrices that were trained for a few bits (quantization-aware training) and
//! are kept as floats, or were widened from codes.
//!
//! In such a matrix each group of a row has a scale, and every value is a whole number of it, rounded to
//! the type of floats; or so many above a minimum. [`find`] tells that from the values alone: it takes the
//! coarsest step of each group that all its values are multiples of, to half an ulp. Chance gives that to a
//! group now and then, so all groups must have it, and what chance would have to do for that is counted in
//! bits ([`EVIDENCE_BITS_MIN`]). A matrix that is on no grid is known by its first groups.
//!
//! [`Rows`] makes blocks of the codes. Their values are those that were there, bit for bit, where
//! the step is an f16, or one of them gives the same values after rounding; else scales are the nearest, at
//! most a 2048th off.

mod fit;
mod form;
mod precision;
mod steps;

pub use fit::Origin;
pub use form::{Levels, TYPES, scales};
pub use precision::Precision;

use fit::Fit;
use form::Form;
use gguf_rs_lite::GgmlType;
use std::panic::resume_unwind;
use teff_kernels::{Encoder, Scales};

/// Whether grids are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qat {
    /// They are, and their codes are kept.
    #[default]
    Auto,
    /// Floats are floats.
    Off,
}

/// Elements under one scale that are looked for, beside whole rows.
const GROUPS: &[usize] = &[256, 128, 64, 32];
/// Elements that are looked at first.
const HEAD_ELEMENTS: usize = 1 << 14;
/// Elements that are worth a thread.
const SHARED_ELEMENTS: usize = 1 << 15;
/// Bits of evidence that a matrix needs: chance does not have it once in all matrices there are.
pub const EVIDENCE_BITS_MIN: f64 = 100.0;

/// A grid that a matrix lies on, and the type that has its codes.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The type.
    pub ty: GgmlType,
    /// Columns of the matrix.
    pub cols: usize,
    /// Elements of a row under one scale.
    pub group: usize,
    /// Origin of the codes.
    pub origin: Origin,
    /// The least and the largest code, counted from there.
    pub range: [i16; 2],
    /// Groups of the matrix.
    pub groups: u64,
    /// Groups of which not all values come back bit for bit.
    pub rounded: u64,
    /// The largest distance of a scale from what it should be, as a part of it.
    pub distance: f64,
    /// Logarithm of how unlikely this is by chance, in bits.
    pub evidence_bits: f64,
    precision: Precision,
}

/// Takes whole rows, and says whether it wants more.
pub type Take<'t> = dyn FnMut(&[f32]) -> bool + 't;

/// Finds the grid of a matrix, of the first of `types` that has its codes, as [`TYPES`] names them. `rows`
/// gives its rows from the first on, as often as it is called; `precision` is the type of floats that
/// they are in.
///
/// # Errors
/// Those of `rows`.
pub fn find<E>(
    cols: usize,
    precision: Precision,
    types: &[GgmlType],
    rows: &mut dyn FnMut(&mut Take<'_>) -> Result<(), E>,
) -> Result<Option<Found>, E> {
    let fits = |&ty: &GgmlType| Form::of(ty).is_some_and(|form| form.divides(cols, cols));
    if cols == 0 || !types.iter().any(fits) {
        return Ok(None);
    }
    let mut head: Vec<f32> = Vec::new();
    let n_head = HEAD_ELEMENTS.max(cols) / cols.max(1) * cols;
    rows(&mut |values| {
        head.extend_from_slice(&values[..values.len().min(n_head - head.len())]);
        head.len() < n_head
    })?;
    if head.is_empty() || head.iter().all(|x| *x == 0.0) {
        return Ok(None);
    }
    let precisions = precision.coarser(&head);
    // What chance would have to do depends on what values there are.
    let chance = precisions.iter().copied().min_by_key(|p| p.bits()).unwrap_or(precision);
    let mut searches = Vec::new();
    for origin in [Origin::Zero, Origin::Minimum] {
        for &precision in &precisions {
            let groups = GROUPS.iter().copied().filter(|&group| group < cols);
            let all = std::iter::once(cols).chain(groups);
            searches.extend(all.map(|group| Search::new(cols, group, origin, precision, chance)));
        }
    }
    searches.retain_mut(|search| search.add(&head, None));
    for &ty in types {
        let Some(form) = Form::of(ty) else { continue };
        for search in &searches {
            let fits = form.divides(search.group, cols) && form.has_origin(search.origin);
            let mut all = search.again();
            if !fits || !all.add(&head, Some(form)) {
                continue;
            }
            let mut all = search.again();
            rows(&mut |values| all.add_shared(values, form))?;
            if let Some(found) = all.finish(ty) {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// A look at all groups of a matrix.
struct Search {
    cols: usize,
    group: usize,
    origin: Origin,
    precision: Precision,
    chance: Precision,
    fit: Fit,
    has_failed: bool,
    range: [i16; 2],
    groups: u64,
    rounded: u64,
    distance: f64,
    evidence_bits: f64,
}

impl Search {
    fn new(
        cols: usize,
        group: usize,
        origin: Origin,
        precision: Precision,
        chance: Precision,
    ) -> Search {
        Search {
            cols,
            group,
            origin,
            precision,
            chance,
            fit: Fit::default(),
            has_failed: false,
            range: [0; 2],
            groups: 0,
            rounded: 0,
            distance: 0.0,
            evidence_bits: 0.0,
        }
    }

    /// The same from the beginning.
    fn again(&self) -> Search {
        Search::new(self.cols, self.group, self.origin, self.precision, self.chance)
    }

    /// Looks at some rows; `false`: they are not on such a grid, or not one that a form holds.
    fn add(&mut self, values: &[f32], form: Option<Form>) -> bool {
        let (cols, group) = (self.cols, self.group);
        let mut groups = values.chunks_exact(cols).flat_map(|row| row.chunks(group));
        self.has_failed |= !groups.all(|values| self.add_group(values, form));
        !self.has_failed
    }

    /// [`Search::add`] by as many threads as there are CPUs.
    fn add_shared(&mut self, values: &[f32], form: Form) -> bool {
        let parts = shares(values, self.cols).map(|values| (values, self.again()));
        let add = |(values, mut search): (&[f32], Search)| {
            search.add(values, Some(form));
            search
        };
        for part in on_threads(parts.collect(), &add) {
            self.has_failed |= part.has_failed;
            self.range = [self.range[0].min(part.range[0]), self.range[1].max(part.range[1])];
            self.groups += part.groups;
            self.rounded += part.rounded;
            self.distance = self.distance.max(part.distance);
            self.evidence_bits += part.evidence_bits;
        }
        !self.has_failed
    }

    fn add_group(&mut self, values: &[f32], form: Option<Form>) -> bool {
        let how = (self.origin, self.precision);
        if !self.fit.find(values, self.origin, self.precision, self.chance) {
            return false;
        }
        let (low, high) = self.fit.range();
        self.range = [self.range[0].min(low), self.range[1].max(high)];
        self.evidence_bits += self.fit.evidence;
        self.groups += 1;
        let Some(form) = form else { return true };
        if !form.holds(&self.fit) {
            return false;
        }
        let chosen = form.choose(&self.fit, values, how);
        self.rounded += u64::from(!chosen.is_exact);
        self.distance = self.distance.max(chosen.distance);
        true
    }

    /// The grid, if that was no chance: there is enough evidence, and codes are more than a mask.
    fn finish(self, ty: GgmlType) -> Option<Found> {
        let [low, high] = self.range;
        let is_some = match self.origin {
            Origin::Zero => low < 0 && high > 0,
            Origin::Minimum => high > 1,
        };
        let is_proved = self.evidence_bits >= EVIDENCE_BITS_MIN;
        let is_found = !self.has_failed && is_some && is_proved;
        is_found.then_some(Found {
            ty,
            cols: self.cols,
            group: self.group,
            origin: self.origin,
            range: self.range,
            groups: self.groups,
            rounded: self.rounded,
            distance: self.distance,
            evidence_bits: self.evidence_bits,
            precision: self.precision,
        })
    }
}

impl Found {
    /// Whether every value comes back bit for bit, once it is rounded to the type of floats it had.
    pub fn is_exact(&self) -> bool {
        self.rounded == 0
    }

    /// Writes the blocks of many rows, by as many threads as there are CPUs; `false` as by
    /// [`Rows::encode`].
    ///
    /// # Panics
    /// If lengths do not fit, or the encoder is another type's.
    pub fn encode(&self, encoder: &Encoder, values: &[f32], blocks: &mut [u8]) -> bool {
        let row_bytes = blocks.len() / (values.len() / self.cols).max(1);
        let mut rest = blocks;
        let parts = shares(values, self.cols).map(|values| {
            let n = values.len() / self.cols * row_bytes;
            let (blocks, behind) = std::mem::take(&mut rest).split_at_mut(n);
            rest = behind;
            (values, blocks)
        });
        let write =
            |(values, blocks): (&[f32], &mut [u8])| self.rows(encoder).encode(values, blocks);
        on_threads(parts.collect(), &write).into_iter().all(|done| done)
    }

    /// Writer of the blocks of rows, by the encoder of the type.
    ///
    /// # Panics
    /// If the encoder is another type's.
    pub fn rows<'a>(&'a self, encoder: &'a Encoder) -> Rows<'a> {
        let form = Form::of(encoder.ty).filter(|_| encoder.ty == self.ty).expect("its own type");
        let (levels, fit) = (Levels::new(encoder), Fit::default());
        Rows { found: self, encoder, form, levels, fit, codes: Vec::new(), scales: Vec::new() }
    }
}

/// Rows in as many parts as there are CPUs, if they are worth that.
fn shares(values: &[f32], cols: usize) -> std::slice::Chunks<'_, f32> {
    let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let n = if values.len() < SHARED_ELEMENTS { 1 } else { n_threads };
    values.chunks((values.len() / cols).div_ceil(n).max(1) * cols)
}

/// Does the work of all parts, each on a thread of its own but for the last.
fn on_threads<P: Send, R: Send>(mut parts: Vec<P>, work: &(impl Fn(P) -> R + Sync)) -> Vec<R> {
    let Some(last) = parts.pop() else { return Vec::new() };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            parts.into_iter().map(|part| scope.spawn(move || work(part))).collect();
        let last = work(last);
        let done = threads.into_iter().map(|t| t.join().unwrap_or_else(|p| resume_unwind(p)));
        done.chain([last]).collect()
    })
}

/// Writer of the blocks of rows that lie on a grid.
pub struct Rows<'a> {
    found: &'a Found,
    encoder: &'a Encoder,
    form: Form,
    levels: Levels,
    fit: Fit,
    codes: Vec<u8>,
    scales: Vec<Scales>,
}

impl Rows<'_> {
    /// Writes the blocks of whole rows; `false` if they are not on the grid, as those that were seen
    /// before were.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn encode(&mut self, values: &[f32], blocks: &mut [u8]) -> bool {
        let cols = self.found.cols;
        let row_bytes = cols / self.form.block * self.found.ty.block_bytes();
        assert!(values.len() / cols * row_bytes == blocks.len(), "blocks of all rows");
        let mut all = values.chunks_exact(cols).zip(blocks.chunks_exact_mut(row_bytes));
        all.all(|(values, blocks)| self.row(values, blocks))
    }

    fn row(&mut self, values: &[f32], blocks: &mut [u8]) -> bool {
        let Found { origin, precision, .. } = *self.found;
        self.codes.clear();
        self.scales.clear();
        for values in values.chunks(self.found.group) {
            let is_on_grid = self.fit.find(values, origin, precision, precision);
            if !is_on_grid || !self.form.holds(&self.fit) {
                return false;
            }
            let chosen = self.form.choose(&self.fit, values, (origin, precision));
            let [times, more] = chosen.turn;
            let level = |code: &i16| self.levels.code(code * times + more);
            self.codes.extend(self.fit.codes.iter().map(level));
            let n_blocks = values.len() / self.form.block;
            self.scales.resize(self.scales.len() + n_blocks, scales(chosen.scales));
        }
        self.encoder.assemble(&self.codes, &self.scales, blocks);
        true
    }
}
