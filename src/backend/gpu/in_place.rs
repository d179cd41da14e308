//! Weights that an adapter reads where the file is mapped, with no copy: which, and how they are bound.
//!
//! Metal takes whole pages of the program's memory for a buffer, and binds a buffer from any multiple of a few
//! bytes on. A tensor begins anywhere in a page, so its buffer has the pages that it touches. What cannot be
//! bound so is copied. The rules are the same on every system, and tested there; which adapter reads a map is
//! said by `map_buffer.rs`.

use super::dispatch::windows;
use super::weights::TAIL_BYTES;
use crate::backend::program::Program;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a page of the system's; where no adapter reads a map, of the smallest there are.
pub(super) const PAGE_BYTES: usize =
    if cfg!(all(target_vendor = "apple", target_arch = "aarch64")) { 16 << 10 } else { 4 << 10 };

/// Rules for what an adapter reads in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) struct InPlace {
    /// Bindings begin at a multiple of so many bytes.
    offset_multiple: usize,
    /// Bytes of a window of a weight, at most.
    window_bytes_max: usize,
}

/// Pages of a map that are a buffer, and the part of it that is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoundPages {
    /// Bytes of the map. The last page may end behind the map's last byte: the system fills it up.
    pub pages: Range<usize>,
    /// First byte of the buffer that is bound.
    pub offset: usize,
    /// Bytes that are bound, whole words.
    pub size: usize,
}

impl InPlace {
    /// Rules of an adapter with these limits.
    pub fn new(limits: &wgpu::Limits) -> InPlace {
        let offset_multiple = limits.min_storage_buffer_offset_alignment as usize;
        InPlace { offset_multiple, window_bytes_max: window_bytes_max(limits) }
    }

    /// Pages for a part of a map of `map_len` bytes; `None`: the part is to be copied, as it begins where no
    /// binding does, or as words are read behind the map's last page.
    pub(super) fn pages(self, map_len: usize, part: Range<usize>) -> Option<BoundPages> {
        let first = part.start / PAGE_BYTES * PAGE_BYTES;
        let offset = part.start - first;
        let size = part.len().next_multiple_of(4) + TAIL_BYTES;
        let end = (part.start + size).next_multiple_of(PAGE_BYTES);
        let is_there = end <= map_len.next_multiple_of(PAGE_BYTES);
        let can_begin = offset.is_multiple_of(self.offset_multiple);
        (is_there && can_begin).then_some(BoundPages { pages: first..end, offset, size })
    }

    /// Bytes of weights of the operations for which `is_here` holds that are not copied, each once.
    pub fn bytes(self, program: &Program, is_here: &dyn Fn(usize) -> bool) -> u64 {
        let here = program.ops.iter().enumerate().filter(|&(op, _)| is_here(op));
        let weights = here.flat_map(|(_, op)| op.weights()).map(|(_, weight)| weight);
        let of_each = weights.map(|weight| {
            let bytes = weight.map().map_or(0, |map| {
                let row_bytes = weight.row_bytes();
                let parts = windows(weight, self.window_bytes_max).into_iter().map(|rows| {
                    map.offset + rows.start * row_bytes..map.offset + rows.end * row_bytes
                });
                let in_place =
                    parts.filter(|part| self.pages(map.bytes.len(), part.clone()).is_some());
                in_place.map(|part| part.len() as u64).sum()
            });
            (weight.id().0, bytes)
        });
        of_each.collect::<BTreeMap<_, u64>>().into_values().sum()
    }
}

/// Bytes of a window of a weight, at most: there is room for it with the rest of its first and last page.
pub(super) fn window_bytes_max(limits: &wgpu::Limits) -> usize {
    let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let most = most.saturating_sub(2 * PAGE_BYTES as u64);
    usize::try_from(most).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: InPlace = InPlace { offset_multiple: 32, window_bytes_max: 1 << 20 };
    const PAGE: usize = PAGE_BYTES;

    #[test]
    fn a_part_is_bound_inside_the_pages_that_it_touches() {
        let map_len = 10 * PAGE - 100;
        for (part, pages, offset, size) in [
            (0..64, 0..PAGE, 0, 68),
            // Bytes are bound as whole words, with one more.
            (96..96 + 34, 0..PAGE, 96, 40),
            (PAGE + 32..PAGE + 64, PAGE..2 * PAGE, 32, 36),
            // The word behind is on the next page.
            (64..PAGE, 0..2 * PAGE, 64, PAGE - 60),
            (64..PAGE - 4, 0..PAGE, 64, PAGE - 64),
            (3 * PAGE - 32..5 * PAGE + 32, 2 * PAGE..6 * PAGE, PAGE - 32, 2 * PAGE + 68),
            // The map's last page is there as a whole.
            (9 * PAGE..map_len, 9 * PAGE..10 * PAGE, 0, PAGE - 96),
        ] {
            let expected = Some(BoundPages { pages, offset, size });
            assert_eq!(RULES.pages(map_len, part.clone()), expected, "{part:?}");
        }
    }

    #[test]
    fn a_part_that_no_binding_holds_is_copied() {
        for start in [1, 4, 16, 31, PAGE + 8] {
            assert_eq!(RULES.pages(10 * PAGE, start..start + 64), None, "{start}");
        }
        // The word behind is behind the map.
        for map_len in [2 * PAGE, 2 * PAGE - 3] {
            assert_eq!(RULES.pages(map_len, PAGE..map_len), None, "{map_len}");
        }
        assert!(RULES.pages(2 * PAGE - 4, PAGE..2 * PAGE - 4).is_some());
    }

    #[test]
    fn a_window_leaves_room_for_the_pages_around_it() {
        let limits = |max_buffer_size, max_storage_buffer_binding_size| wgpu::Limits {
            max_buffer_size,
            max_storage_buffer_binding_size,
            ..wgpu::Limits::default()
        };
        assert_eq!(window_bytes_max(&limits(1 << 30, 1 << 20)), (1 << 20) - 2 * PAGE);
        assert_eq!(window_bytes_max(&limits(1 << 20, 1 << 30)), (1 << 20) - 2 * PAGE);
        assert_eq!(window_bytes_max(&limits(1, 1)), 0);
    }
}
