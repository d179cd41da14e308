//! Maxima of the blocks of a vector, with which a search for its largest elements passes over most
//! of the others (block-max indexes: Ding and Suel 2011, "Faster top-k document retrieval using
//! block-max indexes"). They cost about 3 ns a block where the vector is made, while it is in the
//! cache.

use super::softmax::larger;

/// Elements of a block: a divisor of the chunks of rows in which products are dealt out.
pub const MAX_BLOCK: usize = 16;

/// Elements that are compared side by side: the registers that all CPUs have.
const LANES: usize = 4;

/// The largest element of each block of [`MAX_BLOCK`]; infinity if one is NaN.
///
/// # Panics
/// If the number of maxima is not that of the blocks.
pub fn block_max(x: &[f32], maxima: &mut [f32]) {
    assert!(maxima.len() == x.len().div_ceil(MAX_BLOCK), "a maximum for each block");
    let (blocks, rest) = x.as_chunks::<MAX_BLOCK>();
    for (max, block) in maxima.iter_mut().zip(blocks) {
        let (mut lanes, mut nan) = ([f32::NEG_INFINITY; LANES], [0; LANES]);
        for x in block.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                lanes[i] = larger(lanes[i], x[i]);
                nan[i] |= u32::from(x[i].is_nan());
            }
        }
        let [a, b, c, d] = lanes;
        let all = larger(larger(a, c), larger(b, d));
        *max = if nan == [0; LANES] { all } else { f32::INFINITY };
    }
    if let (false, Some(max)) = (rest.is_empty(), maxima.last_mut()) {
        let nan = rest.iter().any(|x| x.is_nan());
        *max = if nan { f32::INFINITY } else { super::max(rest) };
    }
}

/// A vector and a bound for each block of [`MAX_BLOCK`]: no element is above that of its block.
#[derive(Debug)]
pub struct BlockMax<'a> {
    values: &'a mut [f32],
    bounds: &'a mut [f32],
}

impl<'a> BlockMax<'a> {
    /// A vector with its [`block_max`].
    ///
    /// # Panics
    /// If the number of maxima is not that of the blocks.
    pub fn new(values: &'a mut [f32], maxima: &'a mut [f32]) -> Self {
        assert!(maxima.len() == values.len().div_ceil(MAX_BLOCK), "a maximum for each block");
        Self { values, bounds: maxima }
    }

    /// A vector whose maxima are computed now, into `room`.
    pub fn of(values: &'a mut [f32], room: &'a mut Vec<f32>) -> Self {
        room.resize(values.len().div_ceil(MAX_BLOCK), 0.0);
        block_max(values, room);
        Self { values, bounds: room }
    }

    /// The vector.
    pub fn values(&self) -> &[f32] {
        self.values
    }

    /// Bounds of blocks: each its maximum, or more if elements have been lowered since.
    pub fn bounds(&self) -> &[f32] {
        self.bounds
    }

    /// Indices and values of the elements of a block.
    pub fn block(&self, block: usize) -> impl Iterator<Item = (usize, f32)> {
        let first = block * MAX_BLOCK;
        (first..).zip(self.values[first..].iter().copied().take(MAX_BLOCK))
    }

    /// The vector, of which elements may be lowered.
    pub fn lower(&mut self) -> &mut [f32] {
        self.values
    }

    /// The vector in parts of `len` elements, of which the last one may have fewer.
    ///
    /// # Panics
    /// If `len` is no multiple of [`MAX_BLOCK`], or 0.
    pub fn parts(&mut self, len: usize) -> impl Iterator<Item = BlockMax<'_>> {
        assert!(len > 0 && len.is_multiple_of(MAX_BLOCK), "a part is of whole blocks");
        let parts = self.values.chunks_mut(len).zip(self.bounds.chunks_mut(len / MAX_BLOCK));
        parts.map(|(values, bounds)| BlockMax { values, bounds })
    }

    /// Changes one element.
    pub fn set(&mut self, index: usize, value: f32) {
        self.values[index] = value;
        let bound = &mut self.bounds[index / MAX_BLOCK];
        *bound = larger(*bound, value);
    }

    /// Lowers every element whose bit is not set to negative infinity: bit `i % 32` of word `i / 32`,
    /// and all beyond the words. The bounds of their blocks are maxima again.
    pub fn keep(&mut self, bits: &[u32]) {
        let halves = bits.iter().flat_map(|word| [*word as u16, (word >> 16) as u16]);
        let halves = halves.chain(std::iter::repeat(0));
        let blocks = self.values.chunks_mut(MAX_BLOCK).zip(&mut *self.bounds);
        for ((block, bound), kept) in blocks.zip(halves) {
            match kept {
                u16::MAX => {}
                0 => {
                    block.fill(f32::NEG_INFINITY);
                    *bound = f32::NEG_INFINITY;
                }
                _ => {
                    for (i, x) in block.iter_mut().enumerate() {
                        *x = if kept >> i & 1 == 1 { *x } else { f32::NEG_INFINITY };
                    }
                    block_max(block, std::slice::from_mut(bound));
                }
            }
        }
    }

    /// Has `f` replace the elements. The bounds are maxima again.
    pub fn replace(&mut self, f: impl FnOnce(&mut [f32])) {
        f(self.values);
        block_max(self.values, self.bounds);
    }

    /// Replaces every element `x` by `f(x)`; `f` must not reverse their order.
    pub fn map(&mut self, f: impl Fn(f32) -> f32) {
        self.values.iter_mut().chain(&mut *self.bounds).for_each(|x| *x = f(*x));
    }
}

/// [`BlockMax::keep`] gives each block half of a word.
const _: () = assert!(2 * MAX_BLOCK == u32::BITS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maxima_of_whole_and_cut_blocks() {
        let x: Vec<f32> = (0..41).map(|i| ((i * 29) % 41) as f32 - 50.0).collect();
        for n in 0..x.len() {
            let mut maxima = vec![0.0; n.div_ceil(MAX_BLOCK)];
            block_max(&x[..n], &mut maxima);
            let max = |block: &[f32]| block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(maxima.into_iter().eq(x[..n].chunks(MAX_BLOCK).map(max)), "{n}");
        }
    }

    #[test]
    fn nan_anywhere_is_infinity() {
        let mut maxima = [0.0; 2];
        for n in [MAX_BLOCK, MAX_BLOCK + 5] {
            let block = (n - 1) / MAX_BLOCK;
            for at in block * MAX_BLOCK..n {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                    let mut x = [f32::NEG_INFINITY; MAX_BLOCK + 5];
                    x[at] = bad;
                    block_max(&x[..n], &mut maxima[..=block]);
                    assert_eq!(maxima[block], f32::INFINITY, "{bad} at {at} of {n}");
                }
            }
        }
    }

    #[test]
    fn bounds_follow_changes() {
        let (mut x, mut room) = ([0.0; 2 * MAX_BLOCK], Vec::new());
        let mut vector = BlockMax::of(&mut x, &mut room);
        vector.set(3, 5.0);
        vector.set(3, -1.0);
        vector.set(MAX_BLOCK, 2.0);
        assert_eq!(vector.bounds(), [5.0, 2.0]);
        vector.map(|x| x / 2.0 - 1.0);
        assert_eq!(vector.bounds(), [1.5, 0.0]);
        assert_eq!(vector.values()[3], -1.5);
        vector.lower()[3] = -4.0;
        assert_eq!((vector.values()[3], vector.bounds()[0]), (-4.0, 1.5));
        assert!(vector.block(0).eq((0..).zip(vector.values()[..MAX_BLOCK].iter().copied())));
        assert!(vector.block(1).all(|(i, x)| i >= MAX_BLOCK && x == vector.values()[i]));
        for (i, mut part) in vector.parts(MAX_BLOCK).enumerate() {
            assert_eq!(part.values().len(), MAX_BLOCK);
            part.replace(|x| x.iter_mut().zip([8.0, 7.0]).for_each(|(x, by)| *x -= by * i as f32));
        }
        assert_eq!((vector.bounds(), vector.values()[MAX_BLOCK]), ([-1.0, -1.0].as_slice(), -8.0));
        let bounded = |(i, &bound)| vector.block(i).all(|(_, x): (usize, f32)| x <= bound);
        assert!(vector.bounds().iter().enumerate().all(bounded));
    }

    #[test]
    fn elements_without_a_bit_are_lowered_and_bounds_are_maxima() {
        let words = [0, u32::MAX, 0x0001_ffff, 0xffff_0000, 0xa5a5_0f00, 1 << 31];
        let x: Vec<f32> = (0..200).map(|i| ((i * 29) % 41) as f32 - 50.0).collect();
        for n in [0, 1, 16, 17, 100, 191, 192, 200] {
            let (mut kept, mut room) = (x[..n].to_vec(), Vec::new());
            BlockMax::of(&mut kept, &mut room).keep(&words);
            let bit = |i: usize| words.get(i / 32).is_some_and(|word| word >> (i % 32) & 1 == 1);
            let expected: Vec<f32> =
                (0..n).map(|i| if bit(i) { x[i] } else { f32::NEG_INFINITY }).collect();
            assert_eq!(kept, expected, "{n}");
            let mut maxima = vec![0.0; n.div_ceil(MAX_BLOCK)];
            block_max(&expected, &mut maxima);
            assert_eq!(room, maxima, "{n}");
        }
        let (mut nan, mut room) = ([f32::NAN; 20], Vec::new());
        BlockMax::of(&mut nan, &mut room).keep(&[2]);
        assert_eq!(room, [f32::INFINITY, f32::NEG_INFINITY]);
    }
}
