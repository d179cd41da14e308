//! Little- and big-endian files, and turning a big-endian tensor into a little-endian one.
//!
//! Quantized blocks mix bytes with wider fields, so [`FIELDS`] lists the fields of every block.
//! A field counts as wide where the reference quantizer stores it as a wide integer: what a
//! big-endian machine writes is then exactly the swapped form, e.g. the 32 high bits of `Q5_0`.

use crate::error::{Error, Fault, Item};
use crate::ggml_type::GgmlType::{self, *};

/// The order of the bytes of every number in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Least significant byte first: nearly every file.
    #[default]
    Little,
    /// Most significant byte first.
    Big,
}

impl std::fmt::Display for ByteOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ByteOrder::Little => "little-endian",
            ByteOrder::Big => "big-endian",
        })
    }
}

/// Reverses the byte order of a tensor's `data` in place: big-endian to little-endian or back.
///
/// # Errors
/// `data` is not a whole number of blocks.
///
/// ```
/// use gguf_rs_lite::{GgmlType, swap_tensor_bytes};
/// let mut data = 1.5f32.to_be_bytes();
/// swap_tensor_bytes(GgmlType::F32, &mut data)?;
/// assert_eq!(data, 1.5f32.to_le_bytes());
/// # Ok::<(), gguf_rs_lite::Error>(())
/// ```
pub fn swap_tensor_bytes(ty: GgmlType, data: &mut [u8]) -> Result<(), Error> {
    let block_bytes = ty.block_bytes();
    if !data.len().is_multiple_of(block_bytes) {
        let fault = Fault::PartialBlock { ty, bytes: data.len() as u64 };
        return Err(Error::Refused { item: Item::Data, fault });
    }
    let fields = fields_of(ty);
    for block in data.chunks_exact_mut(block_bytes) {
        let mut rest = block;
        for &(width, count) in fields {
            let (field, after) = rest.split_at_mut(width * count);
            if width > 1 {
                field.chunks_exact_mut(width).for_each(<[u8]>::reverse);
            }
            rest = after;
        }
    }
    Ok(())
}

/// (bytes of a number, how many) in the order they stand in a block.
type Fields = &'static [(usize, usize)];

fn fields_of(ty: GgmlType) -> Fields {
    match ty {
        I8 => &[(1, 1)],
        F16 | BF16 | I16 => &[(2, 1)],
        F32 | I32 => &[(4, 1)],
        F64 | I64 => &[(8, 1)],
        Q4_0 | IQ4_NL => &[(2, 1), (1, 16)],
        Q4_1 => &[(2, 2), (1, 16)],
        Q5_0 => &[(2, 1), (4, 1), (1, 16)],
        Q5_1 => &[(2, 2), (4, 1), (1, 16)],
        Q8_0 => &[(2, 1), (1, 32)],
        Q8_1 => &[(2, 2), (1, 32)],
        Q2_K => &[(1, 80), (2, 2)],
        Q3_K => &[(1, 108), (2, 1)],
        Q4_K => &[(2, 2), (1, 140)],
        Q5_K => &[(2, 2), (1, 172)],
        Q6_K => &[(1, 208), (2, 1)],
        Q8_K => &[(4, 1), (1, 256), (2, 16)],
        IQ2_XXS => &[(2, 1), (4, 16)],
        IQ2_XS => &[(2, 33), (1, 8)],
        IQ2_S => &[(2, 1), (1, 80)],
        IQ3_XXS => &[(2, 1), (1, 64), (4, 8)],
        IQ3_S => &[(2, 1), (1, 108)],
        IQ1_S => &[(2, 1), (1, 32), (2, 8)],
        IQ1_M => &[(1, 48), (2, 4)],
        IQ4_XS => &[(2, 2), (1, 132)],
        TQ1_0 => &[(1, 52), (2, 1)],
        TQ2_0 => &[(1, 64), (2, 1)],
        MXFP4 => &[(1, 17)],
        NVFP4 => &[(1, 36)],
        Q1_0 => &[(2, 1), (1, 16)],
        Q2_0 => &[(2, 1), (1, 16)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_fill_every_block() {
        for ty in GgmlType::all() {
            let bytes: usize = fields_of(ty).iter().map(|(width, count)| width * count).sum();
            assert_eq!(bytes, ty.block_bytes(), "{ty}");
        }
    }

    #[test]
    fn swapping_twice_changes_nothing() {
        for ty in GgmlType::all() {
            let data: Vec<u8> =
                (0..ty.block_bytes() * 3).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut swapped = data.clone();
            swap_tensor_bytes(ty, &mut swapped).expect("whole blocks");
            let wide = fields_of(ty).iter().any(|&(width, _)| width > 1);
            assert_eq!(swapped != data, wide, "{ty}");
            swap_tensor_bytes(ty, &mut swapped).expect("whole blocks");
            assert_eq!(swapped, data, "{ty}");
        }
    }

    #[test]
    fn wide_fields_of_q5_1_and_q6_k_swap_where_they_stand() {
        let mut q5_1: Vec<u8> = (0..24).collect();
        swap_tensor_bytes(Q5_1, &mut q5_1).expect("one block");
        assert_eq!(q5_1[..10], [1, 0, 3, 2, 7, 6, 5, 4, 8, 9]);
        let mut q6_k = vec![0u8; 420];
        (q6_k[0], q6_k[208], q6_k[418]) = (9, 1, 2);
        swap_tensor_bytes(Q6_K, &mut q6_k).expect("two blocks");
        assert_eq!((q6_k[0], q6_k[208], q6_k[209], q6_k[418], q6_k[419]), (9, 0, 1, 0, 2));
    }

    #[test]
    fn a_partial_block_is_refused() {
        let error = swap_tensor_bytes(Q4_K, &mut [0; 143]).expect_err("143 of 144 bytes");
        assert!(error.to_string().contains("143") && error.to_string().contains("Q4_K"), "{error}");
    }
}
