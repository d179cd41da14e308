//! Which operations of a program run where: layers on a GPU, counted from the last, and the rest on
//! the CPU.
//!
//! With the last layers goes the head, so that a step crosses once; what comes before the first layer
//! goes along when all layers do. A layer with an operation that the GPU has no shader for stays on
//! the CPU, with the reason; so does one whose keys and values are shared with such a layer.

use super::offload::PartName;
use super::program::{AccessKind, Buf, Columns, Op, Program};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::str::FromStr;

/// Layers that are to run on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// None: no GPU is touched.
    #[default]
    None,
    /// So many, counted from the last.
    Count(usize),
    /// As many as the GPU has memory for.
    Auto,
    /// All, with what comes before the first.
    All,
}

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<GpuLayers, String> {
        match text {
            "auto" => Ok(GpuLayers::Auto),
            "all" => Ok(GpuLayers::All),
            _ => match text.parse() {
                Ok(0) => Ok(GpuLayers::None),
                Ok(n) => Ok(GpuLayers::Count(n)),
                Err(_) => Err("must be a number of layers, auto or all".into()),
            },
        }
    }
}

/// Shaders of a GPU. All but the best are for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShaderChoice {
    /// Shaders that this adapter is best at.
    #[default]
    Best,
    /// Shaders that any adapter can have.
    Plain,
    /// With sums by subgroups, as wide as the adapter says.
    Subgroups,
    /// With sums by subgroups, whatever the adapter says of their width.
    SubgroupsOfAny,
    /// As for subgroups of so many lanes, without any.
    Emulated(u32),
}

/// Source of the weights that a GPU reads. All but the best is for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightSource {
    /// Where the file is mapped, if the GPU has the CPU's memory and can; else copies.
    #[default]
    Best,
    /// Copies.
    Copies,
    /// Copies of the map's pages that a weight touches, bound as if they were the map.
    PageCopies,
    /// Pages of zeros in the place of the map, as of a GPU that does not read what is there.
    PagesMisread,
}

/// Placement of a program: where it is to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Layers on a GPU.
    pub layers: GpuLayers,
    /// Part of the GPU's name; `None`: the best that is no program on the CPU.
    pub adapter: Option<String>,
    /// Its shaders.
    pub shaders: ShaderChoice,
    /// Source that it reads weights from.
    pub weights: WeightSource,
    /// Whether the CPUs go on where the GPU cannot, be it lost or out of memory in the middle of an answer.
    /// With [`GpuLayers::Auto`] they do in any case.
    pub falls_back: bool,
    /// Number of the range of operations before which the GPU is destroyed, for tests of what follows.
    pub lose_at: Option<u64>,
}

/// Receiver of what becomes of layers on a GPU.
pub trait PlacementListener: Send + Sync {
    /// Hears, a line at a time, what a placement that left a choice has come to.
    fn tell(&self, line: &str);

    /// Hears that `done` of `total` bytes of weights are on the GPU; [`ControlFlow::Break`] has the rest
    /// stay away, and the start fail.
    fn bring(&self, done: u64, total: u64) -> ControlFlow<()> {
        let _ = (done, total);
        ControlFlow::Continue(())
    }
}

impl<F: Fn(&str) + Send + Sync> PlacementListener for F {
    fn tell(&self, line: &str) {
        self(line);
    }
}

/// A place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The CPU.
    Cpu,
    /// A GPU.
    Gpu,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Cpu => "CPU",
            Side::Gpu => "GPU",
        })
    }
}

/// The places of a program's operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Of each operation.
    sides: Vec<Side>,
    /// Of the keys and values of each layer that has some.
    layer_sides: Vec<Side>,
    /// Buffers that cross before an operation that is elsewhere than the one before it.
    crossings: BTreeMap<usize, Vec<Buf>>,
    /// Of each part that was to be on the GPU and is not, the reason.
    kept: Vec<(PartName, String)>,
    n_layers_on_gpu: usize,
}

impl Plan {
    /// A plan; `unsupported` says why an operation cannot be on the GPU.
    pub fn new(
        program: &Program,
        layers: GpuLayers,
        unsupported: &dyn Fn(&Op) -> Option<String>,
    ) -> Plan {
        let n_layers = program.layers.len();
        let (n_wanted, wants_start) = match layers {
            GpuLayers::None => (0, false),
            GpuLayers::Count(n) => (n.min(n_layers), n > n_layers),
            GpuLayers::Auto | GpuLayers::All => (n_layers, true),
        };
        let mut kept = BTreeMap::new();
        for layer in n_layers - n_wanted..n_layers {
            let ops = &program.ops[program.layers[layer].clone()];
            if let Some(reason) = ops.iter().find_map(unsupported) {
                kept.insert(layer, reason);
            }
        }
        let is_on_gpu = |layer: usize, kept: &BTreeMap<_, _>| {
            layer >= n_layers - n_wanted && !kept.contains_key(&layer)
        };
        // Keys and values are where all operations on them are.
        while let Some((layer, other)) = torn(program, &|layer| is_on_gpu(layer, &kept)) {
            kept.insert(layer, format!("layer {other} on the CPU has the same keys and values"));
        }
        let mut sides = vec![Side::Cpu; program.ops.len()];
        for layer in (0..n_layers).filter(|&layer| is_on_gpu(layer, &kept)) {
            sides[program.layers[layer].clone()].fill(Side::Gpu);
        }
        let start = program.layers.first().map_or(program.ops.len(), |layer| layer.start);
        let end = program.layers.last().map_or(program.ops.len(), |layer| layer.end);
        let kept_layers = kept.iter().map(|(&layer, why)| (PartName::Layer(layer), why.clone()));
        let mut kept_parts: Vec<(PartName, String)> = kept_layers.collect();
        for (name, range, wanted) in [
            (PartName::Start, 0..start, wants_start),
            (PartName::End, end..program.ops.len(), n_wanted > 0),
        ] {
            for op in range.filter(|_| wanted) {
                match unsupported(&program.ops[op]) {
                    None => sides[op] = Side::Gpu,
                    Some(reason) => kept_parts.push((name, reason)),
                }
            }
        }
        let n_layers_on_gpu = (0..n_layers).filter(|&layer| is_on_gpu(layer, &kept)).count();
        let mut layer_sides = vec![Side::Cpu; program.kv.len()];
        for (op, side) in program.ops.iter().zip(&sides) {
            if let Some(layer) = kv_layer(op) {
                layer_sides[layer] = *side;
            }
        }
        let crossings = crossings(program, &sides);
        Plan { sides, layer_sides, crossings, kept: kept_parts, n_layers_on_gpu }
    }

    /// The place of an operation.
    pub fn side(&self, op: usize) -> Side {
        self.sides[op]
    }

    /// The place of a layer's keys and values.
    pub fn layer_side(&self, layer: usize) -> Side {
        self.layer_sides[layer]
    }

    /// Layers on the GPU.
    pub fn n_layers_on_gpu(&self) -> usize {
        self.n_layers_on_gpu
    }

    /// Whether anything is on the GPU.
    pub fn uses_gpu(&self) -> bool {
        self.sides.contains(&Side::Gpu)
    }

    /// Parts that were to be on the GPU and are not, or not whole, with the reasons.
    pub fn kept(&self) -> impl Iterator<Item = (PartName, &str)> {
        self.kept.iter().map(|(part, reason)| (*part, &reason[..]))
    }

    /// Reason for which a part that was to be on the GPU is not.
    pub fn reason(&self, part: PartName) -> Option<&str> {
        self.kept().find(|(kept, _)| *kept == part).map(|(_, reason)| reason)
    }

    /// Times that a step goes from one place to the other.
    pub fn n_crossings(&self) -> usize {
        self.crossings.len()
    }

    /// Whether an operation is elsewhere than the one before it.
    pub fn is_boundary(&self, op: usize) -> bool {
        self.crossings.contains_key(&op)
    }

    /// Buffers that cross before an operation.
    pub fn crossing(&self, op: usize) -> Vec<Buf> {
        self.crossings.get(&op).cloned().unwrap_or_default()
    }

    /// Parts of a range that are in one place each, in order.
    pub fn parts(&self, ops: Range<usize>) -> Vec<Range<usize>> {
        let mut start = ops.start;
        let parts = self.sides[ops].chunk_by(|a, b| a == b);
        let ends = parts.map(|part| {
            let range = start..start + part.len();
            start = range.end;
            range
        });
        ends.collect()
    }
}

/// The layer whose keys and values an operation writes or reads.
fn kv_layer(op: &Op) -> Option<usize> {
    match op {
        Op::RopeKv(op) => Some(op.layer),
        Op::Attention(op) => Some(op.layer),
        _ => None,
    }
}

/// A layer on the GPU, and one that is not and uses the same keys and values.
fn torn(program: &Program, is_on_gpu: &dyn Fn(usize) -> bool) -> Option<(usize, usize)> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); program.kv.len()];
    for (layer, ops) in program.layers.iter().enumerate() {
        program.ops[ops.clone()].iter().filter_map(kv_layer).for_each(|kv| users[kv].push(layer));
    }
    users.iter().find_map(|users| {
        let other = users.iter().find(|&&layer| !is_on_gpu(layer))?;
        let layer = users.iter().find(|&&layer| is_on_gpu(layer))?;
        Some((*layer, *other))
    })
}

/// What each part of a program reads of what is only in the other place.
fn crossings(program: &Program, sides: &[Side]) -> BTreeMap<usize, Vec<Buf>> {
    // Where a buffer's content is, by place.
    let mut is_at = vec![[false; 2]; program.widths.len()];
    let mut crossings = BTreeMap::new();
    let mut start = 0;
    for part in sides.chunk_by(|a, b| a == b) {
        let (here, there) = (part[0] as usize, 1 - part[0] as usize);
        let ops = start..start + part.len();
        let mut crossing = Vec::new();
        for access in program.ops[ops].iter().flat_map(Op::buffers) {
            let at = &mut is_at[access.buf.0];
            let is_whole = match access.columns {
                Columns::From(from) => from == 0,
                Columns::Runs { from, len, .. } => from == 0 && len >= program.widths[access.buf.0],
            };
            let overwrites = access.kind == AccessKind::Write && is_whole;
            if !overwrites && at[there] && !at[here] {
                crossing.push(access.buf);
                at[here] = true;
            }
            if access.kind != AccessKind::Read {
                at[here] = true;
                at[there] = false;
            }
        }
        if start > 0 {
            crossings.insert(start, crossing);
        }
        start += part.len();
    }
    crossings
}

#[cfg(test)]
mod tests {
    use super::super::program::Tokens;
    use super::*;

    fn add(input: usize, out: usize) -> Op {
        Op::Add { input: Buf(input), out: Buf(out), from: 0, rows: Tokens::All }
    }

    fn scale(buf: usize) -> Op {
        Op::Scale { buf: Buf(buf), factors: Vec::new(), rows: Tokens::All }
    }

    /// Three layers of two operations between a beginning and an end.
    fn program() -> Program {
        let ops = vec![
            scale(0),
            add(0, 1),
            add(1, 0),
            scale(0),
            add(0, 2),
            add(0, 1),
            add(1, 0),
            scale(0),
        ];
        Program { widths: vec![4; 3], ops, layers: vec![1..3, 3..5, 5..7], ..Program::default() }
    }

    fn on_gpu(plan: &Plan) -> Vec<usize> {
        (0..plan.sides.len()).filter(|&op| plan.side(op) == Side::Gpu).collect()
    }

    #[test]
    fn layers_are_counted_from_the_last() {
        let program = program();
        for (layers, ops, n_crossings) in [
            (GpuLayers::None, vec![], 0),
            (GpuLayers::Count(1), vec![5, 6, 7], 1),
            (GpuLayers::Count(3), (1..8).collect(), 1),
            (GpuLayers::Count(4), (0..8).collect(), 0),
            (GpuLayers::All, (0..8).collect(), 0),
        ] {
            let plan = Plan::new(&program, layers, &|_| None);
            assert_eq!(on_gpu(&plan), ops, "{layers:?}");
            assert_eq!(plan.n_crossings(), n_crossings, "{layers:?}");
        }
    }

    #[test]
    fn a_layer_with_an_operation_that_has_no_shader_stays() {
        // The second layer's.
        let no_scale = |op: &Op| matches!(op, Op::Scale { .. }).then(|| "scales".to_owned());
        let plan = Plan::new(&program(), GpuLayers::All, &no_scale);
        assert_eq!(on_gpu(&plan), [1, 2, 5, 6]);
        // So do the beginning and the end.
        let kept: Vec<_> = plan.kept().collect();
        let parts = [PartName::Layer(1), PartName::Start, PartName::End];
        assert_eq!(kept, parts.map(|part| (part, "scales")));
        assert_eq!(plan.parts(2..7), [2..3, 3..5, 5..7]);
        // The stream crosses each time, what only one place uses does not.
        assert_eq!(plan.crossing(3), [Buf(0)]);
        assert_eq!(plan.crossing(5), [Buf(0)]);
    }

    #[test]
    fn numbers_of_layers_have_names() {
        assert_eq!("0".parse(), Ok(GpuLayers::None));
        assert_eq!("12".parse(), Ok(GpuLayers::Count(12)));
        assert_eq!("all".parse(), Ok(GpuLayers::All));
        assert_eq!("auto".parse(), Ok(GpuLayers::Auto));
        for text in ["", "-1", "some"] {
            assert!(text.parse::<GpuLayers>().is_err(), "{text}");
        }
    }
}
