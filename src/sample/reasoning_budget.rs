//! A limit on reasoning: behind it the tokens that close reasoning are the only candidates.

use super::{Candidates, Filter, SampleError, rng::Rng};

/// Counts tokens between the marks of reasoning, and closes it when there are enough.
#[derive(Clone, Debug)]
pub struct ReasoningBudget {
    open: Vec<u32>,
    close: Vec<u32>,
    n_max: usize,
    /// Tokens since reasoning was opened; `None` outside.
    n: Option<usize>,
    /// The last tokens, as many as the longer mark has.
    last: Vec<u32>,
    /// Tokens of the closing mark that are written already because the budget is used up.
    n_closed: usize,
}

impl ReasoningBudget {
    /// A budget of `n_max` tokens between the tokens of two marks, neither of which is empty.
    pub fn new(open: Vec<u32>, close: Vec<u32>, n_max: usize) -> Self {
        Self { open, close, n_max, n: None, last: Vec::new(), n_closed: 0 }
    }

    /// The token that has to come, if the budget is used up.
    fn forced(&self) -> Option<u32> {
        let used_up = self.n.is_some_and(|n| n >= self.n_max);
        self.close.get(self.n_closed).copied().filter(|_| used_up)
    }
}

impl Filter for ReasoningBudget {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        if let Some(token) = self.forced() {
            candidates.retain(|candidate| candidate.id == token);
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        let forced = self.forced() == Some(token);
        self.last.push(token);
        let kept = self.open.len().max(self.close.len());
        self.last.drain(..self.last.len().saturating_sub(kept));
        match self.n {
            Some(_) if self.last.ends_with(&self.close) => (self.n, self.n_closed) = (None, 0),
            Some(_) if forced => self.n_closed += 1,
            Some(n) => self.n = Some(n + 1),
            None if self.last.ends_with(&self.open) => self.n = Some(0),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{SampleParams, SamplerChain};
    use teff_kernels::BlockMax;

    /// Tokens of a chain that likes token 1 best, after `prompt`.
    fn tokens(prompt: &[u32], n_max: usize, n: usize) -> Vec<u32> {
        let budget = ReasoningBudget::new(vec![5], vec![6, 7], n_max);
        let mut chain =
            SamplerChain::with_first(SampleParams::greedy(), vec![Box::new(budget)]).unwrap();
        prompt.iter().for_each(|token| chain.accept(*token));
        let draw = |_| {
            let mut logits = [0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
            let token = chain.sample(BlockMax::of(&mut logits, &mut Vec::new())).unwrap();
            chain.accept(token);
            token
        };
        (0..n).map(draw).collect()
    }

    #[test]
    fn reasoning_is_closed_when_its_tokens_are_used_up() {
        assert_eq!(tokens(&[3, 5], 3, 7), [1, 1, 1, 6, 7, 1, 1]);
        assert_eq!(tokens(&[3, 5], 0, 4), [6, 7, 1, 1]);
        // Not opened, or closed before.
        assert_eq!(tokens(&[3], 0, 3), [1, 1, 1]);
        assert_eq!(tokens(&[5, 1, 6, 7], 0, 3), [1, 1, 1]);
        // Counted from the last time it was opened.
        assert_eq!(tokens(&[5, 1, 6, 7, 5, 1], 2, 4), [1, 6, 7, 1]);
    }
}
