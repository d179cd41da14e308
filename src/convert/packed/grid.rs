//! Grids: what the codes of a quantized matrix stand for.

use super::{ConvertError, Tensor, Tensors, refuse};

/// Values of floats of four bits (1 sign, 2 exponent, 1 mantissa; OCP Microscaling 1.0).
const FP4: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// A matrix of codes in memory.
pub struct Grid {
    /// Rows, of all matrices of a stack.
    pub rows: usize,
    pub cols: usize,
    pub groups: Groups,
    /// A code for each element, row by row.
    pub codes: Vec<u8>,
}

/// Scales and zero points of groups of elements.
pub struct Groups {
    pub kind: Kind,
    pub place: Place,
    /// A scale for each group.
    pub scales: Vec<f32>,
    /// A zero point for each group.
    pub zeros: Zeros,
}

/// Kind of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integers from 0 to this: an element is (code - zero point) times the scale.
    Integers(u8),
    /// Floats of four bits, times the scale.
    Fp4,
}

/// Zero points.
pub enum Zeros {
    /// The same of all groups.
    All(f32),
    Each(Vec<f32>),
}

/// Group of an element.
pub enum Place {
    /// Every row has so many groups of as many columns.
    Rows { len: usize, across: usize },
    /// Every row has so many groups, and each column names its own.
    Columns { of: Vec<u32>, across: usize },
    /// Elements, counted through all rows, by so many.
    Flat(usize),
    /// Elements, counted through all rows: each of as many in turn.
    Turns(usize),
}

impl Place {
    /// Groups of `len` columns, so many in a row, or those that `index` names for each column. Minus one for all
    /// of them says nothing.
    pub(super) fn of(
        tensors: &Tensors,
        index: Option<&Tensor>,
        len: usize,
        across: usize,
    ) -> Result<Place, ConvertError> {
        let of = index.map(|index| tensors.words(index)).transpose()?.unwrap_or_default();
        let is_said = of.iter().any(|&group| group != u32::MAX);
        let is_beyond = of.iter().any(|&group| group as usize >= across);
        if let Some(index) = index.filter(|_| is_said && is_beyond) {
            return Err(refuse(index, format!("a group beyond the {across}")));
        }
        let is_in_order = of.iter().enumerate().all(|(col, &group)| group as usize == col / len);
        match is_said && !is_in_order {
            true => Ok(Place::Columns { of, across }),
            false => Ok(Place::Rows { len, across }),
        }
    }
}

impl Groups {
    /// The group of an element.
    pub fn of(&self, row: usize, col: usize, cols: usize) -> usize {
        match &self.place {
            Place::Rows { len, across } => row * across + col / len,
            Place::Columns { of, across } => row * across + of[col] as usize,
            Place::Flat(len) => (row * cols + col) / len,
            Place::Turns(n) => (row * cols + col) % n,
        }
    }

    /// The zero point of a group.
    pub fn zero(&self, group: usize) -> f32 {
        match &self.zeros {
            Zeros::All(zero) => *zero,
            Zeros::Each(zeros) => zeros[group],
        }
    }
}

impl Grid {
    /// Codes of a row.
    pub fn codes_of(&self, row: usize) -> &[u8] {
        &self.codes[row * self.cols..][..self.cols]
    }

    /// Adds the values of a row to `out`.
    pub fn widen(&self, row: usize, out: &mut Vec<f32>) {
        let value = |(col, &code): (usize, &u8)| {
            let group = self.groups.of(row, col, self.cols);
            let scale = self.groups.scales[group];
            match self.groups.kind {
                Kind::Integers(_) => (f32::from(code) - self.groups.zero(group)) * scale,
                Kind::Fp4 => FP4[usize::from(code & 15)] * scale,
            }
        };
        out.extend(self.codes_of(row).iter().enumerate().map(value));
    }
}
