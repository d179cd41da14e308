//! Every matrix product of the best level: `cargo bench -p teff-kernels [TYPE..]`,
//! and the float operations of attention and others: `float` among the types, or none.
//!
//! Decoding (1 and 4 tokens) streams a matrix larger than any cache and is given in GB/s beside
//! the plain reading speed of the same memory, in huge pages as a program's interleaved weights are;
//! prefill (512 tokens) in multiply-accumulates per cycle, the clock being found by a chain of
//! dependent additions in the same run. One thread, the best of some repetitions.

use gguf_rs_lite::GgmlType;
use memmap2::MmapMut;
use std::hint::black_box;
use std::time::{Duration, Instant};
use teff_kernels::{
    ActFormat, ActPlan, ActUnit, Activation, Acts, Ahead, KernelTable, Level, PANEL_TOKENS,
    ROW_STEP, Scratch, TypeKernels,
};

/// Bytes of a matrix that no cache holds.
const STREAMED_BYTES: usize = 64 << 20;
/// Bytes of a matrix that no cache holds, where one of the last level is shared by many cores: forms of
/// different sizes are compared.
const COMPARED_BYTES: usize = 512 << 20;
/// Rows given to one call, as a decoder's chunks.
const CHUNK_ROWS: usize = 4 * ROW_STEP;
const COLS: usize = 2048;
const PREFILL_TOKENS: usize = 512;
/// Rows of the prefill's matrix: it stays in L2, as compute is what is measured.
const PREFILL_ROWS: usize = 2 * CHUNK_ROWS;
const MEASURED: Duration = Duration::from_millis(400);

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen = |ty: &GgmlType| {
        names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(ty.name()))
    };
    let table = KernelTable::detect();
    let ghz = clock_ghz();
    println!("level {}, {ghz:.2} GHz, one thread, {COLS} columns", table.level());
    println!("GB/s of weights for 1 and 4 tokens; MAC/cycle for {PREFILL_TOKENS} tokens");
    println!(
        "{:8}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}{:>12}{:>12}",
        "type",
        "read",
        "1 token",
        "4 tokens",
        "time x4",
        "lanes 1",
        "lanes 4",
        "time x4",
        "MAC/cycle",
        "1 in L2",
        "8 tokens"
    );
    for ty in GgmlType::all().filter(chosen) {
        let Some(kernels) = table.types(ty) else { continue };
        if kernels.level == Level::Scalar && names.is_empty() {
            println!("{ty:8} scalar");
            continue;
        }
        let w = weights(ty, STREAMED_BYTES);
        let row_bytes = COLS / ty.block_len() * ty.block_bytes();
        let read = gigabytes(w.len(), || read(&w));
        let chunks = w.len() / row_bytes / CHUNK_ROWS;
        let w = &w[..chunks * CHUNK_ROWS * row_bytes];
        let mut groups = zeros(0);
        if kernels.lanes().is_some() {
            groups = zeros(chunks * CHUNK_ROWS * kernels.interleaved_row_bytes(row_bytes));
            assert!(kernels.interleave(w, row_bytes, &mut groups), "a form of all rows");
        }
        let decode = |interleaved: bool, n| {
            let input = Input::new(table, kernels, n);
            let mut scratch = Scratch::default();
            let mut y = vec![0.0; CHUNK_ROWS * n];
            let w = if interleaved { &groups[..] } else { w };
            gigabytes(w.len(), || {
                for w in w.chunks_exact(w.len() / chunks) {
                    let (acts, s, y) = (&input.acts(), &mut scratch, &mut y);
                    match interleaved {
                        true => kernels.matmul_interleaved(w, 0..CHUNK_ROWS, acts, s, y),
                        false => kernels.matmul(w, CHUNK_ROWS, acts, s, y),
                    }
                }
            })
        };
        let lanes = |n| if kernels.lanes().is_some() { decode(true, n) } else { f64::NAN };
        let (one, four) = (decode(false, 1), decode(false, 4));
        let (lanes_one, lanes_four) = (lanes(1), lanes(4));
        let cached = |n| {
            let input = Input::new(table, kernels, n);
            let mut scratch = Scratch::default();
            let mut y = vec![0.0; PREFILL_ROWS * n];
            let w = &w[..PREFILL_ROWS * row_bytes];
            let time = best(|| {
                kernels.matmul(w, PREFILL_ROWS, &input.acts(), &mut scratch, &mut y);
            });
            (PREFILL_ROWS * COLS * n) as f64 / time.as_secs_f64() / 1e9 / ghz
        };
        println!(
            "{:8}{read:>9.1}{one:>9.1}{four:>9.1}{:>9.2}{lanes_one:>9.1}{lanes_four:>9.1}\
             {:>9.2}{:>11.1}{:>12.1}{:>12.1}",
            ty.name(),
            one / four,
            lanes_one / lanes_four,
            cached(PREFILL_TOKENS),
            cached(1),
            cached(8),
        );
    }
    for ty in GgmlType::all().filter(chosen).filter(|&ty| table.sparse(ty).next().is_some()) {
        without_zeros(table, ty);
    }
    if names.is_empty() || names.iter().any(|name| name == "float") {
        float_operations(table, ghz);
    }
}

/// Decoding from rows without zeros, beside that from all of their codes, two runs of each in turn.
fn without_zeros(table: &KernelTable, ty: GgmlType) {
    let row_bytes = COLS / ty.block_len() * ty.block_bytes();
    for (pattern, fours) in [("2:4", true), ("half", false)] {
        let mut w = weights(ty, COMPARED_BYTES);
        let rows = w.len() / row_bytes / CHUNK_ROWS * CHUNK_ROWS;
        prune(ty, &mut w, fours);
        let pack = |kernels: &TypeKernels| {
            let mut groups = zeros(rows * kernels.interleaved_row_bytes(row_bytes));
            kernels.interleave(&w[..rows * row_bytes], row_bytes, &mut groups).then_some(groups)
        };
        let form = |kernels| Some((kernels, pack(kernels)?));
        let dense = table.types(ty).and_then(form);
        let sparse = table.sparse(ty).find_map(form);
        let (Some(dense), Some(sparse)) = (dense, sparse) else { continue };
        for n in [1, 4] {
            let input = Input::new(table, dense.0, n);
            let rate = |(kernels, groups): &(&TypeKernels, MmapMut)| {
                let (mut scratch, mut y) = (Scratch::default(), vec![0.0; CHUNK_ROWS * n]);
                let time = best(|| {
                    for groups in groups.chunks_exact(groups.len() / (rows / CHUNK_ROWS)) {
                        let (acts, rows) = (&input.acts(), 0..CHUNK_ROWS);
                        kernels.matmul_interleaved(groups, rows, acts, &mut scratch, &mut y);
                    }
                });
                (rows * COLS) as f64 / time.as_secs_f64() / 1e9
            };
            let [mut all, mut kept] = [0.0_f64; 2];
            for _ in 0..3 {
                (all, kept) = (all.max(rate(&dense)), kept.max(rate(&sparse)));
            }
            let gained = kept / all;
            println!(
                "{ty} {pattern:4} {n} tokens: {all:6.2} weights/ns, {kept:6.2} without zeros, \
                 {gained:.2}x"
            );
        }
    }
}

/// Makes half of the codes zero, two of every four or by a pattern of no such order.
fn prune(ty: GgmlType, w: &mut [u8], fours: bool) {
    let mut state = 7u64;
    for block in w.chunks_exact_mut(ty.block_bytes()) {
        let mut left = 16;
        for at in 0..32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let is_zero = match fours {
                true => at % 4 < 2,
                false => (state >> 33) as usize % (32 - at) < left,
            };
            if is_zero {
                left -= 1;
                match ty.block_bytes() {
                    34 => block[2 + at] = 0,
                    _ => {
                        let (byte, shift) = (&mut block[2 + at % 16], at / 16 * 4);
                        *byte = *byte & !(15 << shift) | 8 << shift;
                    }
                }
            }
        }
    }
}

/// Packing and the float operations that a decoder spends time in, from L1.
fn float_operations(table: &KernelTable, ghz: f64) {
    const REPEATS: u32 = 1000;
    let nanoseconds = |f: &mut dyn FnMut()| {
        let time = best(|| (0..REPEATS).for_each(|_| f()));
        time.as_secs_f64() * 1e9 / f64::from(REPEATS)
    };
    let ops = table.float();
    let mut x: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut y = vec![0.0; COLS];
    println!("\nnanoseconds for {COLS} elements");
    for format in [ActFormat::Q8x32] {
        for tokens in [1, 2 * PANEL_TOKENS] {
            let plan = table.plan(format, COLS, tokens);
            let tokens = plan.tokens_of(0).len();
            let input = x.repeat(tokens);
            let (mut q, mut d) = (vec![0; plan.q_len()], vec![0.0; plan.d_len()]);
            let mut s = vec![0; plan.s_len()];
            let time = nanoseconds(&mut || {
                let unit = ActUnit { q: &mut q, d: &mut d, s: &mut s, x: &mut [] };
                table.pack(&plan, &input, unit);
            });
            println!(
                "{:24}{:>8.0}",
                format!("pack {format:?} {:?}", plan.layout()),
                time / tokens as f64
            );
        }
    }
    let print = |name: &str, f: &mut dyn FnMut()| println!("{name:24}{:>8.0}", nanoseconds(f));
    print("rms_norm", &mut || (ops.rms_norm)(&x, None, 1e-5, &mut y));
    print("silu", &mut || (ops.glu)(Activation::Silu, &x, &x, black_box(&mut y)));
    print("gelu", &mut || (ops.glu)(Activation::Gelu, &x, &x, black_box(&mut y)));
    print("softmax", &mut || (ops.softmax)(black_box(&mut x)));

    const DIM: usize = 64;
    const PAGE: usize = 32;
    println!("\nMAC/cycle of a page of {PAGE} keys of {DIM}: scores, weighted sums");
    for n in [1, 2, 3, 4, 6, 64] {
        let (q, mut acc) = (vec![0.1; n * DIM], vec![0.0; n * DIM]);
        let mut p = vec![0.0; n * PAGE];
        let rate = |ns: f64| (n * DIM * PAGE) as f64 / (ns * ghz);
        let (halves, singles) = (vec![0x2e66_u16; PAGE * DIM], vec![0.1_f32; PAGE * DIM]);
        let none = Ahead::NONE;
        let figures = [
            nanoseconds(&mut || {
                (ops.add_product_f16)(n, (&q, DIM), &halves, PAGE, (&mut p, PAGE), none)
            }),
            nanoseconds(&mut || {
                (ops.add_product_f16)(n, (&p, PAGE), &halves, DIM, (&mut acc, DIM), none)
            }),
            nanoseconds(&mut || {
                (ops.add_product_f32)(n, (&q, DIM), &singles, PAGE, (&mut p, PAGE), none)
            }),
            nanoseconds(&mut || {
                (ops.add_product_f32)(n, (&p, PAGE), &singles, DIM, (&mut acc, DIM), none)
            }),
        ];
        let [a, b, c, d] = figures.map(rate);
        println!("{n:3} rows   halves {a:5.1} {b:5.1}   singles {c:5.1} {d:5.1}");
    }
}

/// Packed activations, owned.
struct Input {
    plan: ActPlan,
    q: Vec<i8>,
    d: Vec<f32>,
    s: Vec<i16>,
    x: Vec<f32>,
}

impl Input {
    fn new(table: &KernelTable, kernels: &TypeKernels, n: usize) -> Input {
        let plan = table.plan(kernels.act, COLS, n);
        let x: Vec<f32> = (0..n * COLS).map(|i| (i as f32 * 0.37).sin()).collect();
        let units = plan.units();
        let (mut q, mut d) = (vec![0; units * plan.q_len()], vec![0.0; units * plan.d_len()]);
        let (mut s, mut floats) = (vec![0; units * plan.s_len()], vec![0.0; units * plan.x_len()]);
        for u in 0..units {
            let tokens = plan.tokens_of(u);
            let unit = ActUnit {
                q: &mut q[u * plan.q_len()..][..plan.q_len()],
                d: &mut d[u * plan.d_len()..][..plan.d_len()],
                s: &mut s[u * plan.s_len()..][..plan.s_len()],
                x: &mut floats[u * plan.x_len()..][..plan.x_len()],
            };
            table.pack(&plan, &x[tokens.start * COLS..tokens.end * COLS], unit);
        }
        Input { plan, q, d, s, x: floats }
    }

    fn acts(&self) -> Acts<'_> {
        Acts { plan: &self.plan, q: &self.q, d: &self.d, s: &self.s, x: &self.x }
    }
}

/// Whole rows of random bits, about `bytes` of them, without NaN or infinity.
fn weights(ty: GgmlType, bytes: usize) -> MmapMut {
    let row_bytes = COLS / ty.block_len() * ty.block_bytes();
    let mut state = 1u64;
    let mut w = zeros(bytes / row_bytes * row_bytes);
    for byte in &mut w[..] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Exponents of all ones need a byte of 0x7c or more.
        *byte = (state >> 33) as u8 & 0xbb;
    }
    w
}

/// Zeros, in huge pages where the system has them.
fn zeros(bytes: usize) -> MmapMut {
    let map = MmapMut::map_anon(bytes.max(1)).expect("memory for the weights");
    // A hint: without huge pages it is only slower.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    map
}

fn best(mut f: impl FnMut()) -> Duration {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < MEASURED {
        let time = cpu_time();
        f();
        best = best.min(cpu_time() - time);
    }
    best
}

/// How long this thread has run, which other processes do not lengthen.
#[cfg(target_os = "linux")]
fn cpu_time() -> Duration {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0; 2];
    // SAFETY: a `timespec` of a 64-bit Linux is two 64-bit numbers, and `time` has room for it.
    unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time[0] as u64, time[1] as u32)
}

#[cfg(not(target_os = "linux"))]
fn cpu_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

fn gigabytes(bytes: usize, f: impl FnMut()) -> f64 {
    bytes as f64 / best(f).as_secs_f64() / 1e9
}

/// Reads memory as fast as plain loops do.
fn read(bytes: &[u8]) {
    let mut sums = [0u64; 16];
    for chunk in bytes.as_chunks::<128>().0 {
        for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    black_box(sums);
}

/// Dependent additions, which CPUs do one of in a cycle.
fn clock_ghz() -> f64 {
    const ADDITIONS: u64 = 2_000_000;
    let time = best(|| {
        let mut x = 1u64;
        for _ in 0..ADDITIONS / 10 {
            for _ in 0..10 {
                x = add_one(x);
            }
        }
        black_box(x);
    });
    ADDITIONS as f64 / time.as_secs_f64() / 1e9
}

/// An addition the compiler cannot fold.
#[inline(always)]
fn add_one(x: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut x = x;
        // SAFETY: adds one to a register and touches nothing else.
        unsafe { std::arch::asm!("add {0}, 1", inout(reg) x, options(pure, nomem, nostack)) };
        x
    }
    #[cfg(target_arch = "aarch64")]
    {
        let mut x = x;
        // SAFETY: adds one to a register and touches nothing else.
        unsafe { std::arch::asm!("add {0}, {0}, #1", inout(reg) x, options(pure, nomem, nostack)) };
        x
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    black_box(x + 1)
}
