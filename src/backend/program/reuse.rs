//! Buffers that share memory.
//!
//! Lowering asks for a new buffer wherever it needs one. A program has no jumps, so a buffer is in
//! use from the first operation that names it to the last; of buffers of equal width those that are
//! never in use at the same time become one. Buffers are taken in the order of their first use,
//! each into the memory that became free last: that is optimal for intervals, and what is most
//! likely still in a cache.

use super::{Buf, Op, Program};
use std::ops::RangeInclusive;

/// Memory that buffers of one width share.
struct Slot {
    width: usize,
    /// The last operation that uses its present content.
    busy_until: usize,
}

impl Program {
    /// Has buffers share memory, and drops unused ones. Numbers of buffers change; results do not,
    /// if [`Program::check`] finds nothing, because then nothing is read before it is written.
    pub fn share_buffers(&mut self) {
        let uses = self.uses();
        let mut order: Vec<usize> = (0..uses.len()).filter(|&i| uses[i].is_some()).collect();
        order.sort_by_key(|&i| uses[i].as_ref().map(|ops| *ops.start()));
        let mut slots: Vec<Slot> = Vec::new();
        let mut slot_of = vec![usize::MAX; uses.len()];
        for i in order {
            let Some(ops) = &uses[i] else { continue };
            let width = self.widths[i];
            let is_free = |slot: &Slot| slot.width == width && slot.busy_until < *ops.start();
            let free = (0..slots.len()).filter(|&slot| is_free(&slots[slot]));
            let slot = free.max_by_key(|&slot| slots[slot].busy_until).unwrap_or_else(|| {
                slots.push(Slot { width, busy_until: 0 });
                slots.len() - 1
            });
            slots[slot].busy_until = *ops.end();
            slot_of[i] = slot;
        }
        for buf in self.ops.iter_mut().flat_map(Op::buffers_mut) {
            *buf = Buf(slot_of[buf.0]);
        }
        self.widths = slots.into_iter().map(|slot| slot.width).collect();
    }

    /// The operations from the first to the last that names each buffer.
    fn uses(&self) -> Vec<Option<RangeInclusive<usize>>> {
        let mut uses: Vec<Option<RangeInclusive<usize>>> = vec![None; self.widths.len()];
        for (i, op) in self.ops.iter().enumerate() {
            for access in op.buffers() {
                let used = &mut uses[access.buf.0];
                let first = used.as_ref().map_or(i, |ops| *ops.start());
                *used = Some(first..=i);
            }
        }
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Norm, NormKind, Tokens};
    use super::*;

    fn add(input: Buf, out: Buf) -> Op {
        Op::Add { input, out, from: 0, rows: Tokens::All }
    }

    fn result(input: Buf) -> Op {
        let norm = Norm { kind: NormKind::Rms, eps: 0.0, weight: None, bias: None, name: None };
        Op::Result { input, norm: Some(norm) }
    }

    fn shared(widths: &[usize], ops: Vec<Op>) -> Program {
        let widths = widths.to_vec();
        let mut program = Program { widths, ops, ..Program::default() };
        program.share_buffers();
        program
    }

    #[test]
    fn buffers_in_use_at_the_same_time_stay_apart() {
        let [a, b, c, d] = [0, 1, 2, 3].map(Buf);
        // `a` ends where `b` is read, `c` begins after it: they share. `d` has another width.
        let program = shared(&[8, 8, 8, 4], vec![add(a, b), add(b, c), add(c, d), result(d)]);
        assert_eq!(program.widths, [8, 8, 4]);
        let used: Vec<Vec<usize>> = (program.ops.iter())
            .map(|op| op.buffers().iter().map(|access| access.buf.0).collect())
            .collect();
        assert_eq!(used, [vec![0, 1], vec![1, 0], vec![0, 2], vec![2]]);
    }

    #[test]
    fn the_memory_that_became_free_last_comes_first_and_unused_buffers_go() {
        let [a, b, c, d] = [0, 1, 2, 4].map(Buf);
        let program = shared(&[8, 8, 8, 8, 8], vec![add(a, b), add(b, c), result(d)]);
        // Two in use at a time; `d` takes the place of `b`, which was used later than `a`.
        assert_eq!(program.widths, [8, 8]);
        let Op::Result { input, .. } = program.ops[2] else { unreachable!() };
        assert_eq!(input, Buf(1));
    }

    #[test]
    fn sharing_twice_changes_nothing() {
        let [a, b, c] = [0, 1, 2].map(Buf);
        let mut program = shared(&[8, 8, 8], vec![add(a, b), add(b, c), result(c)]);
        let before = format!("{program:?}");
        program.share_buffers();
        assert_eq!(format!("{program:?}"), before);
    }
}
