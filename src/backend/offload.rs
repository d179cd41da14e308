//! A program's two places as data: which part runs where, what it takes there, and what a token sends
//! from one to the other.

use super::pages::KvType;
use super::plan::{Plan, Side};
use super::program::{Op, Program, WeightUse};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

/// Sizes that the memory of a place depends on.
#[derive(Clone, Copy, Debug)]
pub struct OffloadSizes {
    /// Tokens in a sequence, at most.
    pub n_ctx: usize,
    /// Tokens in a step, at most.
    pub max_tokens: usize,
    /// Rows of results in a step, at most.
    pub max_outputs: usize,
    /// Type of cached keys and values.
    pub kv_type: KvType,
}

/// Bytes in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideBytes {
    /// Weights, in the blocks of the file.
    pub weights: u64,
    /// Keys and values of a whole context.
    pub kv: u64,
    /// Buffers of a step, an estimate.
    pub activations: u64,
}

impl SideBytes {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.activations
    }
}

/// Part of a program: its start, a layer, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartName {
    /// Operations before the first layer.
    Start,
    /// A layer, counted from 0.
    Layer(usize),
    /// What is behind the last layer.
    End,
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartName::Start => write!(f, "embedding"),
            PartName::Layer(layer) => write!(f, "layer {layer}"),
            PartName::End => write!(f, "head"),
        }
    }
}

/// A part of a program in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPart {
    /// Name of the part.
    pub name: PartName,
    /// Side that it runs on: the CPU if any operation of it does.
    pub side: Side,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Reason for which it is not on the GPU though it was to be.
    pub reason: Option<String>,
}

/// A program in two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Name of the GPU; `None` if nothing is on one.
    pub adapter: Option<String>,
    /// Bytes that the GPU has for all, as far as its driver tells.
    pub adapter_bytes: Option<u64>,
    /// The parts in the order of a step.
    pub parts: Vec<PlacedPart>,
    /// Bytes on the CPU.
    pub on_cpu: SideBytes,
    /// Bytes on the GPU.
    pub on_gpu: SideBytes,
    /// Bytes of the GPU's weights that are pages of the mapped file: they are in memory once, even those that the
    /// CPU reads too.
    pub in_place: u64,
    /// Times that a step goes from one place to the other.
    pub n_crossings: usize,
    /// Bytes of a token's rows that go to the GPU.
    pub bytes_there: u64,
    /// Bytes of a token's rows and results that come back.
    pub bytes_back: u64,
    /// Bytes of weights that a token reads on the GPU: of experts, as many as are chosen.
    pub bytes_read: u64,
}

impl Offload {
    /// A program as `plan` places it.
    pub fn new(program: &Program, plan: &Plan, sizes: &OffloadSizes) -> Offload {
        let parts = parts(program).into_iter().map(|(name, ops)| {
            let side = match ops.clone().all(|op| plan.side(op) == Side::Gpu) {
                true => Side::Gpu,
                false => Side::Cpu,
            };
            let reason = plan.reason(name).map(str::to_owned);
            PlacedPart { name, side, weight_bytes: weight_bytes(program, ops), reason }
        });
        let [mut bytes_there, mut bytes_back] = [0; 2];
        let boundaries = (0..program.ops.len()).filter(|&op| plan.is_boundary(op));
        for op in boundaries {
            let widths = plan.crossing(op).into_iter().map(|buf| program.widths[buf.0]);
            let bytes = (widths.sum::<usize>() * size_of::<f32>()) as u64;
            match plan.side(op) {
                Side::Gpu => bytes_there += bytes,
                Side::Cpu => bytes_back += bytes,
            }
        }
        if !program.ops.is_empty() && plan.side(program.ops.len() - 1) == Side::Gpu {
            bytes_back += (program.n_out * size_of::<f32>()) as u64;
        }
        Offload {
            adapter: None,
            adapter_bytes: None,
            parts: parts.collect(),
            on_cpu: SideBytes::new(program, plan, sizes, Side::Cpu),
            on_gpu: SideBytes::new(program, plan, sizes, Side::Gpu),
            in_place: 0,
            n_crossings: plan.n_crossings(),
            bytes_there,
            bytes_back,
            bytes_read: bytes_read(program, |op| plan.side(op) == Side::Gpu),
        }
    }

    /// Layers on the GPU, and layers in all.
    pub fn n_layers(&self) -> [usize; 2] {
        let layers = || self.parts.iter().filter(|part| matches!(part.name, PartName::Layer(_)));
        [layers().filter(|part| part.side == Side::Gpu).count(), layers().count()]
    }
}

impl SideBytes {
    /// Bytes that `plan` leaves in one place.
    pub fn new(program: &Program, plan: &Plan, sizes: &OffloadSizes, side: Side) -> SideBytes {
        let is_here = |op: &usize| plan.side(*op) == side;
        let ops = || (0..program.ops.len()).filter(is_here);
        if ops().next().is_none() {
            return SideBytes::default();
        }
        let layers = program.kv.iter().enumerate().filter(|(i, _)| plan.layer_side(*i) == side);
        let kv = layers.map(|(_, shape)| {
            let tokens = shape.window.map_or(sizes.n_ctx, |window| window.min(sizes.n_ctx)) as u64;
            let bytes = sizes.kv_type.token_bytes(shape.n_kv_heads, shape.k_dim, shape.v_dim);
            tokens * bytes as u64
        });
        let buffers: BTreeSet<usize> =
            ops().flat_map(|op| program.ops[op].buffers()).map(|access| access.buf.0).collect();
        let widths: usize = buffers.into_iter().map(|buf| program.widths[buf]).sum();
        // Between the parts of an operation as much as the widest has inside.
        let inner = ops().map(|op| program.ops[op].inner_width()).max().unwrap_or(0);
        let rows = sizes.max_tokens * (widths + 2 * inner);
        let results = sizes.max_outputs * program.n_out;
        SideBytes {
            weights: weight_bytes(program, ops()),
            kv: kv.sum(),
            activations: ((rows + results) * size_of::<f32>()) as u64,
        }
    }
}

/// The parts of a program with their operations, without those that have none.
pub(super) fn parts(program: &Program) -> Vec<(PartName, Range<usize>)> {
    let n = program.ops.len();
    let start = program.layers.first().map_or(n, |layer| layer.start);
    let end = program.layers.last().map_or(n, |layer| layer.end);
    let layers = program.layers.iter().enumerate();
    let layers = layers.map(|(i, ops)| (PartName::Layer(i), ops.clone()));
    let parts = [(PartName::Start, 0..start)].into_iter().chain(layers);
    let parts = parts.chain([(PartName::End, end..n)]);
    parts.filter(|(_, ops)| !ops.is_empty()).collect()
}

/// The part that an operation is in.
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
pub(super) fn part_of(program: &Program, op: usize) -> PartName {
    let part = parts(program).into_iter().find(|(_, ops)| ops.contains(&op));
    part.map_or(PartName::End, |(name, _)| name)
}

/// Bytes of weights that one token reads in operations.
fn bytes_read(program: &Program, is_here: impl Fn(usize) -> bool) -> u64 {
    let of_op = |op: &Op| {
        let (n_used, n) = match op {
            Op::Moe(moe) => (moe.n_used as u64, moe.n_experts as u64),
            _ => (1, 1),
        };
        let weights = op.weights().map(|(usage, weight)| {
            let bytes = weight.bytes().len() as u64;
            match usage {
                WeightUse::Product if weight.n > 1 => bytes / n.max(1) * n_used,
                WeightUse::Product => bytes,
                WeightUse::Lookup => weight.row_bytes() as u64,
            }
        });
        weights.sum::<u64>()
    };
    let here = program.ops.iter().enumerate().filter(|&(i, _)| is_here(i));
    here.map(|(_, op)| of_op(op)).sum()
}

/// Bytes of the weights of operations, each once.
fn weight_bytes(program: &Program, ops: impl Iterator<Item = usize>) -> u64 {
    let weights = ops.flat_map(|op| program.ops[op].weights()).map(|(_, weight)| weight);
    let of_each = weights.map(|weight| (weight.id().0, weight.bytes().len() as u64));
    of_each.collect::<std::collections::BTreeMap<_, _>>().into_values().sum()
}
