//! What a user wants otherwise than a mix has it.

use super::MixError;
use super::rules::Role;
use gguf_rs_lite::{GgmlType, GgufFile};
use regex_automata::meta::Regex;

/// Deviations from the mix that a user wants.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Type of `output.weight`, also where the token embedding stands in for it.
    pub output: Option<GgmlType>,
    /// Type of `token_embd.weight`.
    pub token_embedding: Option<GgmlType>,
    /// Types of tensors whose name a pattern finds; the first counts.
    pub tensors: Vec<TensorType>,
    /// The base type for all tensors that are quantized.
    pub pure: bool,
    /// `output.weight` stays as it is.
    pub leave_output: bool,
}

impl Wishes {
    /// Refuses patterns that find nothing.
    ///
    /// # Errors
    /// The first such pattern.
    pub fn check(&self, file: &GgufFile) -> Result<(), MixError> {
        let is_idle = |wish: &&TensorType| {
            !file.tensors().iter().any(|tensor| wish.pattern.is_match(&tensor.name))
        };
        let idle = self.tensors.iter().find(is_idle);
        idle.map_or(Ok(()), |wish| Err(MixError::NoTensor(wish.text.clone())))
    }

    /// Whether a type is wanted for any tensor.
    pub(in crate::quantize) fn has_types(&self) -> bool {
        self.output.is_some() || self.token_embedding.is_some() || !self.tensors.is_empty()
    }

    /// The type that is wanted for a tensor.
    pub(super) fn of(&self, name: &str, role: Role) -> Option<GgmlType> {
        let named =
            self.tensors.iter().find(|wish| wish.pattern.is_match(name)).map(|wish| wish.ty);
        // The table of embeddings for each layer is a large one of its own, so a pattern may say it.
        let is_own_table = name != "token_embd.weight" && named.is_some();
        match role {
            Role::Embedding if !is_own_table => self.token_embedding.or(named),
            Role::Output => self.output.or(named),
            _ => named,
        }
    }
}

/// A type for the tensors whose name a pattern finds.
#[derive(Debug)]
pub struct TensorType {
    pattern: Regex,
    /// The pattern as it was given.
    text: String,
    ty: GgmlType,
}

impl TensorType {
    /// Compiles a pattern; it may match any part of a name.
    ///
    /// # Errors
    /// It is no regular expression.
    pub fn new(pattern: &str, ty: GgmlType) -> Result<TensorType, MixError> {
        let bad = |error: regex_automata::meta::BuildError| MixError::Pattern {
            pattern: pattern.to_owned(),
            reason: error.syntax_error().map_or_else(|| error.to_string(), |e| e.to_string()),
        };
        Ok(TensorType { pattern: Regex::new(pattern).map_err(bad)?, text: pattern.to_owned(), ty })
    }
}
