//! Codebook types: the points of a row and the scales within its blocks stay, and the scale of each block is
//! solved for.

use super::solve::{Normal, solve};
use crate::quantize::form::{Buffers, Form, dot};
use crate::quantize::product::product;
use gguf_rs_lite::GgmlType;
use std::mem::offset_of;
use teff_kernels::block::F16;
use teff_kernels::block::iq1_m::BlockIQ1M;
use teff_kernels::block::iq1_s::BlockIQ1S;
use teff_kernels::block::iq2_s::BlockIQ2S;
use teff_kernels::block::iq2_xs::BlockIQ2XS;
use teff_kernels::block::iq2_xxs::BlockIQ2XXS;
use teff_kernels::block::iq3_s::BlockIQ3S;
use teff_kernels::block::iq3_xxs::BlockIQ3XXS;
use teff_kernels::{KernelTable, TypeKernels};

/// Where blocks have their scale: bytes into them.
#[derive(Clone, Copy, Debug)]
enum Place {
    Half(usize),
    /// The upper four bits of each of four words.
    Nibbles(usize),
}

impl Place {
    fn of(ty: GgmlType) -> Option<Place> {
        Some(match ty {
            GgmlType::IQ1_S => Place::Half(offset_of!(BlockIQ1S, d)),
            GgmlType::IQ1_M => Place::Nibbles(offset_of!(BlockIQ1M, scales)),
            GgmlType::IQ2_XXS => Place::Half(offset_of!(BlockIQ2XXS, d)),
            GgmlType::IQ2_XS => Place::Half(offset_of!(BlockIQ2XS, d)),
            GgmlType::IQ2_S => Place::Half(offset_of!(BlockIQ2S, d)),
            GgmlType::IQ3_XXS => Place::Half(offset_of!(BlockIQ3XXS, d)),
            GgmlType::IQ3_S => Place::Half(offset_of!(BlockIQ3S, d)),
            _ => return None,
        })
    }

    fn read(self, block: &[u8]) -> F16 {
        match self {
            Place::Half(at) => F16([block[at], block[at + 1]]),
            Place::Nibbles(at) => {
                let nibble = |word: usize| block[at + 2 * word + 1] >> 4;
                F16([nibble(0) | nibble(1) << 4, nibble(2) | nibble(3) << 4])
            }
        }
    }

    fn write(self, block: &mut [u8], scale: F16) {
        match self {
            Place::Half(at) => block[at..at + 2].copy_from_slice(&scale.0),
            Place::Nibbles(at) => {
                for word in 0..4 {
                    let nibble = scale.0[word / 2] >> (4 * (word % 2)) << 4;
                    let upper = &mut block[at + 2 * word + 1];
                    *upper = *upper & 15 | nibble;
                }
            }
        }
    }
}

/// Rows of a type of points.
#[derive(Debug)]
pub(super) struct Points<'a> {
    form: &'a Form,
    table: &'a KernelTable,
    kernels: &'a TypeKernels,
    place: Place,
}

impl<'a> Points<'a> {
    /// For a type; `None` if it has others.
    pub fn new(
        form: &'a Form,
        table: &'a KernelTable,
        kernels: &'a TypeKernels,
    ) -> Option<Points<'a>> {
        Some(Points { form, table, kernels, place: Place::of(kernels.ty)? })
    }

    /// Blocks of rows with the best scales, by the products of the rows' errors and the form.
    pub fn refitted(&self, blocks: &[u8], products: &[f32], buffers: &mut Buffers) -> Vec<u8> {
        let (n, ty) = (self.form.cols(), self.kernels.ty);
        let (len, block_bytes) = (ty.block_len(), ty.block_bytes());
        let mut values = vec![0.0; products.len()];
        self.kernels.dequantize(blocks, &mut values);
        let mut refitted = blocks.to_vec();
        let systems = self.systems(&values, products, buffers);
        let rows = refitted.chunks_exact_mut(n / len * block_bytes);
        for (row, system) in rows.zip(systems) {
            let blocks = row.chunks_exact_mut(block_bytes);
            for (block, change) in blocks.zip(solve(&system)) {
                let scale = f64::from(self.place.read(block).to_f32()) * (1.0 + change);
                self.place.write(block, F16::from_f32(scale as f32));
            }
        }
        refitted
    }

    /// The normal equations of each row, for changes of its blocks as parts of them.
    fn systems(&self, values: &[f32], products: &[f32], buffers: &mut Buffers) -> Vec<Normal> {
        let (n, len) = (self.form.cols(), self.kernels.ty.block_len());
        let rows = || values.chunks_exact(n);
        let mut systems: Vec<Normal> = rows().map(|_| Normal::new(n / len)).collect();
        let mut own = Vec::new();
        for (b, first) in (0..n).step_by(len).enumerate() {
            own.clear();
            own.extend(rows().flat_map(|row| &row[first..first + len]));
            let columns = self.form.part(first..n, first..first + len);
            let (scratch, y) = &mut *buffers;
            product(self.table, &columns, &own, len, scratch, y);
            for ((system, row), y) in systems.iter_mut().zip(rows()).zip(y.chunks_exact(n - first))
            {
                let parts = row[first..].chunks_exact(len).zip(y.chunks_exact(len));
                parts.enumerate().for_each(|(i, (row, y))| system.add(b, b + i, dot(row, y)));
            }
        }
        for (system, (row, products)) in
            systems.iter_mut().zip(rows().zip(products.chunks_exact(n)))
        {
            let parts = row.chunks_exact(len).zip(products.chunks_exact(len));
            system.right.iter_mut().zip(parts).for_each(|(right, (row, y))| *right = dot(row, y));
            system.mirror();
        }
        systems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read, and nothing else of a block changes.
    #[test]
    fn scales_have_their_place() {
        let types = [GgmlType::IQ1_S, GgmlType::IQ1_M, GgmlType::IQ2_XXS, GgmlType::IQ2_XS];
        for ty in types.into_iter().chain([GgmlType::IQ2_S, GgmlType::IQ3_XXS, GgmlType::IQ3_S]) {
            let place = Place::of(ty).unwrap();
            let kernels = KernelTable::detect().types(ty).unwrap();
            let mut block: Vec<u8> = (0..ty.block_bytes()).map(|i| (i * 41 % 251) as u8).collect();
            let values = |block: &[u8]| {
                let mut values = vec![0.0; 256];
                kernels.dequantize(block, &mut values);
                values
            };
            place.write(&mut block, F16::from_f32(0.5));
            let before = values(&block);
            place.write(&mut block, F16::from_f32(-2.0));
            assert_eq!(place.read(&block).to_f32(), -2.0, "{ty}");
            let times: Vec<f32> = before.iter().map(|x| -4.0 * x).collect();
            assert!(values(&block) == times && before.iter().any(|x| *x != 0.0), "{ty}");
        }
    }
}
