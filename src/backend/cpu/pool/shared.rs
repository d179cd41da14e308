//! Buffers that the workers of a phase either all read or all write, and the check of it.

use super::mode::{LEN_MAX, Mode, Use};
use super::ticket::{Phase, Ticket};
use crate::tensor::memory::{self, OutOfMemory};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use teff_kernels::Ahead;

/// Zeros in memory of their own, in huge pages where the system has them.
pub(super) fn map_zeros(bytes: usize) -> std::io::Result<memmap2::MmapMut> {
    let map = memmap2::MmapMut::map_anon(bytes.max(1))?;
    // A hint: without huge pages it is only slower.
    #[cfg(all(target_os = "linux", not(miri)))]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// Numbers that are 0 if all their bytes are.
///
/// # Safety
/// Zeros in all bytes are a value.
#[allow(dead_code, reason = "a promise about types: it has nothing to be used but its name")]
pub unsafe trait Zero: Copy + Default {}

macro_rules! zero {
    ($($number:ty),*) => {
        $(
            // SAFETY: a primitive integer or IEEE 754 number; zeros in all bytes are its 0.
            unsafe impl Zero for $number {}
        )*
    };
}
zero!(i8, u8, i16, u16, u32, usize, f32);

/// Row-major matrix that the workers of a phase either all read or all write by ticket. It belongs
/// to the pool that uses it until [`Shared::get_mut`].
pub struct Shared<T> {
    pub(super) mode: Mode,
    pub(super) width: usize,
    pub(super) start: NonNull<T>,
    pub(super) len: usize,
    /// Mapping that the memory belongs to, or `None` if it is the global allocator's. No other
    /// `Shared` has these elements.
    pub(super) map: Option<Arc<memmap2::MmapMut>>,
}

// SAFETY: access from several threads goes through `Mode::claim` and tickets, as each method says.
// `claim` lets the workers of one pool in at a time, and `Pool::lead` one team of them: so there is
// one phase at a time, and barriers order the accesses of one after those of the other.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}
// SAFETY: it owns its elements.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let layout = Layout::array::<T>(self.len).expect("`new` had this layout");
        if self.map.is_none() && layout.size() > 0 {
            // SAFETY: without a map `new` got the memory from the global allocator, of this layout;
            // of no bytes it got none. Elements are `Copy`: none needs to be dropped.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}

impl Shared<u8> {
    /// A row of `len` zeros in memory of its own, in huge pages where the system has them.
    ///
    /// # Errors
    /// The system has not that much memory.
    pub fn mapped(what: &'static str, len: usize) -> Result<Shared<u8>, OutOfMemory> {
        assert!(len as u64 <= LEN_MAX, "a buffer has too many elements");
        let mut map = map_zeros(len).map_err(|_| OutOfMemory { what, bytes: len })?;
        let start = NonNull::from(&mut map[..]).cast();
        Ok(Shared { mode: Mode::default(), width: len, start, len, map: Some(Arc::new(map)) })
    }
}

impl<T> Shared<T> {
    /// Keeps memory of its own, see [`Shared::mapped`], from being swapped out.
    ///
    /// # Errors
    /// More than the process may lock.
    pub fn lock(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            return map.lock();
        }
        Ok(())
    }
}

impl<T: Zero> Shared<T> {
    /// `rows` x `width` zeros. Memory is zeroed lazily by the system, not touched here.
    ///
    /// # Errors
    /// [`OutOfMemory`] for `what` it was to hold.
    pub fn new(what: &'static str, rows: usize, width: usize) -> Result<Shared<T>, OutOfMemory> {
        let len = n_elements(rows, width);
        let bytes = len.saturating_mul(size_of::<T>());
        let refused = OutOfMemory { what, bytes };
        let layout = Layout::array::<T>(len).map_err(|_| refused)?;
        let start = match layout.size() {
            0 => NonNull::dangling(),
            // SAFETY: the layout has bytes.
            _ => NonNull::new(memory::ask(|| unsafe { alloc_zeroed(layout) }).cast())
                .ok_or(refused)?,
        };
        // Zeros are values of `T`, as that is `Zero`.
        Ok(Shared { mode: Mode::default(), width, start, len, map: None })
    }
}

impl<T: Copy + Default> Shared<T> {
    /// No elements.
    pub fn empty() -> Shared<T> {
        Shared { mode: Mode::default(), width: 0, start: NonNull::dangling(), len: 0, map: None }
    }

    /// Elements in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Exclusive access outside of jobs. The next pool to use the buffer may be another one.
    pub fn get_mut(&mut self) -> &mut [T] {
        self.mode.release();
        // SAFETY: the buffer's own memory, borrowed with the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Elements that a coming phase reads, for the caches; whatever is done with them meanwhile.
    pub fn ahead(&self, elements: Range<usize>) -> Ahead {
        let start = self.start.as_ptr().wrapping_add(elements.start);
        Ahead::at(start.cast(), elements.len() * size_of::<T>())
    }

    /// Whole buffer, read-only for this phase.
    #[inline]
    pub fn read<'p>(&'p self, phase: &'p Phase<'_>) -> &'p [T] {
        self.mode.claim(phase.id, Use::Read, 0);
        // SAFETY: in this phase every claim on this buffer is for reading (`claim` panics
        // otherwise), and the phase outlives the borrow.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Row `row` of the buffer, read-only for this phase.
    #[inline]
    pub fn read_row<'p>(&'p self, phase: &'p Phase<'_>, row: usize) -> &'p [T] {
        let start = row.checked_mul(self.width).expect("the row is in the buffer");
        &self.read(phase)[start..][..self.width]
    }

    /// Cells `ticket.items()`, contiguous: item `i` of the phase owns the `cell` elements from
    /// `i * cell` on.
    #[inline]
    pub fn write_cells<'t>(&'t self, ticket: &'t mut Ticket<'_>, cell: usize) -> &'t mut [T] {
        let items = ticket.items();
        self.cells(ticket, items, cell)
    }

    /// One cell of the ticket; see [`Shared::write_cells`].
    #[inline]
    pub fn write_cell<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        cell: usize,
        item: usize,
    ) -> &'t mut [T] {
        self.cells(ticket, item..item + 1, cell)
    }

    #[inline]
    fn cells<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        items: Range<usize>,
        cell: usize,
    ) -> &'t mut [T] {
        assert!(ticket.items.start <= items.start && items.end <= ticket.items.end);
        self.mode.claim(ticket.phase, Use::Cells, cell);
        let end = items.end.checked_mul(cell);
        assert!(
            items.start <= items.end && end.is_some_and(|end| end <= self.len),
            "the cells are in the buffer"
        );
        // SAFETY: in bounds. All claims of this phase are for cells of this size, and no other
        // ticket of the phase has these items; the ticket is borrowed mutably for the slice's
        // life, so it gives out no second one meanwhile.
        unsafe {
            let start = self.start.as_ptr().add(items.start * cell);
            std::slice::from_raw_parts_mut(start, (items.end - items.start) * cell)
        }
    }

    /// Columns `columns` of row `row`, where item `i` of the phase is column `i` of every row.
    #[inline]
    pub fn write_columns<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        row: usize,
        columns: Range<usize>,
    ) -> &'t mut [T] {
        self.write_blocks(ticket, row, columns, 1)
    }

    /// Columns `columns` of row `row`, where item `i * block` of the phase is column `i` of every
    /// row.
    #[inline]
    pub fn write_blocks<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        row: usize,
        columns: Range<usize>,
        block: usize,
    ) -> &'t mut [T] {
        assert!(columns.start <= columns.end && columns.end <= self.width);
        assert!(ticket.items.start.div_ceil(block) <= columns.start);
        assert!(columns.end <= ticket.items.end.div_ceil(block));
        self.mode.claim(ticket.phase, Use::Columns, block);
        let end = row.checked_mul(self.width).and_then(|start| start.checked_add(columns.end));
        assert!(end.is_some_and(|end| end <= self.len), "the row is in the buffer");
        // SAFETY: in bounds. All claims of this phase are for columns of `block` items, and no
        // other ticket of the phase has the first item of one of these; the ticket is borrowed
        // mutably for the slice's life.
        unsafe {
            let start = self.start.as_ptr().add(row * self.width + columns.start);
            std::slice::from_raw_parts_mut(start, columns.end - columns.start)
        }
    }
}

/// Elements of `rows` x `width`.
///
/// # Panics
/// If these are more than a buffer may have.
pub(super) fn n_elements(rows: usize, width: usize) -> usize {
    let len = rows.checked_mul(width).filter(|&len| len as u64 <= LEN_MAX);
    len.expect("a buffer has too many elements")
}

/// The ticket's cells in four buffers at a time, each with its own cell size; see
/// [`Shared::write_cells`].
pub fn write_cells_of_four<'t, A, B, C, D>(
    ticket: &'t mut Ticket<'_>,
    a: (&'t Shared<A>, usize),
    b: (&'t Shared<B>, usize),
    c: (&'t Shared<C>, usize),
    d: (&'t Shared<D>, usize),
) -> (&'t mut [A], &'t mut [B], &'t mut [C], &'t mut [D])
where
    A: Copy + Default,
    B: Copy + Default,
    C: Copy + Default,
    D: Copy + Default,
{
    let of = |ticket: &Ticket<'_>| Ticket {
        phase: ticket.phase,
        items: ticket.items(),
        life: PhantomData,
    };
    let addresses = [
        std::ptr::from_ref(a.0).addr(),
        std::ptr::from_ref(b.0).addr(),
        std::ptr::from_ref(c.0).addr(),
        std::ptr::from_ref(d.0).addr(),
    ];
    let distinct = (1..4).all(|i| !addresses[..i].contains(&addresses[i]));
    assert!(distinct, "the four buffers are different ones");
    let mut tickets = [of(ticket), of(ticket), of(ticket), of(ticket)];
    let [ta, tb, tc, td] = &mut tickets;
    let slices = (
        std::ptr::from_mut(a.0.write_cells(ta, a.1)),
        std::ptr::from_mut(b.0.write_cells(tb, b.1)),
        std::ptr::from_mut(c.0.write_cells(tc, c.1)),
        std::ptr::from_mut(d.0.write_cells(td, d.1)),
    );
    // SAFETY: four slices of four different buffers; `ticket` is borrowed for their life, so it
    // gives out no others meanwhile.
    unsafe { (&mut *slices.0, &mut *slices.1, &mut *slices.2, &mut *slices.3) }
}

#[cfg(test)]
mod tests {
    use super::super::Pool;
    use super::*;

    #[test]
    fn phases_see_what_the_phase_before_wrote() {
        let pool = Pool::new(3).unwrap();
        let buffer = Shared::<u32>::new("a test", 4, 30).unwrap();
        pool.lead(|leader| {
            leader.run(&|worker| {
                for round in 1..if cfg!(miri) { 5 } else { 100 } {
                    worker.phase(|phase| {
                        for mut ticket in phase.tickets(30, 4) {
                            let columns = ticket.items();
                            for row in 0..4 {
                                buffer.write_columns(&mut ticket, row, columns.clone()).fill(round);
                            }
                        }
                    });
                    worker.phase(|phase| {
                        assert!(buffer.read(phase).iter().all(|&x| x == round));
                    });
                }
            });
        });
    }

    #[test]
    fn blocks_belong_to_the_ticket_of_their_first_item() {
        let pool = Pool::new(2).unwrap();
        let mut buffer = Shared::<usize>::new("a test", 2, 8).unwrap();
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    // Some tickets have the start of one block of four, some that of none.
                    for mut ticket in phase.tickets(30, 3) {
                        let items = ticket.items();
                        let blocks = items.start.div_ceil(4)..items.end.div_ceil(4);
                        for row in 0..2 {
                            buffer
                                .write_blocks(&mut ticket, row, blocks.clone(), 4)
                                .fill(items.end);
                        }
                    }
                });
            });
        });
        assert_eq!(buffer.get_mut(), [[3, 6, 9, 15, 18, 21, 27, 30]; 2].as_flattened());
    }

    #[test]
    #[should_panic(expected = "columns.start")]
    fn a_block_that_begins_before_the_ticket_is_refused() {
        let pool = Pool::new(1).unwrap();
        let buffer = Shared::<u8>::new("a test", 1, 8).unwrap();
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    for mut ticket in phase.tickets(30, 3).skip(1) {
                        buffer.write_blocks(&mut ticket, 0, 0..1, 4);
                    }
                });
            });
        });
    }

    #[test]
    fn cells_are_the_tickets_own() {
        let pool = Pool::new(2).unwrap();
        let mut buffer = Shared::<usize>::new("a test", 5, 12).unwrap();
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    for mut ticket in phase.tickets(15, 1) {
                        let item = ticket.items().start;
                        buffer.write_cells(&mut ticket, 4).fill(item);
                    }
                });
            });
        });
        assert!(buffer.get_mut().iter().enumerate().all(|(i, &x)| x == i / 4));
    }

    #[test]
    #[should_panic(expected = "two ways within one phase")]
    fn reading_and_writing_in_one_phase_is_refused() {
        let pool = Pool::new(1).unwrap();
        let buffer = Shared::<u8>::new("a test", 1, 8).unwrap();
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    let _ = buffer.read(phase);
                    for mut ticket in phase.tickets(8, 8) {
                        buffer.write_columns(&mut ticket, 0, 0..8).fill(1);
                    }
                });
            });
        });
    }
}
