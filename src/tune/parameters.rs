//! What is trained: by name, and where it stands in the program.

use super::TuneError;
use super::machine::{Machine, add_scaled};
use super::norm::NormValues;
use super::scales::{BlockScales, KINDS, Values};
use crate::backend::program::{BoundWeight, Epilogue, Linear, Norm, Op, Output, Program, WeightId};
use crate::backend::program::{HeadNorm, WeightUse};
use crate::random::SplitMix64;
use crate::tensor::Weight;
use gguf_rs_lite::GgmlType;
use std::array::from_fn;
use std::collections::{HashMap, HashSet};

/// Parts of a model that are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trainable {
    /// Scales and minimums of blocks.
    pub scales: bool,
    /// Factors of norms.
    pub norms: bool,
    /// Matrices of low rank beside the weights, which then stay as they are.
    pub lora: Option<LoraShape>,
}

/// Shape of an adapter (LoRA; arXiv:2106.09685).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraShape {
    /// Rows of `A` and columns of `B`.
    pub rank: usize,
    /// The product of the two is multiplied by this over the rank.
    pub alpha: f32,
}

/// Numbers that are trained together.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    pub name: String,
    pub values: Vec<f32>,
}

/// Factors of a norm: `base + unit * parameter`.
struct Factors {
    parameter: usize,
    base: Vec<f32>,
    unit: Vec<f32>,
    current: Vec<f32>,
}

/// `A`, `[rank][cols]`, and `B`, `[rows][rank]`, by the numbers of their parameters.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub a: usize,
    pub b: usize,
    pub rank: usize,
    pub factor: f32,
}

/// All that is trained.
pub(super) struct Parameters {
    pub all: Vec<Parameter>,
    norms: HashMap<String, Factors>,
    scales: HashMap<WeightId, (BlockScales, [Option<usize>; 4])>,
    pairs: HashMap<WeightId, (String, Pair)>,
    /// Matrices whose scales were to be trained, and whose types have none that move.
    pub fixed: Vec<(String, GgmlType)>,
}

/// Their gradients.
pub(super) struct Gradients(pub Vec<Vec<f32>>);

impl Gradients {
    /// Zeros.
    pub fn of(parameters: &Parameters) -> Gradients {
        Gradients(parameters.all.iter().map(|p| vec![0.0; p.values.len()]).collect())
    }

    /// Square root of the sum of squares.
    pub fn norm(&self) -> f64 {
        self.0.iter().flatten().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt()
    }
}

/// The products whose matrices may be trained: all but the one that makes logits.
fn linears(program: &Program) -> impl Iterator<Item = &Linear> {
    program.ops.iter().filter_map(|op| match op {
        Op::Linear(linear) if !matches!(linear.out, Output::Logits { .. }) => Some(linear),
        _ => None,
    })
}

/// The norms of a program.
fn norms(program: &Program) -> impl Iterator<Item = &Norm> {
    program.ops.iter().flat_map(|op| {
        let of_head = |norm: &'_ Option<HeadNorm>| norm.is_some();
        let found: Vec<&Norm> = match op {
            Op::Normalize { norm, .. } | Op::AddNorm { norm, .. } => vec![norm],
            Op::Linear(linear) => linear.norm.iter().collect(),
            Op::RopeKv(op) => [&op.q_norm, &op.k_norm, &op.v_norm]
                .into_iter()
                .filter(|norm| of_head(norm))
                .flatten()
                .map(|norm| &norm.norm)
                .collect(),
            _ => Vec::new(),
        };
        found
    })
}

impl Parameters {
    /// The parameters of a program; `wanted` chooses tensors by name.
    ///
    /// # Errors
    /// There are none, or there is no memory for them.
    pub fn new(
        on: Machine,
        program: &Program,
        what: Trainable,
        wanted: &dyn Fn(&str) -> bool,
        seed: u64,
    ) -> Result<Parameters, TuneError> {
        let mut own = Parameters {
            all: Vec::new(),
            norms: HashMap::new(),
            scales: HashMap::new(),
            pairs: HashMap::new(),
            fixed: Vec::new(),
        };
        let looked_up: HashSet<WeightId> = (program.ops.iter())
            .flat_map(Op::weights)
            .filter(|(used, _)| *used == WeightUse::Lookup)
            .map(|(_, weight)| weight.id())
            .collect();
        let parts = linears(program).flat_map(|linear| &linear.parts);
        for weight in parts.map(|part| &part.weight).filter(|weight| wanted(&weight.name)) {
            if looked_up.contains(&weight.id()) {
                continue;
            }
            if let Some(shape) = what.lora {
                own.add_pair(weight, shape, seed);
            } else if what.scales {
                own.add_scales(on, weight)?;
            }
        }
        if what.norms {
            norms(program).for_each(|norm| own.add_norm(norm));
        }
        match own.all.is_empty() {
            true => Err(TuneError::Nothing),
            false => Ok(own),
        }
    }

    /// Matrices of which scales or an adapter are trained.
    pub fn n_matrices(&self) -> usize {
        self.scales.len() + self.pairs.len()
    }

    fn add(&mut self, name: String, values: Vec<f32>) -> usize {
        self.all.push(Parameter { name, values });
        self.all.len() - 1
    }

    fn add_norm(&mut self, norm: &Norm) {
        let (Some(name), Some(base)) = (&norm.name, &norm.weight) else { return };
        if self.norms.contains_key(name) {
            return;
        }
        let mean = base.iter().map(|w| w.abs()).sum::<f32>() / base.len().max(1) as f32;
        let unit = base.iter().map(|w| w.abs().max(mean)).collect();
        let parameter = self.add(name.clone(), vec![0.0; base.len()]);
        let (base, current) = (base.clone(), base.clone());
        self.norms.insert(name.clone(), Factors { parameter, base, unit, current });
    }

    fn add_scales(&mut self, on: Machine, weight: &BoundWeight) -> Result<(), TuneError> {
        if self.scales.contains_key(&weight.id()) || weight.n != 1 {
            return Ok(());
        }
        let Some(scales) = BlockScales::new(on, on.kernels, weight)? else {
            self.fixed.push((weight.name.clone(), weight.ty));
            return Ok(());
        };
        let lengths = scales.lengths();
        let numbers = from_fn(|kind| {
            let name = format!("{}.{}", weight.name, KINDS[kind]);
            (lengths[kind] > 0).then(|| self.add(name, vec![0.0; lengths[kind]]))
        });
        self.scales.insert(weight.id(), (scales, numbers));
        Ok(())
    }

    fn add_pair(&mut self, weight: &BoundWeight, shape: LoraShape, seed: u64) {
        if self.pairs.contains_key(&weight.id()) || weight.n != 1 {
            return;
        }
        let LoraShape { rank, alpha } = shape;
        let mut random = SplitMix64::new(seed.wrapping_add(self.all.len() as u64 + 1));
        let bound = 1.0 / (weight.cols as f64).sqrt();
        let mut draw = || {
            let unit = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            ((2.0 * unit - 1.0) * bound) as f32
        };
        let a = (0..rank * weight.cols).map(|_| draw()).collect();
        let a = self.add(format!("{}.lora_a", weight.name), a);
        let b = self.add(format!("{}.lora_b", weight.name), vec![0.0; weight.rows * rank]);
        let pair = Pair { a, b, rank, factor: alpha / rank as f32 };
        self.pairs.insert(weight.id(), (weight.name.clone(), pair));
    }

    /// Numbers that are trained.
    pub fn len(&self) -> usize {
        self.all.iter().map(|parameter| parameter.values.len()).sum()
    }

    /// A weight as it is now.
    pub fn weight<'a>(&'a self, weight: &'a BoundWeight) -> &'a Weight {
        self.scales.get(&weight.id()).map_or(weight, |(scales, _)| &scales.current)
    }

    /// A norm of `dim` elements as it is now.
    pub fn norm<'a>(&'a self, norm: &'a Norm, dim: usize) -> NormValues<'a> {
        let trained = norm.name.as_ref().and_then(|name| self.norms.get(name));
        let weight = trained.map_or(norm.weight.as_deref(), |factors| Some(&factors.current));
        let Norm { kind, eps, bias, .. } = norm;
        NormValues { kind: *kind, eps: *eps, dim, weight, bias: bias.as_deref() }
    }

    /// The adapter of a weight.
    pub fn pair(&self, weight: &BoundWeight) -> Option<Pair> {
        self.pairs.get(&weight.id()).map(|(_, pair)| *pair)
    }

    /// Whether the gradient of a weight itself is needed.
    pub fn has_scales(&self, weight: &BoundWeight) -> bool {
        self.scales.contains_key(&weight.id())
    }

    /// Adds what follows from the gradient of a norm's factors.
    pub fn add_norm_gradient(&self, norm: &Norm, dweight: &[f32], into: &mut Gradients) {
        let trained = norm.name.as_ref().and_then(|name| self.norms.get(name));
        let Some(Factors { parameter, unit, .. }) = trained else { return };
        for ((sum, dw), unit) in into.0[*parameter].iter_mut().zip(dweight).zip(unit) {
            *sum += dw * unit;
        }
    }

    /// Adds what follows from the gradient of a weight, `[rows][cols]`.
    pub fn add_weight_gradient(
        &self,
        on: Machine,
        weight: &BoundWeight,
        dw: &[f32],
        into: &mut Gradients,
    ) -> Result<(), TuneError> {
        let Some((scales, numbers)) = self.scales.get(&weight.id()) else { return Ok(()) };
        let mut taken = numbers.map(|number| match number {
            Some(number) => std::mem::take(&mut into.0[number]),
            None => Vec::new(),
        });
        let [a, b, c, d] = &mut taken;
        let added = scales.add_gradients(on, dw, [a, b, c, d]);
        for (number, values) in numbers.iter().zip(taken) {
            number.iter().for_each(|&number| into.0[number] = values.clone());
        }
        added
    }

    /// Has weights and norms follow their parameters.
    pub fn apply(&mut self, on: Machine) -> Result<(), TuneError> {
        for factors in self.norms.values_mut() {
            let values = &self.all[factors.parameter].values;
            factors.current.copy_from_slice(&factors.base);
            for ((w, unit), by) in factors.current.iter_mut().zip(&factors.unit).zip(values) {
                *w += unit * by;
            }
        }
        for (scales, numbers) in self.scales.values_mut() {
            let values: Values<'_> =
                numbers.map(|number| number.map_or(&[][..], |number| &self.all[number].values));
            scales.apply(on, values)?;
        }
        Ok(())
    }

    /// Tensors whose scales are trained, as they are now.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        self.scales.values().map(|(scales, _)| &scales.current)
    }

    /// Names of trained norms, and their factors as they are now.
    pub fn factors(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.norms.iter().map(|(name, factors)| (&name[..], &factors.current[..]))
    }
}

/// The derivative of a linear operation's epilogue is known.
pub(super) fn is_plain(epilogue: Epilogue) -> bool {
    !matches!(epilogue, Epilogue::Glu(_, Some(_)))
}

/// `to[i] += f from[i]` of parameters' gradients.
pub(super) fn add_to(into: &mut Gradients, number: usize, from: &[f32], f: f32) {
    add_scaled(&mut into.0[number], from, f);
}
