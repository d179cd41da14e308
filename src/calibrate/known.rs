//! What is made of the inputs of a layer's products, for the matrices that share them.

use crate::quantize::hessian::Hessian;
use crate::quantize::prune::block_len;
use crate::quantize::{Feedback, Form, Planned, QuantizeError};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Forms and feedback by input and matrix, feedback by columns of a block besides.
#[derive(Default)]
pub(super) struct Known {
    forms: HashMap<(usize, usize), Form>,
    feedback: HashMap<(usize, usize, usize), Feedback>,
}

impl Known {
    /// Has the form of an input.
    pub fn add(
        &mut self,
        input: usize,
        matrix: usize,
        hessian: &Hessian,
    ) -> Result<(), QuantizeError> {
        if let Entry::Vacant(entry) = self.forms.entry((input, matrix)) {
            entry.insert(Form::new(hessian)?);
        }
        Ok(())
    }

    /// The form of an input that was added.
    pub fn form(&self, input: usize, matrix: usize) -> &Form {
        &self.forms[&(input, matrix)]
    }

    /// What the matrices of an input share: what errors cost, and what they add to columns where the
    /// tensor's method feeds them back.
    pub fn get(
        &mut self,
        tensor: &Planned<'_>,
        (input, matrix): (usize, usize),
        hessian: &Hessian,
        threads: usize,
    ) -> Result<(&Form, Option<&Feedback>), QuantizeError> {
        self.add(input, matrix, hessian)?;
        let form = &self.forms[&(input, matrix)];
        let is_fed = tensor.pruning.map_or(tensor.method.feeds_back, |own| own.method.feeds_back);
        if !is_fed {
            return Ok((form, None));
        }
        // All tensors of a plan that are fed are pruned, or none.
        let group = tensor.pruning.map(|own| own.sparsity.group().unwrap_or(1));
        let len = group.map_or(tensor.ty.block_len(), |group| block_len(hessian.cols, group));
        let feedback = match (self.feedback.entry((input, matrix, len)), group) {
            (Entry::Occupied(entry), _) => entry.into_mut(),
            (Entry::Vacant(entry), None) => entry.insert(Feedback::new(hessian, len, threads)?),
            (Entry::Vacant(entry), Some(_)) => {
                entry.insert(Feedback::in_place(hessian, len, threads)?)
            }
        };
        Ok((form, Some(feedback)))
    }
}
