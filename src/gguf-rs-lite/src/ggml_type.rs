//! Every tensor type id that GGUF knows, with the shape of its block.

/// How the elements of a tensor are stored. Ids and layouts are ggml's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the field's own spelling")]
#[repr(u32)]
pub enum GgmlType {
    /// IEEE single precision.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// 4 bits, scale per 32.
    Q4_0 = 2,
    /// 4 bits, scale and minimum per 32.
    Q4_1 = 3,
    /// 5 bits, scale per 32.
    Q5_0 = 6,
    /// 5 bits, scale and minimum per 32.
    Q5_1 = 7,
    /// 8 bits, scale per 32.
    Q8_0 = 8,
    /// 8 bits, scale and sum per 32: activations.
    Q8_1 = 9,
    /// 2 bits in super-blocks of 256.
    Q2_K = 10,
    /// 3 bits in super-blocks of 256.
    Q3_K = 11,
    /// 4 bits in super-blocks of 256.
    Q4_K = 12,
    /// 5 bits in super-blocks of 256.
    Q5_K = 13,
    /// 6 bits in super-blocks of 256.
    Q6_K = 14,
    /// 8 bits in blocks of 256: activations.
    Q8_K = 15,
    /// 2.06 bits, lattice codebook.
    IQ2_XXS = 16,
    /// 2.31 bits, lattice codebook.
    IQ2_XS = 17,
    /// 3.06 bits, lattice codebook.
    IQ3_XXS = 18,
    /// 1.56 bits, lattice codebook.
    IQ1_S = 19,
    /// 4 bits, non-linear codes, scale per 32.
    IQ4_NL = 20,
    /// 3.44 bits, lattice codebook.
    IQ3_S = 21,
    /// 2.5 bits, lattice codebook.
    IQ2_S = 22,
    /// 4.25 bits, non-linear codes in super-blocks of 256.
    IQ4_XS = 23,
    /// Signed byte.
    I8 = 24,
    /// Signed 16 bits.
    I16 = 25,
    /// Signed 32 bits.
    I32 = 26,
    /// Signed 64 bits.
    I64 = 27,
    /// IEEE double precision.
    F64 = 28,
    /// 1.75 bits, lattice codebook.
    IQ1_M = 29,
    /// The upper half of an IEEE single.
    BF16 = 30,
    /// 1.69 bits, ternary.
    TQ1_0 = 34,
    /// 2.06 bits, ternary.
    TQ2_0 = 35,
    /// OCP microscaling 4-bit float, scale per 32.
    MXFP4 = 39,
    /// 4-bit float with an E4M3 scale per 16.
    NVFP4 = 40,
    /// 1 bit, scale per 128.
    Q1_0 = 41,
    /// 2 bits, scale per 64.
    Q2_0 = 42,
}

use GgmlType::*;

/// One row per type: name, elements in a block, bytes of a block.
const TYPES: &[(GgmlType, &str, usize, usize)] = &[
    (F32, "F32", 1, 4),
    (F16, "F16", 1, 2),
    (Q4_0, "Q4_0", 32, 18),
    (Q4_1, "Q4_1", 32, 20),
    (Q5_0, "Q5_0", 32, 22),
    (Q5_1, "Q5_1", 32, 24),
    (Q8_0, "Q8_0", 32, 34),
    (Q8_1, "Q8_1", 32, 36),
    (Q2_K, "Q2_K", 256, 84),
    (Q3_K, "Q3_K", 256, 110),
    (Q4_K, "Q4_K", 256, 144),
    (Q5_K, "Q5_K", 256, 176),
    (Q6_K, "Q6_K", 256, 210),
    (Q8_K, "Q8_K", 256, 292),
    (IQ2_XXS, "IQ2_XXS", 256, 66),
    (IQ2_XS, "IQ2_XS", 256, 74),
    (IQ3_XXS, "IQ3_XXS", 256, 98),
    (IQ1_S, "IQ1_S", 256, 50),
    (IQ4_NL, "IQ4_NL", 32, 18),
    (IQ3_S, "IQ3_S", 256, 110),
    (IQ2_S, "IQ2_S", 256, 82),
    (IQ4_XS, "IQ4_XS", 256, 136),
    (I8, "I8", 1, 1),
    (I16, "I16", 1, 2),
    (I32, "I32", 1, 4),
    (I64, "I64", 1, 8),
    (F64, "F64", 1, 8),
    (IQ1_M, "IQ1_M", 256, 56),
    (BF16, "BF16", 1, 2),
    (TQ1_0, "TQ1_0", 256, 54),
    (TQ2_0, "TQ2_0", 256, 66),
    (MXFP4, "MXFP4", 32, 17),
    (NVFP4, "NVFP4", 64, 36),
    (Q1_0, "Q1_0", 128, 18),
    (Q2_0, "Q2_0", 64, 18),
];

impl GgmlType {
    /// Every type, in the order of the ids.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        TYPES.iter().map(|row| row.0)
    }

    /// The type of an id in a file; `None` for ids that are unknown or were withdrawn.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        TYPES.iter().map(|row| row.0).find(|ty| ty.id() == id)
    }

    /// The name of a type that older files carry and ggml no longer reads.
    pub fn withdrawn_name(id: u32) -> Option<&'static str> {
        Some(match id {
            4 => "Q4_2",
            5 => "Q4_3",
            31 => "Q4_0_4_4",
            32 => "Q4_0_4_8",
            33 => "Q4_0_8_8",
            36 => "IQ4_NL_4_4",
            37 => "IQ4_NL_4_8",
            38 => "IQ4_NL_8_8",
            _ => return None,
        })
    }

    /// The type of a name such as `Q4_K`; letters of either case.
    pub fn from_name(name: &str) -> Option<GgmlType> {
        TYPES.iter().find(|row| row.1.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    /// The id that files carry.
    pub const fn id(self) -> u32 {
        self as u32
    }

    fn row(self) -> &'static (GgmlType, &'static str, usize, usize) {
        TYPES.iter().find(|row| row.0 == self).expect("TYPES has a row for every variant")
    }

    /// The field's spelling, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements in a block; a row's length is a multiple of it.
    pub fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of `n` elements; `None` if `n` is no multiple of the block or the product overflows.
    pub fn bytes_of(self, n: u64) -> Option<u64> {
        let block = self.block_len() as u64;
        if !n.is_multiple_of(block) {
            return None;
        }
        (n / block).checked_mul(self.block_bytes() as u64)
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_lead_back() {
        for ty in GgmlType::all() {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
            assert_eq!(GgmlType::from_name(&ty.name().to_lowercase()), Some(ty));
            assert_eq!(GgmlType::withdrawn_name(ty.id()), None);
        }
        assert!(GgmlType::all().is_sorted_by(|a, b| a.id() < b.id()), "in the order of the ids");
        assert_eq!((GgmlType::from_id(4), GgmlType::from_name("Q4_2")), (None, None));
    }

    #[test]
    fn bytes_are_whole_blocks_or_none() {
        assert_eq!(Q4_K.bytes_of(512), Some(288));
        assert_eq!(Q4_K.bytes_of(0), Some(0));
        assert_eq!(Q4_K.bytes_of(511), None);
        assert_eq!(F64.bytes_of(u64::MAX / 8 + 1), None, "overflow");
        assert_eq!(I8.bytes_of(u64::MAX), Some(u64::MAX));
    }
}
