//! A model whose parameters can be moved.

use super::TuneError;
use super::linear::Net;
use super::loss::{Objective, Score, Sequence};
use super::machine::Machine;
use super::parameters::{Gradients, Parameters, Trainable};
use super::pass::{self, Pass};
use crate::backend::program::Program;
use crate::decoder::lower;
use crate::engine::Model;
use gguf_rs_lite::GgmlType;
use std::ops::Range;
use std::slice::from_ref;
use teff_kernels::KernelTable;

/// A model with what is trained of it.
pub struct Tuner {
    program: Program,
    on: Machine,
    pub(super) parameters: Parameters,
    pub(super) gradients: Gradients,
}

impl Tuner {
    /// For sequences of at most `n_ctx` tokens; `wanted` chooses matrices by name. The one that makes
    /// logits and those that are looked up are never trained, whatever it says.
    ///
    /// # Errors
    /// The model has an operation whose gradient is not known or a tensor that cannot be read, or there is
    /// nothing to train.
    pub fn new(
        model: &Model,
        n_ctx: usize,
        what: Trainable,
        wanted: &dyn Fn(&str) -> bool,
        (kernels, threads): (&'static KernelTable, usize),
        seed: u64,
    ) -> Result<Tuner, TuneError> {
        let program = lower(model.file(), model.spec(), kernels, n_ctx)?;
        pass::check(&program)?;
        let on = Machine { kernels, threads };
        let parameters = Parameters::new(on, &program, what, wanted, seed)?;
        let gradients = Gradients::of(&parameters);
        Ok(Tuner { program, on, parameters, gradients })
    }

    /// Numbers that are trained.
    pub fn n_trained(&self) -> usize {
        self.parameters.len()
    }

    /// Names of what is trained: tensors, each with what of it.
    pub fn names(&self) -> impl Iterator<Item = (&str, usize)> {
        self.parameters.all.iter().map(|p| (&p.name[..], p.values.len()))
    }

    /// Matrices of which scales or an adapter are trained.
    pub fn n_matrices(&self) -> usize {
        self.parameters.n_matrices()
    }

    /// Matrices that were to be trained and stay, as their types have no scales or none that a step moves.
    pub fn fixed(&self) -> impl Iterator<Item = (&str, GgmlType)> {
        self.parameters.fixed.iter().map(|(name, ty)| (&name[..], *ty))
    }

    /// Tokens of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.program.n_vocab
    }

    pub(super) fn kernels(&self) -> &'static KernelTable {
        self.on.kernels
    }

    fn net(&self) -> Net<'_> {
        Net { on: self.on, parameters: &self.parameters }
    }

    /// The logits behind each token, `[tokens][n_vocab]`.
    ///
    /// # Errors
    /// A token is none of the vocabulary, or there is no memory.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, TuneError> {
        let (mut all, whole) = (Vec::new(), 0..tokens.len());
        let batch = (tokens, from_ref(&whole));
        let mut pass = Pass::new(self.net(), &self.program, batch, false)?;
        pass.forward(&mut |_: Range<usize>, rows: &mut [f32]| {
            all.extend_from_slice(rows);
            Ok(())
        })?;
        Ok(all)
    }

    /// The loss of a sequence: beside the teacher's logits for each token but the last, if there are some.
    ///
    /// # Errors
    /// A token is none of the vocabulary, logits are no numbers, or there is no memory.
    pub fn score(&self, sequence: &Sequence, teacher: Option<&[f32]>) -> Result<Score, TuneError> {
        let mut nobody = Gradients(Vec::new());
        self.run(sequence, teacher, None, &mut nobody)
    }

    /// The loss of a sequence, whose gradient times `factor` is added to the others since the last step.
    ///
    /// # Errors
    /// As [`Tuner::score`].
    pub fn learn(
        &mut self,
        sequence: &Sequence,
        teacher: Option<&[f32]>,
        factor: f32,
    ) -> Result<Score, TuneError> {
        let mut gradients = std::mem::replace(&mut self.gradients, Gradients(Vec::new()));
        let score = self.run(sequence, teacher, Some(factor), &mut gradients);
        self.gradients = gradients;
        score
    }

    fn run(
        &self,
        sequence: &Sequence,
        teacher: Option<&[f32]>,
        factor: Option<f32>,
        gradients: &mut Gradients,
    ) -> Result<Score, TuneError> {
        let Some((&last, tokens)) = sequence.tokens.split_last() else {
            return Err(TuneError::NoData);
        };
        if last as usize >= self.program.n_vocab {
            let n_vocab = self.program.n_vocab;
            return Err(TuneError::TokenId { id: last, n_vocab });
        }
        let (on, score) = (self.on, Score::default());
        let mut objective = Objective { on, sequence, teacher, factor, score };
        let whole = 0..tokens.len();
        let batch = (tokens, from_ref(&whole));
        let mut pass = Pass::new(self.net(), &self.program, batch, factor.is_some())?;
        pass.forward(&mut |tokens, logits| objective.rows(tokens, logits))?;
        if factor.is_some() {
            pass.backward(gradients)?;
        }
        Ok(objective.score)
    }

    /// The parameters' values.
    pub fn values(&self) -> Vec<Vec<f32>> {
        self.parameters.all.iter().map(|p| p.values.clone()).collect()
    }

    /// The gradients since the last step.
    pub fn gradients(&self) -> &[Vec<f32>] {
        &self.gradients.0
    }

    /// Gives the parameters other values, and forgets gradients.
    ///
    /// # Errors
    /// There is no memory.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn set_values(&mut self, values: &[Vec<f32>]) -> Result<(), TuneError> {
        assert_eq!(values.len(), self.parameters.all.len(), "values of each parameter");
        for (parameter, values) in self.parameters.all.iter_mut().zip(values) {
            parameter.values.copy_from_slice(values);
        }
        self.gradients.0.iter_mut().for_each(|gradients| gradients.fill(0.0));
        self.parameters.apply(self.on)
    }
}
