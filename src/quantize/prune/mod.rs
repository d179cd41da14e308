//! Pruning: weights of the products of layers become zero, exactly as many as asked for.
//!
//! A method is a row of [`PRUNE_METHODS`]. Magnitude and Wanda (arXiv:2306.11695) give each weight a
//! score, `|w|` or `|w|` times the norm of its column's inputs, and take the least of each row, or of each
//! group of neighbours; what stays is not changed: a type that has a code for zero keeps its blocks but
//! for these codes. SparseGPT (arXiv:2301.00774) goes from column to column and has the weights behind make
//! up for those that went, so all are written anew. Embeddings, heads, norms and routers stay as they are.

mod at_inputs;
mod feedback;
mod sparsity;

pub use at_inputs::PruneAtInputs;
pub use feedback::block_len;
pub use sparsity::{NoSparsity, Sparsity};

use super::error::QuantizeError;
use super::mix::{Facts, MixError, Shape, is_product_of_layer};
use gguf_rs_lite::{GgmlType, GgufFile, TensorInfo};
use regex_automata::meta::Regex;

/// A way of choosing the weights that go.
#[derive(Debug)]
pub struct PruneMethod {
    /// Name that users say.
    pub name: &'static str,
    /// Description in one line.
    pub about: &'static str,
    /// Whether it has to know how large the inputs of columns are.
    pub sees_inputs: bool,
    /// Whether what stays makes up for what goes, for which it has to see a text.
    pub feeds_back: bool,
}

/// Every method.
pub static PRUNE_METHODS: &[PruneMethod] = &[
    PruneMethod {
        name: "magnitude",
        about: "the smallest weights of each row",
        sees_inputs: false,
        feeds_back: false,
    },
    PruneMethod {
        name: "wanda",
        about: "the smallest of each row times the norm of their column's inputs",
        sees_inputs: true,
        feeds_back: false,
    },
    PruneMethod {
        name: "sparsegpt",
        about: "those of each row, part by part, that cost least once the columns behind make up for them",
        sees_inputs: true,
        feeds_back: true,
    },
];

impl PruneMethod {
    /// The method of a name.
    pub fn from_name(name: &str) -> Option<&'static PruneMethod> {
        PRUNE_METHODS.iter().find(|method| method.name.eq_ignore_ascii_case(name))
    }
}

/// Pruning of a file: which tensors, and how.
#[derive(Debug)]
pub struct Pruning {
    /// The method.
    pub method: &'static PruneMethod,
    /// How much goes.
    pub sparsity: Sparsity,
    /// Whether inputs come of a text, layer after layer, and not of importances.
    pub sees_text: bool,
    /// Type that pruned tensors get; their own where there is none.
    pub ty: Option<GgmlType>,
    /// Patterns of the names of tensors that are pruned, as they were given; all products of layers
    /// where there are none.
    patterns: Vec<(String, Regex)>,
}

impl Pruning {
    /// Pruning of the tensors whose name one of some patterns finds, or of all that can be, by importances
    /// where the method needs any.
    ///
    /// # Errors
    /// A pattern is no regular expression.
    pub fn new(
        method: &'static PruneMethod,
        sparsity: Sparsity,
        patterns: &[String],
    ) -> Result<Pruning, MixError> {
        let compiled = patterns.iter().map(|text| Ok((text.clone(), compile(text)?)));
        let patterns = compiled.collect::<Result<_, MixError>>()?;
        Ok(Pruning { method, sparsity, sees_text: false, ty: None, patterns })
    }

    /// For each tensor of a file whether it is pruned.
    ///
    /// # Errors
    /// There is none; or a pattern finds none that can be.
    pub fn tensors(&self, file: &GgufFile) -> Result<Vec<bool>, QuantizeError> {
        let facts = Facts::of(file)?;
        let can_be = |info: &TensorInfo| is_product_of_layer(&Shape::from(info), &facts);
        for (text, pattern) in &self.patterns {
            let finds = |info: &TensorInfo| pattern.is_match(&info.name) && can_be(info);
            if !file.tensors().iter().any(finds) {
                return Err(QuantizeError::NothingToPrune { pattern: Some(text.clone()) });
            }
        }
        let is_wanted = |info: &TensorInfo| {
            let all = self.patterns.is_empty();
            can_be(info) && (all || self.patterns.iter().any(|(_, p)| p.is_match(&info.name)))
        };
        let pruned: Vec<bool> = file.tensors().iter().map(is_wanted).collect();
        match pruned.contains(&true) {
            true => Ok(pruned),
            false => Err(QuantizeError::NothingToPrune { pattern: None }),
        }
    }

    /// Zeros that a tensor gets: exactly as many in each row.
    pub fn zeros(&self, info: &TensorInfo) -> u64 {
        info.rows() * self.sparsity.zeros(info.cols() as usize) as u64
    }

    /// Refuses a tensor whose rows are no whole number of groups.
    pub(super) fn check(&self, info: &TensorInfo) -> Result<(), QuantizeError> {
        match self.sparsity.group() {
            Some(group) if !info.cols().is_multiple_of(group as u64) => {
                let (name, cols) = (info.name.clone(), info.cols());
                Err(QuantizeError::PruneGroups { name, cols, group })
            }
            _ => Ok(()),
        }
    }

    /// Sets weights of a row to zero by their scores; `importance` are mean squares of the columns' inputs,
    /// all alike if there are none.
    pub(super) fn row(&self, x: &mut [f32], importance: Option<&[f32]>) {
        let importance = importance.filter(|_| self.method.sees_inputs);
        let scores: Vec<f32> = match importance {
            Some(importance) => x.iter().zip(importance).map(|(x, i)| x.abs() * i.sqrt()).collect(),
            None => x.iter().map(|x| x.abs()).collect(),
        };
        let mut is_zero = vec![false; x.len()];
        self.sparsity.choose(x, &scores, &mut is_zero);
        x.iter_mut().zip(is_zero).filter(|(_, zero)| *zero).for_each(|(x, _)| *x = 0.0);
    }
}

fn compile(text: &str) -> Result<Regex, MixError> {
    let bad = |error: regex_automata::meta::BuildError| MixError::Pattern {
        pattern: text.to_owned(),
        reason: error.syntax_error().map_or_else(|| error.to_string(), |e| e.to_string()),
    };
    Regex::new(text).map_err(bad)
}
