//! Every tensor type id that GGUF knows, with the shape of its block: one row per type.
//!
//! A new type is a new row; its name, its sizes and the way its bytes are swapped follow from it.

/// The numbers of a block in the order they stand in it: (bytes of a number, how many).
pub(crate) type Fields = &'static [(usize, usize)];

/// The enum and all that a row says of a type:
/// `doc, name = id, elements of a block: [(bytes of a number, how many), ..]`.
///
/// A field counts as wide where the reference quantizer stores it as a wide integer: what a
/// big-endian machine writes is then exactly the swapped form, e.g. the 32 high bits of `Q5_0`.
macro_rules! types {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $len:literal: [$($field:expr),*];)*) => {
        /// Type of a tensor: how its elements are stored. Ids and layouts are ggml's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types, reason = "the field's own spelling")]
        #[repr(u32)]
        pub enum GgmlType {
            $($(#[$doc])* $name = $id,)*
        }

        const TYPES: &[GgmlType] = &[$(GgmlType::$name),*];

        impl GgmlType {
            /// The field's spelling, e.g. `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(GgmlType::$name => stringify!($name),)*
                }
            }

            /// Elements in a block; a row's length is a multiple of it.
            pub const fn block_len(self) -> usize {
                match self {
                    $(GgmlType::$name => $len,)*
                }
            }

            pub(crate) const fn fields(self) -> Fields {
                match self {
                    $(GgmlType::$name => &[$($field),*],)*
                }
            }
        }
    };
}

types! {
    /// IEEE single precision.
    F32 = 0, 1: [(4, 1)];
    /// IEEE half precision.
    F16 = 1, 1: [(2, 1)];
    /// 4 bits, scale per 32.
    Q4_0 = 2, 32: [(2, 1), (1, 16)];
    /// 4 bits, scale and minimum per 32.
    Q4_1 = 3, 32: [(2, 2), (1, 16)];
    /// 5 bits, scale per 32.
    Q5_0 = 6, 32: [(2, 1), (4, 1), (1, 16)];
    /// 5 bits, scale and minimum per 32.
    Q5_1 = 7, 32: [(2, 2), (4, 1), (1, 16)];
    /// 8 bits, scale per 32.
    Q8_0 = 8, 32: [(2, 1), (1, 32)];
    /// 8 bits, scale and sum per 32: activations.
    Q8_1 = 9, 32: [(2, 2), (1, 32)];
    /// 2 bits in super-blocks of 256.
    Q2_K = 10, 256: [(1, 80), (2, 2)];
    /// 3 bits in super-blocks of 256.
    Q3_K = 11, 256: [(1, 108), (2, 1)];
    /// 4 bits in super-blocks of 256.
    Q4_K = 12, 256: [(2, 2), (1, 140)];
    /// 5 bits in super-blocks of 256.
    Q5_K = 13, 256: [(2, 2), (1, 172)];
    /// 6 bits in super-blocks of 256.
    Q6_K = 14, 256: [(1, 208), (2, 1)];
    /// 8 bits in blocks of 256: activations.
    Q8_K = 15, 256: [(4, 1), (1, 256), (2, 16)];
    /// 2.06 bits, lattice codebook.
    IQ2_XXS = 16, 256: [(2, 1), (4, 16)];
    /// 2.31 bits, lattice codebook.
    IQ2_XS = 17, 256: [(2, 33), (1, 8)];
    /// 3.06 bits, lattice codebook.
    IQ3_XXS = 18, 256: [(2, 1), (1, 64), (4, 8)];
    /// 1.56 bits, lattice codebook.
    IQ1_S = 19, 256: [(2, 1), (1, 32), (2, 8)];
    /// 4 bits, non-linear codes, scale per 32.
    IQ4_NL = 20, 32: [(2, 1), (1, 16)];
    /// 3.44 bits, lattice codebook.
    IQ3_S = 21, 256: [(2, 1), (1, 108)];
    /// 2.5 bits, lattice codebook.
    IQ2_S = 22, 256: [(2, 1), (1, 80)];
    /// 4.25 bits, non-linear codes in super-blocks of 256.
    IQ4_XS = 23, 256: [(2, 2), (1, 132)];
    /// Signed byte.
    I8 = 24, 1: [(1, 1)];
    /// Signed 16 bits.
    I16 = 25, 1: [(2, 1)];
    /// Signed 32 bits.
    I32 = 26, 1: [(4, 1)];
    /// Signed 64 bits.
    I64 = 27, 1: [(8, 1)];
    /// IEEE double precision.
    F64 = 28, 1: [(8, 1)];
    /// 1.75 bits, lattice codebook.
    IQ1_M = 29, 256: [(1, 48), (2, 4)];
    /// The upper half of an IEEE single.
    BF16 = 30, 1: [(2, 1)];
    /// 1.69 bits, ternary.
    TQ1_0 = 34, 256: [(1, 52), (2, 1)];
    /// 2.06 bits, ternary.
    TQ2_0 = 35, 256: [(1, 64), (2, 1)];
    /// OCP microscaling 4-bit float, scale per 32.
    MXFP4 = 39, 32: [(1, 17)];
    /// 4-bit float with an E4M3 scale per 16.
    NVFP4 = 40, 64: [(1, 36)];
    /// 1 bit, scale per 128.
    Q1_0 = 41, 128: [(2, 1), (1, 16)];
    /// 2 bits, scale per 64.
    Q2_0 = 42, 64: [(2, 1), (1, 16)];
}

impl GgmlType {
    /// Every type, in the order of the ids.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        TYPES.iter().copied()
    }

    /// The type of an id in a file; `None` for ids that are unknown or were withdrawn.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        GgmlType::all().find(|ty| ty.id() == id)
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
        GgmlType::all().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// The id that files carry.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        let (fields, mut bytes, mut i) = (self.fields(), 0, 0);
        while i < fields.len() {
            bytes += fields[i].0 * fields[i].1;
            i += 1;
        }
        bytes
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
    use GgmlType::*;

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
    fn a_row_gives_name_and_sizes() {
        assert_eq!((F32.name(), F32.block_len(), F32.block_bytes()), ("F32", 1, 4));
        assert_eq!((Q5_0.name(), Q5_0.block_len(), Q5_0.block_bytes()), ("Q5_0", 32, 22));
        assert_eq!((Q6_K.name(), Q6_K.block_len(), Q6_K.block_bytes()), ("Q6_K", 256, 210));
        assert_eq!((NVFP4.name(), NVFP4.block_len(), NVFP4.block_bytes()), ("NVFP4", 64, 36));
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
