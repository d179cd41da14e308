//! Pages of the KV cache: written slot by slot, read whole.

use super::mode::{Mode, Use};
use super::shared::{Shared, map_zeros, n_elements};
use super::ticket::{Phase, Ticket};
use crate::tensor::memory::OutOfMemory;
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

/// Layouts of a page, as parameters of [`Use::Slots`]: a phase writes a page in one of them.
const SLOTS_AS_ROWS: usize = 0;
const SLOTS_AS_LANES: usize = 1;

/// Destination of a step's tokens in a page: batch token `token + i` goes to slot `slot + i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// First token of the batch that the page takes.
    pub token: usize,
    /// The slot it goes to.
    pub slot: usize,
    /// Number of tokens.
    pub n: usize,
}

/// Memory for pages of the KV cache: large pieces, in huge pages where the system has them, so that
/// reading a long context does not miss the table of addresses at every page.
#[derive(Default)]
pub struct PageSpace {
    /// Rest of the newest piece: first address and number of bytes.
    rest: Option<(NonNull<u8>, usize)>,
    piece: Option<Arc<memmap2::MmapMut>>,
}

// SAFETY: the address is of memory that the space owns, and that nobody else has got yet.
unsafe impl Send for PageSpace {}
// SAFETY: without `&mut` it can only be looked at.
unsafe impl Sync for PageSpace {}

impl PageSpace {
    /// Bytes of a piece. Only what is used becomes resident, 2 MiB at a time.
    const PIECE_BYTES: usize = if cfg!(miri) { 64 << 10 } else { 32 << 20 };
    /// A cache line: pages share none.
    const ALIGN: usize = 64;

    /// `rows` x `width` default values in memory that nobody else has.
    fn take<T: Copy + Default>(
        &mut self,
        rows: usize,
        width: usize,
    ) -> Result<Shared<T>, OutOfMemory> {
        let len = n_elements(rows, width);
        let layout = Layout::array::<T>(len).expect("a page is smaller than memory");
        assert!(layout.align() <= PageSpace::ALIGN, "elements are numbers");
        let bytes = layout.size().next_multiple_of(PageSpace::ALIGN);
        let (address, left) = match self.rest {
            Some(rest) if bytes <= rest.1 => rest,
            _ => self.start_piece(bytes)?,
        };
        // SAFETY: a piece has `left >= bytes` from `address` on.
        self.rest = Some((unsafe { address.add(bytes) }, left - bytes));
        let start = address.cast::<T>();
        for i in 0..len {
            // SAFETY: inside of those bytes, which nobody else has; pieces begin at a page of
            // memory and shrink by multiples of `ALIGN`, so the address suits `T`.
            unsafe { start.add(i).write(T::default()) };
        }
        let map = Some(self.piece.clone().expect("the rest is of a piece"));
        Ok(Shared { mode: Mode::default(), width, start, len, map })
    }

    /// Starts a piece in which there is room for `bytes`: no more than for them, where memory is
    /// short.
    fn start_piece(&mut self, bytes: usize) -> Result<(NonNull<u8>, usize), OutOfMemory> {
        let refused = OutOfMemory { what: "keys and values", bytes };
        let whole = bytes.max(PageSpace::PIECE_BYTES);
        let mut map = map_zeros(whole).or_else(|_| map_zeros(bytes)).map_err(|_| refused)?;
        let (start, bytes) = (NonNull::from(&mut map[..]).cast(), map.len());
        self.piece = Some(Arc::new(map));
        Ok((start, bytes))
    }
}

/// The keys or the values of one page of the KV cache: `[heads][slots][width]` if a slot is a row,
/// `[heads][width][slots]` if it is a lane. The tokens of a step write it, each its own slot, in a
/// phase whose items are the batch's tokens.
pub struct SlotMemory<T> {
    /// A row for each head and slot, however they are laid out.
    memory: Shared<T>,
    heads: usize,
    slots: usize,
    fill: Fill,
}

impl<T: Copy + Default> SlotMemory<T> {
    /// Default values.
    ///
    /// # Errors
    /// The system has no more memory.
    pub fn new(
        space: &mut PageSpace,
        heads: usize,
        slots: usize,
        width: usize,
    ) -> Result<SlotMemory<T>, OutOfMemory> {
        let memory = space.take(n_elements(heads, slots), width)?;
        Ok(SlotMemory { memory, heads, slots, fill: Fill::default() })
    }

    /// Elements of a head in a slot.
    pub fn width(&self) -> usize {
        self.memory.width
    }

    /// Says which tokens of the coming step the page takes, and where.
    pub fn set_fill(&mut self, fill: Fill) {
        let end = fill.slot.checked_add(fill.n);
        assert!(end.is_some_and(|end| end <= self.slots), "the page holds its tokens");
        assert!(fill.token.checked_add(fill.n).is_some(), "the batch holds the tokens");
        self.fill = fill;
    }

    /// Exclusive access outside of jobs.
    pub fn get_mut(&mut self) -> &mut [T] {
        self.memory.get_mut()
    }

    /// The whole page, read-only for this phase.
    #[inline]
    pub fn read<'p>(&'p self, phase: &'p Phase<'_>) -> &'p [T] {
        self.memory.read(phase)
    }

    /// The row of head `head` of batch token `token`; `None` if the token goes to another page.
    #[inline]
    pub fn write_slot<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        token: usize,
        head: usize,
    ) -> Option<&'t mut [T]> {
        let slot = self.claim(ticket, token, SLOTS_AS_ROWS)?;
        let Shared { width, start: page, .. } = self.memory;
        assert!(head < self.heads, "the head is in the page");
        let start = (head * self.slots + slot) * width;
        // SAFETY: in bounds, as `head < heads` and `slot < slots`, and the memory has `heads *
        // slots * width` elements. All claims of this phase are for slot rows, a token's slot is its own
        // (`set_fill` checked the range, and needs `&mut self`), no other ticket of the phase has
        // this token, and the ticket is borrowed mutably for the slice's life.
        Some(unsafe { std::slice::from_raw_parts_mut(page.as_ptr().add(start), width) })
    }

    /// Stores the numbers `x` of head `head` of batch token `token` in a page that is laid out
    /// `[heads][width][slots]`; `None` if the token goes to another page.
    #[inline]
    pub fn write_lane(
        &self,
        ticket: &mut Ticket<'_>,
        token: usize,
        head: usize,
        x: &[T],
    ) -> Option<()> {
        let slot = self.claim(ticket, token, SLOTS_AS_LANES)?;
        let Shared { width, start: page, .. } = self.memory;
        assert!(x.len() <= width, "the numbers of one head");
        assert!(head < self.heads, "the head is in the page");
        let start = head * width * self.slots + slot;
        for (i, &x) in x.iter().enumerate() {
            // SAFETY: in bounds, as `head < heads`, `slot < slots` and `i < width`. All claims of this phase are
            // for lanes, a token's slot is its own (see `write_slot`), and no reference is made.
            unsafe { page.add(start + i * self.slots).write(x) };
        }
        Some(())
    }

    /// The slot of a token of the ticket.
    #[inline]
    fn claim(&self, ticket: &Ticket<'_>, token: usize, layout: usize) -> Option<usize> {
        let Fill { token: first, slot, n } = self.fill;
        assert!(ticket.items().contains(&token));
        if !(first..first + n).contains(&token) {
            return None;
        }
        self.memory.mode.claim(ticket.phase, Use::Slots, layout);
        Some(slot + token - first)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pool;
    use super::*;

    #[test]
    fn slots_follow_the_fill() {
        let pool = Pool::new(2).unwrap();
        let mut page = SlotMemory::<f32>::new(&mut PageSpace::default(), 2, 8, 4).unwrap();
        page.set_fill(Fill { token: 2, slot: 5, n: 3 });
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    for mut ticket in phase.tickets(6, 1) {
                        let token = ticket.items().start;
                        for (head, sign) in [1.0, -1.0].into_iter().enumerate() {
                            let row = page.write_slot(&mut ticket, token, head);
                            assert_eq!(row.is_some(), (2..5).contains(&token));
                            row.unwrap_or_default().fill(sign * token as f32);
                        }
                    }
                });
            });
        });
        let data = page.get_mut();
        assert_eq!(data[5 * 4..8 * 4], [2., 2., 2., 2., 3., 3., 3., 3., 4., 4., 4., 4.]);
        assert_eq!(data[32 + 7 * 4..], [-4.; 4]);
        assert_eq!(data[..5 * 4], [0.; 20]);
    }

    #[test]
    fn lanes_follow_the_fill() {
        let pool = Pool::new(2).unwrap();
        let mut page = SlotMemory::<f32>::new(&mut PageSpace::default(), 2, 8, 3).unwrap();
        page.set_fill(Fill { token: 1, slot: 6, n: 2 });
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    for mut ticket in phase.tickets(4, 1) {
                        let token = ticket.items().start;
                        for head in 0..2 {
                            let x = [1.0, 2.0, 3.0].map(|x| x + (10 * token + 100 * head) as f32);
                            let written = page.write_lane(&mut ticket, token, head, &x);
                            assert_eq!(written.is_some(), (1..3).contains(&token));
                        }
                    }
                });
            });
        });
        let data = page.get_mut();
        let lane = |slot: usize| data[slot..].iter().step_by(8).copied().collect::<Vec<_>>();
        assert_eq!(lane(6), [11., 12., 13., 111., 112., 113.]);
        assert_eq!(lane(7), [21., 22., 23., 121., 122., 123.]);
        assert!((0..6).all(|slot| lane(slot).iter().all(|&x| x == 0.0)));
    }
}
