//! Little- and big-endian files, and turning a big-endian tensor into a little-endian one.
//!
//! Quantized blocks mix bytes with wider fields: the row of a type in `ggml_type.rs` lists them.

use crate::error::{Error, Fault, Item};
use crate::ggml_type::GgmlType;

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
    let fields = ty.fields();
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

#[cfg(test)]
mod tests {
    use super::*;
    use GgmlType::*;

    #[test]
    fn swapping_twice_changes_nothing() {
        for ty in GgmlType::all() {
            let data: Vec<u8> =
                (0..ty.block_bytes() * 3).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut swapped = data.clone();
            swap_tensor_bytes(ty, &mut swapped).expect("whole blocks");
            let wide = ty.fields().iter().any(|&(width, _)| width > 1);
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
