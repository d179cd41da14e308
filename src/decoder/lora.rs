//! LoRA adapters as operations of a program: before a product `W x` come `t = A x` and `B t`, which
//! is added to the product before its activation.
//!
//! The matrices of all adapters, and of all products that share an input, are one pair: `A` has
//! their rows one behind the other, `B` is zero where a rank is another product's. All in f32, so
//! weights keep their types and results their bits for any batch. Cost: two more phases per
//! adapted product, and a buffer as wide as its output. Experts add theirs to their own products,
//! for which a worker computes `A x` of the tokens whose rows it multiplies. The factor
//! that a tensor may have beside it (`.scale`) is its weight's, not the adapter's.

use crate::backend::program::{
    BoundWeight, Buf, Epilogue, ExpertLowRank, Linear, Moe, Norm, Op, Output, Part, Program,
    Router, Tokens, WeightId,
};
use crate::model::{Adapter, EMBEDDING, LowRank, ModelError};
use crate::tensor::Weight;
use gguf_rs_lite::GgmlType;
use std::collections::{HashMap, HashSet};
use teff_kernels::KernelTable;

/// Number of the adapter that does not fit, and the reason.
pub type AdaptError = (usize, ModelError);

/// Adds the adapters to the products of a program.
///
/// # Errors
/// The number of an adapter that has wrong shapes, or tensors for what is no product here.
pub fn adapt(
    program: &mut Program,
    adapters: &[Adapter],
    kernels: &KernelTable,
) -> Result<(), AdaptError> {
    if adapters.is_empty() {
        return Ok(());
    }
    let ops = std::mem::take(&mut program.ops);
    let mut adapting =
        Adapting { program, adapters, kernels, adapted: HashSet::new(), pairs: HashMap::new() };
    // Where operations are now, by where they were.
    let mut places = Vec::with_capacity(ops.len() + 1);
    for op in ops {
        places.push(adapting.program.ops.len());
        match op {
            Op::Embed { table, scale, addend, positions, out } => {
                let delta = adapting.embedding(&table, scale, out)?;
                adapting.program.ops.push(Op::Embed { table, scale, addend, positions, out });
                adapting.program.ops.extend(delta.into_iter().flatten());
            }
            Op::Linear(mut linear) => {
                if let Some((delta, addend)) = adapting.linear(&linear)? {
                    linear.addend = Some(addend);
                    adapting.program.ops.extend(delta);
                }
                adapting.program.ops.push(Op::Linear(linear));
            }
            Op::Moe(mut moe) => {
                adapting.experts(&mut moe)?;
                adapting.program.ops.push(Op::Moe(moe));
            }
            other => adapting.program.ops.push(other),
        }
    }
    let adapted = adapting.adapted;
    places.push(program.ops.len());
    for layer in &mut program.layers {
        *layer = places[layer.start]..places[layer.end];
    }
    for (number, adapter) in adapters.iter().enumerate() {
        if let Some(target) = adapter.targets().find(|target| !adapted.contains(*target)) {
            return Err((number, ModelError::NotAdaptable(target.into())));
        }
    }
    program.share_buffers();
    Ok(())
}

struct Adapting<'a> {
    program: &'a mut Program,
    adapters: &'a [Adapter],
    kernels: &'a KernelTable,
    /// Names of tensors that were found.
    adapted: HashSet<String>,
    /// `A` and `B` by the weights of the product that they adapt.
    pairs: HashMap<Vec<WeightId>, [BoundWeight; 2]>,
}

impl Adapting<'_> {
    /// Operations that add adapters to the embedding, if there are any for it.
    fn embedding(
        &mut self,
        table: &Weight,
        scale: f32,
        out: Buf,
    ) -> Result<Option<[Op; 2]>, AdaptError> {
        let pairs = self.low_rank(table)?;
        let rank: usize = pairs.iter().map(|pair| pair.rank).sum();
        if rank == 0 {
            return Ok(None);
        }
        // The tables and matrices of several adapters side by side.
        let [a, b] = [table.rows, table.cols].map(|rows| vec![0.0; rows * rank]);
        let (mut a, mut b, mut first) = (a, b, 0);
        for pair in &pairs {
            copy_columns(&pair.a, pair.rank, &mut a, rank, first);
            copy_columns(&pair.b, pair.rank, &mut b, rank, first);
            first += pair.rank;
        }
        let ranks = self.program.buffer(rank);
        let (name, rows) = (&table.name, table.rows);
        let b = self.program.bind(weight(format!("{name}.lora_b"), &b, table.cols, rank));
        let table = self.program.bind(weight(format!("{name}.lora_a"), &a, rows, rank));
        Ok(Some([
            Op::Embed { table, scale, addend: None, positions: None, out: ranks },
            product(ranks, None, b, Output::Add(out, 1.0), Tokens::All),
        ]))
    }

    /// Operations that compute the addend of an operation's products, and the buffer with it.
    fn linear(&mut self, linear: &Linear) -> Result<Option<([Op; 2], Buf)>, AdaptError> {
        let (mut pairs, mut rows) = (Vec::new(), 0);
        for part in &linear.parts {
            // The embedding's adapter is for the embedding alone, even where that is the head too.
            if part.weight.name != EMBEDDING {
                let of_part = self.low_rank(&part.weight)?;
                pairs.extend(of_part.into_iter().map(|pair| (rows, pair)));
            }
            rows += part.weight.rows;
        }
        let rank: usize = pairs.iter().map(|(_, pair)| pair.rank).sum();
        if rank == 0 {
            return Ok(None);
        }
        let of: Vec<WeightId> = linear.parts.iter().map(|part| part.weight.id()).collect();
        let [a, b] = match self.pairs.get(&of) {
            Some(known) => known.clone(),
            None => {
                let name = &linear.parts[0].weight.name;
                let bound = stacked(name, &pairs, rows, rank).map(|w| self.program.bind(w));
                self.pairs.insert(of, bound.clone());
                bound
            }
        };
        let (ranks, addend) = (self.program.buffer(rank), self.program.buffer(rows));
        let Linear { input, norm, rows, .. } = linear;
        let delta = [
            product(*input, norm.clone(), a, Output::Store(ranks), *rows),
            product(ranks, None, b, Output::Store(addend), *rows),
        ];
        Ok(Some((delta, addend)))
    }

    /// Adapts the experts of a mixture, and its router, which is then a product ahead of it.
    fn experts(&mut self, moe: &mut Moe) -> Result<(), AdaptError> {
        for part in moe.gate.iter_mut().chain([&mut moe.up, &mut moe.down]) {
            let pairs = self.low_rank(&part.weight)?.into_iter();
            let pairs = pairs.map(|LowRank { rank, a, b }| ExpertLowRank { rank, a, b });
            part.low_rank = pairs.collect();
        }
        let Router::Input(router) = &moe.router else { return Ok(()) };
        let scores = self.program.buffer(moe.n_experts);
        let (norm, out) = (moe.norm.clone(), Output::Store(scores));
        let mut linear = Linear {
            input: moe.input,
            norm,
            parts: vec![router.clone()],
            addend: None,
            epilogue: Epilogue::None,
            out,
            rows: moe.rows,
        };
        if let Some((delta, addend)) = self.linear(&linear)? {
            linear.addend = Some(addend);
            self.program.ops.extend(delta);
            self.program.ops.push(Op::Linear(linear));
            moe.router = Router::Scores(scores);
        }
        Ok(())
    }

    /// The matrices of all adapters for a weight.
    fn low_rank(&mut self, weight: &Weight) -> Result<Vec<LowRank>, AdaptError> {
        let mut pairs = Vec::new();
        for (number, adapter) in self.adapters.iter().enumerate() {
            let shape = [weight.n, weight.rows, weight.cols];
            let pair = adapter.low_rank(&weight.name, shape, self.kernels);
            if let Some(pair) = pair.map_err(|error| (number, error))? {
                self.adapted.insert(weight.name.clone());
                pairs.push(pair);
            }
        }
        Ok(pairs)
    }
}

/// `A` and `B` of a product of `rows` rows from the pairs of its parts, beside the first row of
/// each.
fn stacked(name: &str, pairs: &[(usize, LowRank)], rows: usize, rank: usize) -> [Weight; 2] {
    let (mut a, mut b, mut first) = (Vec::new(), vec![0.0; rows * rank], 0);
    for (row, pair) in pairs {
        a.extend_from_slice(&pair.a);
        copy_columns(&pair.b, pair.rank, &mut b[row * rank..], rank, first);
        first += pair.rank;
    }
    let a = weight(format!("{name}.lora_a"), &a, rank, a.len() / rank);
    [a, weight(format!("{name}.lora_b"), &b, rows, rank)]
}

/// Copies a matrix of `n` columns to the columns from `first` of one of `cols`.
fn copy_columns(from: &[f32], n: usize, to: &mut [f32], cols: usize, first: usize) {
    for (from, to) in from.chunks_exact(n).zip(to.chunks_exact_mut(cols)) {
        to[first..first + n].copy_from_slice(from);
    }
}

fn weight(name: String, values: &[f32], rows: usize, cols: usize) -> Weight {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Weight::owned(&name, GgmlType::F32, [1, rows, cols], bytes)
}

fn product(input: Buf, norm: Option<Norm>, weight: BoundWeight, out: Output, rows: Tokens) -> Op {
    let parts = vec![Part { weight, scale: 1.0, bias: None }];
    Op::Linear(Linear { input, norm, parts, addend: None, epilogue: Epilogue::None, out, rows })
}
