//! Which buffers share memory.
//!
//! Lowering asks for a new buffer wherever it needs one. A program has no jumps, so a buffer is in
//! use from the first operation that names it to the last; of buffers of equal width those that are
//! never in use at the same time become one. Buffers are taken in the order of their first use, each
//! into the memory that became free last: that is optimal for intervals, and what is most likely
//! still in a cache.

use super::{Buf, Op, Program};
use std::ops::RangeInclusive;

/// Memory that buffers of one width share.
struct Slot {
    width: usize,
    /// The last operation that uses its present content.
    busy_until: usize,
}

impl Program {
    /// Has buffers share memory, and drops unused ones. Numbers of buffers change; results do not, if
    /// [`Program::check`] finds nothing, because then nothing is read before it is written.
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
