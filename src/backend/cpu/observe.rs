//! Inputs of products, shown to an observer: phases that are only there when there is one. The leader
//! shows, the others wait.

use super::matmul::Source;
use super::pool::Phase;
use super::{Context, TokenSet};
use crate::backend::observer::{Observer, Product};
use crate::backend::program::{BoundWeight, HeadLinear};
use std::sync::{Mutex, PoisonError};

/// Shows an observer something.
type Show<'a> = dyn FnMut(&mut dyn Observer) + 'a;

/// Calls what it is given with the observer; workers share it.
pub(super) type WithObserver<'a> = dyn Fn(&mut Show<'_>) + Sync + 'a;

/// The observer behind a lock that only the leader takes.
pub(super) fn shared(observer: &mut dyn Observer) -> impl Fn(&mut Show<'_>) {
    let observer = Mutex::new(observer);
    move |f| f(&mut **observer.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Context<'_> {
    /// A phase in which the leader shows something, if there is an observer.
    pub(super) fn show(&self, mut f: impl FnMut(&Phase<'_>, &mut dyn Observer)) {
        let Some(with_observer) = self.observer else { return };
        self.worker.phase(|phase| {
            if self.worker.index() == 0 {
                with_observer(&mut |observer| f(phase, observer));
            }
        });
    }

    /// The input that weights share.
    pub(super) fn show_input<'w>(
        &self,
        source: Source<'_>,
        weights: impl Iterator<Item = &'w BoundWeight> + Clone,
        row: &mut Vec<f32>,
    ) {
        let n = source.set.len();
        self.show(|phase, observer| {
            for weight in weights.clone() {
                self.read_rows(source, 0..n, weight.cols, phase, row);
                let product = Product { weight: weight.id(), index: 0 };
                observer.matmul_input(product, weight.cols, &row[..n * weight.cols]);
            }
        });
    }

    /// The inputs of each head's matrix.
    pub(super) fn show_heads(&self, op: &HeadLinear, set: TokenSet<'_>, row: &mut Vec<f32>) {
        let (weight, input) = (&op.weight, &self.backend.buffers[op.input.0]);
        self.show(|phase, observer| {
            for index in 0..weight.n {
                row.clear();
                for i in 0..set.len() {
                    let x = input.read_row(phase, set.get(i));
                    row.extend_from_slice(&x[index * op.input_stride..][..weight.cols]);
                }
                observer.matmul_input(Product { weight: weight.id(), index }, weight.cols, row);
            }
        });
    }
}
