//! Statistics of activations, collected while a model runs: the sums of squares in each column of the
//! inputs of each product, and how many rows they are of, for each expert apart.
//!
//! What a chunk of text adds is collected by itself, so that what stands is always of whole chunks.
//! Sums are f32, in the order of the tokens: they do not depend on threads. Memory: 4 bytes for each
//! column of each weight (of each expert), and as much for what stands. Cost: one thread reads the
//! inputs while the others wait.

use super::imatrix::{Imatrix, ImatrixError, Statistics, StatisticsFault};
use crate::backend::program::{Op, Program};
use crate::backend::{Observer, Product};

/// Beginning of the names of the weights of layers.
const LAYERS: &str = "blk.";
/// Matrices that make logits of the last layer's output; the second where the file has no own one.
const OUTPUTS: [&str; 2] = ["output.weight", "token_embd.weight"];

/// What is collected of one weight.
#[derive(Debug)]
struct Sums {
    name: String,
    cols: usize,
    /// Whether matrices are experts, each of which has rows of its own.
    is_experts: bool,
    /// `[matrices][cols]`.
    in_sum2: Vec<f32>,
    /// Rows of each expert, or of each matrix of a weight that all rows meet.
    counts: Vec<f32>,
}

/// Observer that collects the statistics of a chunk.
#[derive(Debug)]
pub struct Collector {
    /// By number of the weight; `None` is not collected.
    weights: Vec<Option<Sums>>,
}

impl Collector {
    /// Collector for the weights of the layers that a program multiplies by, and for the matrix that
    /// makes logits if `outputs`.
    pub fn new(program: &Program, outputs: bool) -> Collector {
        let mut weights: Vec<Option<Sums>> = program.weights.iter().map(|_| None).collect();
        for op in &program.ops {
            let is_experts = matches!(op, Op::Moe(_));
            for weight in op.products() {
                let name = &weight.name;
                if name.starts_with(LAYERS) || (outputs && OUTPUTS.contains(&&name[..])) {
                    weights[weight.id().0].get_or_insert_with(|| Sums {
                        name: name.clone(),
                        cols: weight.cols,
                        is_experts: is_experts && weight.n > 1,
                        in_sum2: vec![0.0; weight.n * weight.cols],
                        counts: vec![0.0; weight.n],
                    });
                }
            }
        }
        Collector { weights }
    }

    /// Adds the chunk that was seen to what stands, and begins the next one.
    ///
    /// # Errors
    /// An input was no finite number, or sums become infinite; nothing was added then.
    pub fn commit(&mut self, into: &mut Imatrix) -> Result<(), ImatrixError> {
        let mut found = Vec::new();
        for sums in self.weights.iter().flatten() {
            // Heads are parts of one matrix that every row meets, so they have one count.
            let counts = match sums.is_experts {
                true => sums.counts.clone(),
                false => vec![sums.counts[0]],
            };
            let fault = |fault| ImatrixError::Weight { name: sums.name.clone(), fault };
            let statistics = Statistics::new(sums.in_sum2.clone(), counts).map_err(fault)?;
            // Before anything is added: what stands stays of whole chunks.
            if let Some(own) = into.get(&sums.name) {
                check_sum(own, &statistics).map_err(fault)?;
            }
            found.push((&sums.name[..], statistics));
        }
        found.into_iter().try_for_each(|(name, statistics)| into.add(name, statistics))?;
        into.chunk_count = into.chunk_count.saturating_add(1);
        self.clear();
        Ok(())
    }

    /// Forgets the chunk that was begun.
    pub fn clear(&mut self) {
        for sums in self.weights.iter_mut().flatten() {
            sums.in_sum2.fill(0.0);
            sums.counts.fill(0.0);
        }
    }
}

/// Checks that two statistics can be added.
fn check_sum(own: &Statistics, other: &Statistics) -> Result<(), StatisticsFault> {
    let expected = [own.matrices(), own.columns()];
    let found = [other.matrices(), other.columns()];
    if expected != found {
        return Err(StatisticsFault::Other { expected, found });
    }
    let mut sums = own.in_sum2().iter().zip(other.in_sum2()).map(|(a, b)| a + b);
    match sums.position(|sum| !sum.is_finite()) {
        Some(column) => Err(StatisticsFault::Sum { column, value: f32::INFINITY }),
        None => Ok(()),
    }
}

impl Observer for Collector {
    fn matmul_input(&mut self, product: Product, cols: usize, rows: &[f32]) {
        let Some(sums) = &mut self.weights[product.weight.0] else { return };
        debug_assert_eq!(cols, sums.cols, "{}", sums.name);
        let own = &mut sums.in_sum2[product.index * cols..][..cols];
        for row in rows.chunks_exact(cols) {
            own.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
        }
        sums.counts[product.index] += (rows.len() / cols) as f32;
    }
}

/// Experts of a weight that calibration has hardly seen.
#[derive(Clone, Debug, PartialEq)]
pub struct RareExperts {
    /// The weight.
    pub weight: String,
    /// Number of the expert, and the share of all choices that fell on it, from 0 to 1, the least first.
    pub experts: Vec<(usize, f64)>,
    /// Experts in all.
    pub n_experts: usize,
}

/// Experts that were chosen less than `share` as often as they would be if all were alike, one weight
/// for each layer.
pub fn rare_experts(imatrix: &Imatrix, share: f64) -> Vec<RareExperts> {
    let mut rare: Vec<RareExperts> = Vec::new();
    let layer = |name: &str| name.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    for (name, statistics) in imatrix.weights().filter(|(_, s)| s.matrices() > 1) {
        if rare.last().is_some_and(|last| layer(&last.weight) == layer(name)) {
            continue;
        }
        let total: f64 = statistics.counts().iter().map(|&count| f64::from(count)).sum();
        let n_experts = statistics.matrices();
        let shares = statistics.counts().iter().map(|&count| f64::from(count) / total.max(1.0));
        let is_rare = |&(_, own): &(usize, f64)| own * (n_experts as f64) < share;
        let mut experts: Vec<(usize, f64)> = shares.enumerate().filter(is_rare).collect();
        if !experts.is_empty() {
            experts.sort_by(|a, b| a.1.total_cmp(&b.1));
            rare.push(RareExperts { weight: name.to_owned(), experts, n_experts });
        }
    }
    rare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_experts_are_told_once_for_each_layer() {
        let mut imatrix = Imatrix::new(Vec::new(), 1, 64);
        let statistics =
            |counts: &[f32]| Statistics::new(vec![1.0; 2 * counts.len()], counts.to_vec()).unwrap();
        for name in ["ffn_down_exps", "ffn_gate_exps"] {
            let counts = [100.0, 90.0, 0.0, 2.0];
            imatrix.add(&format!("blk.1.{name}.weight"), statistics(&counts)).unwrap();
            imatrix.add(&format!("blk.0.{name}.weight"), statistics(&[9.0, 8.0])).unwrap();
        }
        imatrix.add("blk.1.attn_q.weight", statistics(&[5.0])).unwrap();
        let rare = rare_experts(&imatrix, 0.1);
        assert_eq!(rare.len(), 1);
        assert_eq!((&rare[0].weight[..], rare[0].n_experts), ("blk.1.ffn_down_exps.weight", 4));
        assert_eq!(rare[0].experts, [(2, 0.0), (3, 2.0 / 192.0)]);
    }
}
