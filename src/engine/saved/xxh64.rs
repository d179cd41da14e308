//! XXH64 (Yann Collet's xxHash of 64 bits): the checksum of the parts of a session's file. It takes
//! 32 bytes in about as many cycles as a multiplication has, so that it costs less than the disk.

const PRIMES: [u64; 5] = [
    0x9e37_79b1_85eb_ca87,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x27d4_eb2f_1656_67c5,
];

fn round(acc: u64, input: u64) -> u64 {
    acc.wrapping_add(input.wrapping_mul(PRIMES[1])).rotate_left(31).wrapping_mul(PRIMES[0])
}

/// The hash of `bytes`.
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let [p1, p2, p3, p4, p5] = PRIMES;
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut hash = if blocks.is_empty() {
        seed.wrapping_add(p5)
    } else {
        let plus = seed.wrapping_add(p1);
        let mut accs = [plus.wrapping_add(p2), seed.wrapping_add(p2), seed, seed.wrapping_sub(p1)];
        for block in blocks {
            for (acc, &word) in accs.iter_mut().zip(block.as_chunks().0) {
                *acc = round(*acc, u64::from_le_bytes(word));
            }
        }
        let turned = accs.iter().zip([1, 7, 12, 18]).map(|(acc, n)| acc.rotate_left(n));
        let sum = turned.fold(0, u64::wrapping_add);
        accs.iter().fold(sum, |hash, &acc| (hash ^ round(0, acc)).wrapping_mul(p1).wrapping_add(p4))
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let (words, rest) = rest.as_chunks::<8>();
    for &word in words {
        hash ^= round(0, u64::from_le_bytes(word));
        hash = hash.rotate_left(27).wrapping_mul(p1).wrapping_add(p4);
    }
    let (halves, rest) = rest.as_chunks::<4>();
    for &half in halves {
        hash ^= u64::from(u32::from_le_bytes(half)).wrapping_mul(p1);
        hash = hash.rotate_left(23).wrapping_mul(p2).wrapping_add(p3);
    }
    for &byte in rest {
        hash ^= u64::from(byte).wrapping_mul(p5);
        hash = hash.rotate_left(11).wrapping_mul(p1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(p2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(p3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::xxh64;

    #[test]
    fn hashes_are_those_of_the_published_algorithm() {
        let cases: [(&[u8], u64, u64); 5] = [
            (b"", 0, 0xef46_db37_51d8_e999),
            (b"a", 0, 0xd24e_c4f1_a98c_6e5b),
            (b"abc", 0, 0x44bc_2cf5_ad77_0999),
            (b"Nobody inspects the spammish repetition", 0, 0xfbce_a83c_8a37_8bf1),
            (b"abcdefghijklmnopqrstuvwxyz0123456789", 7, 0xe594_210d_ba2a_826a),
        ];
        for (bytes, seed, hash) in cases {
            assert_eq!(xxh64(bytes, seed), hash, "{bytes:?}");
        }
        assert_ne!(xxh64(b"abc", 1), xxh64(b"abc", 0));
    }
}
