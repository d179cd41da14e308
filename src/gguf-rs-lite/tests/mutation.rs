//! Mutated files: any one byte changed, cut at any length, and thousands of wilder changes.
//! Each gives an error or a load whose every part can be read, and opening never allocates
//! more than a small bound beyond the file. One test in one binary, because it counts bytes.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{ARRAY, Raw, STR, T_I8, U32, sample, shard};
use gguf_rs_lite::{Error, GgufFile, OwnedValue};

/// The system's allocator, counting.
struct Counting;

static NOW_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW_BYTES.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK_BYTES.fetch_max(now, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW_BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`; `alloc` gave the system's pointer.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes allocated at the worst moment of opening files that are in memory already.
fn open(files: Vec<Vec<u8>>) -> (Result<GgufFile, Error>, usize) {
    let before = NOW_BYTES.load(Relaxed);
    PEAK_BYTES.store(before, Relaxed);
    let result = GgufFile::from_shards(files);
    (result, PEAK_BYTES.load(Relaxed) - before)
}

const SMALL_FILE_EXTRA_BYTES_MAX: usize = 64 << 10;

/// Opens; whatever loads must be readable to the last byte. Returns whether it loaded.
fn exercise(files: Vec<Vec<u8>>) -> bool {
    let (result, peak) = open(files);
    assert!(peak <= SMALL_FILE_EXTRA_BYTES_MAX, "{peak} bytes for a small file");
    let file = match result {
        Ok(file) => file,
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("offset ") || message.contains("shard"), "{message}");
            return false;
        }
    };
    for (key, value) in file.entries() {
        let owned = OwnedValue::from(value);
        let again = file.get(key).expect("entries() and get() agree");
        assert_eq!(format!("{:?}", OwnedValue::from(again)), format!("{owned:?}"));
    }
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor).len() as u64, tensor.bytes);
        assert_eq!(tensor.ty.bytes_of(tensor.cols() * tensor.rows()), Some(tensor.bytes));
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
    }
    true
}

/// SplitMix64: the same mutations on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Numbers at which counts, lengths and offsets break.
const NUMBERS: [u64; 14] = [
    0,
    1,
    0x7F,
    0xFF,
    0x100,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    1 << 32,
    1 << 61,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// One wild change: a number overwritten, a range copied, removed, doubled or made noise.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    let n = (1 + random.below(24)).min(bytes.len() - at);
    match random.below(5) {
        0 | 1 => {
            let number = NUMBERS[random.below(NUMBERS.len())];
            let b = if random.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
            let n = [4, 8][random.below(2)].min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&b[..n]);
        }
        2 => {
            let to = random.below(bytes.len() - n + 1);
            bytes.copy_within(at..at + n, to);
        }
        3 => {
            bytes.drain(at..at + n);
        }
        _ => bytes[at..at + n].iter_mut().for_each(|byte| *byte = random.next() as u8),
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

/// Files of all versions and byte orders, and a split model.
fn seeds() -> Vec<Vec<Vec<u8>>> {
    let single = [(1, false), (1, true), (2, false), (2, true), (3, false), (3, true)];
    let mut seeds: Vec<_> =
        single.iter().map(|&(version, big)| vec![sample(version, big)]).collect();
    seeds.push(vec![shard(0, 2), shard(1, 2)]);
    seeds
}

#[test]
fn no_mutation_panics_or_allocates_much() {
    let mut mutations = 0u32;
    let mut loads = 0u32;
    for seed in seeds() {
        assert!(exercise(seed.clone()), "the seed itself loads");
        // Of every file, the last bytes are a tensor's, so no shorter file is whole.
        for (shard, file) in seed.iter().enumerate() {
            for len in 0..file.len() {
                let mut cut = seed.clone();
                cut[shard].truncate(len);
                assert!(!exercise(cut), "cut to {len} bytes");
                mutations += 1;
            }
            for at in 0..file.len() {
                for bit in 0..8 {
                    let mut flipped = seed.clone();
                    flipped[shard][at] ^= 1 << bit;
                    loads += u32::from(exercise(flipped));
                    mutations += 1;
                }
                for byte in [0x00, 0x7F, 0x80, 0xFF] {
                    let mut changed = seed.clone();
                    changed[shard][at] = byte;
                    loads += u32::from(exercise(changed));
                    mutations += 1;
                }
            }
        }
    }
    let mut random = Random(2026);
    let seeds = seeds();
    for _ in 0..200_000 {
        let mut files = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(3) {
            let shard = random.below(files.len());
            mutate(&mut files[shard], &mut random);
        }
        loads += u32::from(exercise(files));
        mutations += 1;
    }
    assert!(mutations >= 220_000, "{mutations} mutations");
    assert!(loads >= 40_000, "{loads} of {mutations} still load: names and tensor data");

    big_headers_allocate_no_more_than_the_file_and_8_mib();
}

/// As many tensors, entries and strings as the limits allow, in as few bytes as possible.
fn big_headers_allocate_no_more_than_the_file_and_8_mib() {
    const N: u64 = 1 << 16;
    let name = |i: u64| format!("{i:x}");
    let raw = Raw::new(1, false, N, 1).key("general.alignment", U32).u32(1);
    let tensors = (0..N).fold(raw, |raw, i| raw.tensor(&name(i), &[], T_I8, i)).data(N as usize);
    let entries = (0..N).fold(Raw::new(1, true, 0, N), |raw, i| raw.key(&name(i), 0).u8(1));
    let strings = Raw::v3(0, 1).key("k", ARRAY).array(STR, N * 8).raw(&vec![0; N as usize * 64]);
    let arrays = Raw::v3(0, 1).key("k", ARRAY).array(ARRAY, N * 8).raw(&vec![0; N as usize * 96]);
    for raw in [tensors, entries, strings, arrays] {
        let size = raw.bytes.len();
        let (result, peak) = open(vec![raw.bytes]);
        let file = result.expect("a valid file");
        assert!(peak <= size + (8 << 20), "{peak} bytes for a file of {size}");
        assert!(file.tensors().len() as u64 == N || peak <= 2 * size, "{peak} of {size}");
    }
}
