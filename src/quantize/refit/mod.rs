//! Scales that fit codes best: a row's codes stay, its blocks' scales and minimums become those by which
//! the outputs lose least.
//!
//! A row's values are linear in the scales and minimums of its groups, so its cost is a quadratic form in
//! as many unknowns, whose least is where the normal equations hold (solved by conjugate gradients). What
//! a block stores is rounded, in super-blocks to codes of few bits times `d`: so these are then improved in
//! turn, each code of a scale to the best that there is, `d` and the scale of the minimums to their
//! closed forms, from the rounded solution and from the scales that were there. The better of both is taken
//! where the row's cost falls, with the damping of the form and without. Types of points have one scale for each
//! block that is solved for.

mod points;
mod solve;

use super::at_inputs::errors;
use super::form::{Buffers, Form, STRIP, dot};
use points::Points;
use solve::{Normal, Search, solve};
use teff_kernels::block::F16;
use teff_kernels::{Encoder, Group, KernelTable, Scales, TypeKernels};

/// Elements of the equations of some rows, which a thread has in memory together.
const SYSTEMS_ELEMENTS: usize = 4 << 20;

/// Kind of a type's scales.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Whether groups have minimums.
    pub has_min: bool,
    /// Whether `d` is a factor of all scales, and `m` of all minimums.
    pub is_linear: [bool; 2],
    /// Values that a stored scale may have, and a stored minimum.
    pub stored: [Vec<u8>; 2],
}

impl Kind {
    /// Kind of the scales of an encoder's type.
    pub fn of(encoder: &Encoder) -> Kind {
        let groups = vec![Group { scale: 1.0, min: 1.0 }; encoder.len / encoder.group];
        let ones = encoder.compose(&groups).as_stored();
        let twice = |change: fn(&mut Scales)| {
            let mut scales = ones;
            change(&mut scales);
            encoder.group_of(&scales, 0)
        };
        let one = encoder.group_of(&ones, 0);
        let by_d = twice(|s| s.d = F16::from_f32(2.0 * s.d.to_f32()));
        let by_m = twice(|s| s.m = F16::from_f32(2.0 * s.m.to_f32()));
        let kept = |place: fn(&mut Scales) -> &mut u8| {
            let is_kept = |&stored: &u8| {
                let mut scales = ones;
                *place(&mut scales) = stored;
                let mut block = vec![0; encoder.ty.block_bytes()];
                let mut codes = vec![0; encoder.len];
                encoder.assemble(&codes, &[scales], &mut block);
                let mut read = [Scales::default()];
                encoder.take_apart(&block, &mut codes, &mut read);
                read[0] == scales
            };
            (0..=u8::MAX).filter(is_kept).collect()
        };
        Kind {
            has_min: one.min != 0.0,
            is_linear: [by_d.scale != one.scale, by_m.min != one.min],
            stored: [kept(|s| &mut s.scales[0]), kept(|s| &mut s.mins[0])],
        }
    }
}

/// Refits rows of one type to one form.
pub(super) struct Refit<'a> {
    form: &'a Form,
    table: &'a KernelTable,
    kernels: &'a TypeKernels,
    way: Way<'a>,
}

/// Contents of the blocks of a type: codes with scales, or points of a codebook.
enum Way<'a> {
    Codes(Codes<'a>),
    Points(Points<'a>),
}

impl<'a> Refit<'a> {
    /// For a type; `None` if it has neither codes nor points.
    pub fn new(
        form: &'a Form,
        table: &'a KernelTable,
        kernels: &'a TypeKernels,
    ) -> Option<Refit<'a>> {
        let way = match kernels.encoder() {
            Ok(encoder) => Way::Codes(Codes::new(form, table, encoder)),
            Err(_) => Way::Points(Points::new(form, table, kernels)?),
        };
        Some(Refit { form, table, kernels, way })
    }

    /// Changes the scales of rows of blocks for the weights `x`, `[rows][columns]`, whose costs are given.
    pub fn rows(&self, x: &[f32], blocks: &mut [u8], costs: &mut [f64], buffers: &mut Buffers) {
        let n = self.form.cols();
        let row_bytes = blocks.len() / costs.len();
        let old_errors = errors(self.kernels, x, blocks);
        let products = self.form.times(self.table, &old_errors, buffers);
        let refitted = match &self.way {
            Way::Codes(codes) => codes.refitted(blocks, &products, buffers),
            Way::Points(points) => points.refitted(blocks, &products, buffers),
        };
        let new_errors = errors(self.kernels, x, &refitted);
        let new_costs = self.form.costs(self.table, &new_errors, buffers);
        let damping = self.form.damping();
        let undamped = |cost: f64, errors: &[f32]| cost - damping * dot(errors, errors);
        let rows = blocks.chunks_exact_mut(row_bytes).zip(refitted.chunks_exact(row_bytes));
        let errors = old_errors.chunks_exact(n).zip(new_errors.chunks_exact(n));
        for ((((old, new), cost), new_cost), (old_errors, new_errors)) in
            rows.zip(costs).zip(new_costs).zip(errors)
        {
            let is_less = new_cost < *cost;
            if is_less && undamped(new_cost, new_errors) <= undamped(*cost, old_errors) {
                old.copy_from_slice(new);
                *cost = new_cost;
            }
        }
    }
}

/// Rows of a type of codes.
struct Codes<'a> {
    form: &'a Form,
    table: &'a KernelTable,
    encoder: &'a Encoder,
    kind: Kind,
    /// Where groups have minimums: `H 1` for the ones of each group, `[groups][columns]`.
    ones: Vec<f32>,
}

impl<'a> Codes<'a> {
    fn new(form: &'a Form, table: &'a KernelTable, encoder: &'a Encoder) -> Codes<'a> {
        let mut own = Codes { form, table, encoder, kind: Kind::of(encoder), ones: Vec::new() };
        if own.kind.has_min {
            let (n, group) = (form.cols(), encoder.group);
            let mut rows = vec![0.0; n / group * n];
            for (g, row) in rows.chunks_exact_mut(n).enumerate() {
                row[g * group..][..group].fill(1.0);
            }
            own.ones = form.times(table, &rows, &mut Buffers::default());
        }
        own
    }

    /// Blocks of rows with the best scales, by the products of the rows' errors and the form.
    fn refitted(&self, blocks: &[u8], products: &[f32], buffers: &mut Buffers) -> Vec<u8> {
        let (n, encoder) = (self.form.cols(), self.encoder);
        let n_rows = products.len() / n;
        let row_bytes = blocks.len() / n_rows;
        let mut codes = vec![0; products.len()];
        let mut scales = vec![Scales::default(); products.len() / encoder.len];
        encoder.take_apart(blocks, &mut codes, &mut scales);
        let levels: Vec<f32> = codes.iter().map(|&code| encoder.level(code).into()).collect();
        let mut refitted = vec![0; blocks.len()];
        let some = (SYSTEMS_ELEMENTS / self.unknowns().pow(2)).clamp(1, n_rows);
        let parts = levels.chunks(some * n).zip(products.chunks(some * n));
        let scales = scales.chunks(some * (n / encoder.len)).zip(codes.chunks(some * n));
        let out = refitted.chunks_mut(some * row_bytes);
        for (((levels, products), (scales, codes)), out) in parts.zip(scales).zip(out) {
            let systems = self.systems(levels, products, buffers);
            let rows = scales.chunks_exact(n / encoder.len).zip(codes.chunks_exact(n));
            for (((scales, codes), system), out) in
                rows.zip(systems).zip(out.chunks_exact_mut(row_bytes))
            {
                encoder.assemble(codes, &self.best(scales, &system), out);
            }
        }
        refitted
    }

    /// Scales and minimums of a row.
    fn unknowns(&self) -> usize {
        let n_groups = self.form.cols() / self.encoder.group;
        if self.kind.has_min { 2 * n_groups } else { n_groups }
    }

    /// The normal equations of each row: for changes of its scales, then of its minimums.
    fn systems(&self, levels: &[f32], products: &[f32], buffers: &mut Buffers) -> Vec<Normal> {
        let (n, group) = (self.form.cols(), self.encoder.group);
        let n_rows = levels.len() / n;
        let mut systems: Vec<Normal> = (0..n_rows).map(|_| Normal::new(self.unknowns())).collect();
        let per_strip = (STRIP / group).max(1);
        let width = group.min(STRIP);
        for strip in 0..n / STRIP {
            let start = strip * STRIP;
            // Levels of a strip, those of each of its groups apart.
            let mut x = vec![0.0; n_rows * per_strip * STRIP];
            for (row, x) in x.chunks_exact_mut(per_strip * STRIP).enumerate() {
                for (i, x) in x.chunks_exact_mut(STRIP).enumerate() {
                    let from = row * n + start + i * width;
                    x[i * width..][..width].copy_from_slice(&levels[from..from + width]);
                }
            }
            let first = start / group * group;
            self.form.strip_times(self.table, (strip, first), &x, buffers);
            for (number, y) in buffers.1.chunks_exact(n - first).enumerate() {
                let (row, g) = (number / per_strip, (start + number % per_strip * width) / group);
                let levels = &levels[row * n + first..(row + 1) * n];
                let parts = levels.chunks_exact(group).zip(y.chunks_exact(group));
                for (h, (levels, y)) in (first / group..).zip(parts).filter(|(h, _)| *h >= g) {
                    systems[row].add(g, h, dot(levels, y));
                }
            }
        }
        for (row, system) in systems.iter_mut().enumerate() {
            let at = row * n..(row + 1) * n;
            self.finish(system, &levels[at.clone()], &products[at]);
        }
        systems
    }

    /// Fills what has to do with minimums, the right side, and the other half.
    fn finish(&self, system: &mut Normal, levels: &[f32], products: &[f32]) {
        let (n, group) = (levels.len(), self.encoder.group);
        let n_groups = n / group;
        let parts = levels.chunks_exact(group).zip(products.chunks_exact(group));
        for (g, (levels, products)) in parts.enumerate() {
            system.right[g] = dot(levels, products);
            if self.kind.has_min {
                let sum: f64 = products.iter().map(|&x| f64::from(x)).sum();
                system.right[n_groups + g] = -sum;
            }
        }
        for (h, ones) in self.ones.chunks_exact(n).enumerate() {
            let parts = levels.chunks_exact(group).zip(ones.chunks_exact(group));
            for (g, (levels, ones)) in parts.enumerate() {
                system.add(g, n_groups + h, -dot(levels, ones));
                if g >= h {
                    let sum = ones.iter().map(|&x| f64::from(x)).sum();
                    system.add(n_groups + h, n_groups + g, sum);
                }
            }
        }
        system.mirror();
    }

    /// The best scales that a row's blocks can store, as far as they are found.
    fn best(&self, scales: &[Scales], system: &Normal) -> Vec<Scales> {
        let encoder = self.encoder;
        let start = Search::new(encoder, &self.kind, system, scales);
        let change = solve(system);
        let per_block = encoder.len / encoder.group;
        let wanted: Vec<Group> = start.groups(&change);
        let rounded: Vec<Scales> = wanted
            .chunks_exact(per_block)
            .map(|groups| encoder.compose(groups).as_stored())
            .collect();
        let mut solved = start.clone();
        solved.move_to(&rounded);
        let mut found = [solved, start];
        found.iter_mut().for_each(Search::improve);
        let [solved, stayed] = found;
        let best = if solved.gain() > stayed.gain() { solved } else { stayed };
        best.into_scales()
    }
}
