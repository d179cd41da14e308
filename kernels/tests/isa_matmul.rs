//! Matrix products of every level this CPU has, on random and extreme blocks, against the scalar
//! level; and the promise that no result depends on batch, layout or chunking.

mod common;

use common::{Random, tables};
use gguf_rs_lite::GgmlType;
use teff_kernels::{
    ActFormat, ActPlan, ActUnit, Acts, KernelTable, Level, ROWS_MAX, Scratch, TypeKernels,
};

/// Every type that the lowest level multiplies.
fn types() -> impl Iterator<Item = GgmlType> {
    let scalar = KernelTable::at_most(Level::Scalar);
    GgmlType::all().filter(|&ty| scalar.types(ty).is_some())
}

impl Random {
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}

/// What the blocks of a matrix are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blocks {
    /// Random codes, scales near 0.1.
    Tame,
    /// Random bits, NaN and infinity of the scales included.
    Any,
    /// One byte everywhere, with tame scales.
    Filled(u8),
}

/// Where the halves of a block are that scale it.
fn halves(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
        GgmlType::IQ4_NL | GgmlType::IQ4_XS => &[0],
        GgmlType::IQ1_S | GgmlType::IQ2_XXS | GgmlType::IQ2_XS | GgmlType::IQ2_S => &[0],
        GgmlType::IQ3_XXS | GgmlType::IQ3_S | GgmlType::Q1_0 | GgmlType::Q2_0 => &[0],
        GgmlType::TQ1_0 => &[52],
        GgmlType::TQ2_0 => &[64],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        // A type of the crate's own tests.
        GgmlType::Q8_1 => &[0],
        _ => &[],
    }
}

fn weights(ty: GgmlType, rows: usize, cols: usize, kind: Blocks, random: &mut Random) -> Vec<u8> {
    let mut w = Vec::new();
    for _ in 0..rows * cols / ty.block_len() {
        let start = w.len();
        match (ty, kind) {
            (_, Blocks::Filled(byte)) => w.resize(start + ty.block_bytes(), byte),
            (GgmlType::F32, Blocks::Tame) => w.extend(random.float().to_le_bytes()),
            (GgmlType::F16, Blocks::Tame) => {
                w.extend(half::f16::from_f32(random.float()).to_le_bytes())
            }
            (GgmlType::BF16, Blocks::Tame) => {
                w.extend(half::bf16::from_f32(random.float()).to_le_bytes())
            }
            _ => w.extend((0..ty.block_bytes()).map(|_| random.next() as u8)),
        }
        if kind != Blocks::Any {
            for at in halves(ty) {
                let scale = half::f16::from_f32(0.1 * random.float());
                w[start + at..start + at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            match ty {
                GgmlType::MXFP4 => w[start] = 118 + random.below(6) as u8,
                // Without the top of exponents; filled, blocks may keep the code of NaN.
                GgmlType::NVFP4 if kind == Blocks::Tame => {
                    w[start..start + 4].iter_mut().for_each(|d| *d &= 0x3f)
                }
                GgmlType::IQ1_M => w[start + 55] = 0x20 | w[start + 55] & 0x8f,
                _ => {}
            }
        }
    }
    w
}

/// The packed rows of `x`.
struct Packed {
    plan: ActPlan,
    q: Vec<i8>,
    d: Vec<f32>,
    s: Vec<i16>,
    x: Vec<f32>,
}

impl Packed {
    fn new(table: &KernelTable, format: ActFormat, cols: usize, x: &[f32]) -> Packed {
        Packed::by_plan(table, table.plan(format, cols, x.len() / cols), x)
    }

    fn by_plan(table: &KernelTable, plan: ActPlan, x: &[f32]) -> Packed {
        let (n, cols) = (plan.units(), plan.cols);
        let mut packed = Packed {
            plan,
            q: vec![1; n * plan.q_len()],
            d: vec![1.0; n * plan.d_len()],
            s: vec![1; n * plan.s_len()],
            x: vec![1.0; n * plan.x_len()],
        };
        for u in 0..n {
            let tokens = plan.tokens_of(u);
            let unit = ActUnit {
                q: &mut packed.q[u * plan.q_len()..][..plan.q_len()],
                d: &mut packed.d[u * plan.d_len()..][..plan.d_len()],
                s: &mut packed.s[u * plan.s_len()..][..plan.s_len()],
                x: &mut packed.x[u * plan.x_len()..][..plan.x_len()],
            };
            table.pack(&plan, &x[tokens.start * cols..tokens.end * cols], unit);
        }
        packed
    }

    fn acts(&self) -> Acts<'_> {
        Acts { plan: &self.plan, q: &self.q, d: &self.d, s: &self.s, x: &self.x }
    }
}

/// `[tokens][rows]` as bits, all NaN alike.
fn matmul(table: &KernelTable, ty: GgmlType, w: &[u8], cols: usize, x: &[f32]) -> Vec<u32> {
    let kernels = kernels(table, ty);
    let rows = w.len() / (cols / ty.block_len() * ty.block_bytes());
    let plan = table.plan_of([kernels], kernels.act, cols, x.len() / cols);
    let packed = Packed::by_plan(table, plan, x);
    let mut y = vec![7.0; rows * x.len() / cols];
    kernels.matmul(w, rows, &packed.acts(), &mut Scratch::default(), &mut y);
    y.into_iter().map(bits).collect()
}

fn kernels(table: &KernelTable, ty: GgmlType) -> &TypeKernels {
    table.types(ty).expect("every type of the list has kernels")
}

fn bits(y: f32) -> u32 {
    if y.is_nan() { f32::NAN.to_bits() } else { y.to_bits() }
}

fn inputs(n: usize, random: &mut Random) -> Vec<f32> {
    (0..n).map(|_| random.float()).collect()
}

fn is_float(ty: GgmlType) -> bool {
    ty.block_len() == 1
}

fn assert_equal(ty: GgmlType, what: &str, rows: usize, got: &[u32], want: &[u32]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (token, row) = (i / rows, i % rows);
        let (g, w) = (f32::from_bits(*got), f32::from_bits(*want));
        assert!(got == want, "{ty}, {what}: token {token} row {row}: {g} instead of {w}");
    }
}

/// Tables are what they say, and every type of the list has kernels at every level.
#[test]
fn levels_and_types() {
    for &level in Level::ALL {
        assert_eq!(level.name().parse(), Ok(level));
        let table = KernelTable::at_most(level);
        assert!(table.level() <= level);
        for ty in types() {
            let kernels = kernels(table, ty);
            assert_eq!((kernels.ty, kernels.act), (ty, ActFormat::of(ty)));
            assert!(kernels.level <= table.level());
        }
        assert!(table.types(GgmlType::I32).is_none() && table.types(GgmlType::Q8_K).is_none());
    }
    let error = "avx3".parse::<Level>().unwrap_err().to_string();
    let names_all = Level::ALL.iter().all(|level| error.contains(level.name()));
    assert!(error.contains("avx3") && names_all, "{error}");
    // Set by scripts that know what CPU they emulate.
    if let Ok(level) = std::env::var("TEFF_EXPECTED_ISA") {
        assert_eq!(tables().last().map(|table| table.level()), level.parse().ok());
    }
    #[cfg(target_arch = "x86_64")]
    {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        assert_eq!(KernelTable::at_most(Level::Avx2).level() == Level::Avx2, has);
        let has_avx2 = has;
        let has = has
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        let vex = has_avx2 && is_x86_feature_detected!("avxvnni");
        let table = KernelTable::at_most(Level::AvxVnni);
        assert_eq!(table.level() == Level::AvxVnni, vex);
        assert!(!vex || kernels(table, GgmlType::Q4_K).level == Level::AvxVnni);
        let table = KernelTable::at_most(Level::Avx512Vnni);
        assert_eq!(table.level() == Level::Avx512Vnni, has);
        assert!(!has || kernels(table, GgmlType::Q4_K).level == Level::Avx512Vnni);
        let has =
            has && is_x86_feature_detected!("avx512vbmi2") && is_x86_feature_detected!("popcnt");
        let table = KernelTable::at_most(Level::Avx512Vbmi2);
        assert_eq!(table.level() == Level::Avx512Vbmi2, has);
    }
    #[cfg(target_arch = "aarch64")]
    {
        assert_eq!(KernelTable::at_most(Level::Neon).level(), Level::Neon);
        let has = std::arch::is_aarch64_feature_detected!("dotprod");
        assert_eq!(KernelTable::at_most(Level::NeonDot).level() == Level::NeonDot, has);
        let has = has && std::arch::is_aarch64_feature_detected!("i8mm");
        let table = KernelTable::at_most(Level::NeonI8mm);
        assert_eq!(table.level() == Level::NeonI8mm, has);
        assert_eq!(kernels(table, GgmlType::Q4_K).level, table.level());
    }
}

/// Integer types return the scalar level's bits, whatever the blocks hold.
#[test]
fn integer_types_equal_scalar() {
    let mut random = Random(1);
    let scalar = KernelTable::at_most(Level::Scalar);
    let kinds = [Blocks::Tame, Blocks::Any, Blocks::Filled(0xff), Blocks::Filled(0x80)];
    for table in tables() {
        for ty in types().filter(|&ty| !is_float(ty)) {
            for kind in kinds.into_iter().chain([Blocks::Filled(0), Blocks::Filled(0x7f)]) {
                let block = ty.block_len();
                let (rows, cols) = (1 + random.below(20), block * (1 + random.below(6)));
                for n in [1, 3, 9] {
                    let w = weights(ty, rows, cols, kind, &mut random);
                    let x = inputs(n * cols, &mut random);
                    let want = matmul(scalar, ty, &w, cols, &x);
                    let got = matmul(table, ty, &w, cols, &x);
                    assert_equal(ty, &format!("{kind:?} n={n} cols={cols}"), rows, &got, &want);
                    // The largest codes of one sign, then of both: no partial sum may saturate.
                    for x in [vec![1.0; n * cols], vec![-1.0; n * cols]] {
                        let want = matmul(scalar, ty, &w, cols, &x);
                        let got = matmul(table, ty, &w, cols, &x);
                        assert_equal(ty, &format!("{kind:?} n={n} +-127"), rows, &got, &want);
                    }
                }
            }
        }
    }
}

/// Float types return the scalar level's bits, in shapes of no, one and several blocks of kernels.
#[test]
fn float_types_equal_scalar() {
    let mut random = Random(2);
    let scalar = KernelTable::at_most(Level::Scalar);
    let small = [(1, 1, 1), (7, 31, 2), (13, 96, 5), (9, 1023, 17)];
    let large = [(100, 779, 67), (7, 40, 65), (9, 2100, 7)];
    for ty in types().filter(|&ty| is_float(ty)) {
        for (rows, cols, n) in small.into_iter().chain(large) {
            let w = weights(ty, rows, cols, Blocks::Tame, &mut random);
            let x = inputs(n * cols, &mut random);
            let want = matmul(scalar, ty, &w, cols, &x);
            for table in tables() {
                let got = matmul(table, ty, &w, cols, &x);
                let what = format!("{} cols={cols} n={n}", table.level());
                assert_equal(ty, &what, rows, &got, &want);
            }
        }
    }
}

/// One token alone, as one of a few rows, in panels: the same bits.
#[test]
fn no_result_depends_on_the_batch() {
    let mut random = Random(3);
    for table in tables() {
        for ty in types() {
            let (rows, cols) = (5 + random.below(9), 256 * (1 + random.below(2)));
            // Rows of floats need not be whole registers.
            let cols = if is_float(ty) { cols + random.below(8) } else { cols };
            let w = weights(ty, rows, cols, Blocks::Tame, &mut random);
            let x = inputs(40 * cols, &mut random);
            let single: Vec<u32> =
                x.chunks_exact(cols).flat_map(|x| matmul(table, ty, &w, cols, x)).collect();
            for n in 2..=40 {
                let got = matmul(table, ty, &w, cols, &x[..n * cols]);
                assert_equal(ty, &format!("n={n}"), rows, &got, &single[..n * rows]);
            }
        }
    }
}

/// Interleaved rows: the same bits as native ones, for any rows of the groups.
#[test]
fn interleaved_rows_equal_native_ones() {
    let mut random = Random(7);
    for table in tables() {
        for ty in types() {
            let kernels = kernels(table, ty);
            let Some(lanes) = kernels.lanes() else { continue };
            let cols = ty.block_len() * (1 + random.below(4));
            let filled = [0xff, 0x80, 0x7f].map(Blocks::Filled);
            for kind in [Blocks::Tame, Blocks::Any].into_iter().chain(filled) {
                let w = weights(ty, N_GROUPS * lanes, cols, kind, &mut random);
                groups_equal_native(table, kernels, &w, cols, &format!("{kind:?}"), &mut random);
            }
        }
    }
}

/// Rows of the forms that leave zeros out: the same bits as all of their codes have.
#[test]
fn rows_without_zeros_equal_native_ones() {
    let mut random = Random(8);
    for (table, ty, kernels) in sparse_forms() {
        let lanes = kernels.lanes().expect("a form");
        for cols in [1, 2, 3, 7].map(|n| n * ty.block_len()) {
            let filled = [0xff, 0x80, 0x7f].map(Blocks::Filled);
            for kind in [Blocks::Tame, Blocks::Any].into_iter().chain(filled) {
                let mut w = weights(ty, N_GROUPS * lanes, cols, kind, &mut random);
                prune(ty, &mut w, &mut random);
                let row_bytes = w.len() / (N_GROUPS * lanes);
                assert!(kernels.interleaved_row_bytes(row_bytes) < row_bytes);
                groups_equal_native(table, kernels, &w, cols, &format!("{kind:?}"), &mut random);
            }
        }
    }
}

/// Forms of half of the codes: the same bits wherever these are.
#[test]
fn rows_of_half_zeros_anywhere_equal_native_ones() {
    let mut random = Random(10);
    for (table, ty, kernels) in sparse_forms().filter(|(.., kernels)| !holds_fours(kernels)) {
        let (n, lanes) = (3, kernels.lanes().expect("a form"));
        for _ in 0..8 {
            let mut w = weights(ty, N_GROUPS * lanes, n * ty.block_len(), Blocks::Any, &mut random);
            // All of some words of a group, none of others.
            for rows in w.chunks_exact_mut(lanes * n * ty.block_bytes()) {
                let total = lanes * n * 32;
                let mut places: Vec<usize> = (0..total).collect();
                let random_places = random.below(3) > 0;
                for i in 0..if random_places { total } else { 0 } {
                    places.swap(i, random.below(total));
                }
                for place in &places[..total / 2] {
                    let block = &mut rows[place / 32 * ty.block_bytes()..];
                    set_code(ty, block, place % 32, 0);
                }
            }
            groups_equal_native(table, kernels, &w, n * ty.block_len(), "half", &mut random);
        }
    }
}

/// One code too many is seen, wherever it is.
#[test]
fn rows_with_too_few_zeros_have_no_form_without() {
    let mut random = Random(9);
    for (_, ty, kernels) in sparse_forms() {
        let (n, lanes) = (3, kernels.lanes().expect("a form"));
        let mut w = vec![0; lanes * n * ty.block_bytes()];
        for block in w.chunks_exact_mut(ty.block_bytes()) {
            (0..32).for_each(|at| set_code(ty, block, at, if at % 4 < 2 { -3 } else { 0 }));
        }
        let row_bytes = n * ty.block_bytes();
        let mut group = vec![0; lanes * kernels.interleaved_row_bytes(row_bytes)];
        assert!(kernels.interleave(&w, row_bytes, &mut group));
        for block in 0..lanes * n {
            let mut w = w.clone();
            let at = 4 * random.below(8) + 2 + random.below(2);
            set_code(ty, &mut w[block * ty.block_bytes()..], at, 1);
            assert!(!kernels.interleave(&w, row_bytes, &mut group), "{ty} block {block}");
        }
    }
}

/// The forms that leave zeros out, of all levels.
fn sparse_forms() -> impl Iterator<Item = (&'static KernelTable, GgmlType, &'static TypeKernels)> {
    let of_type = |(table, ty): (&'static KernelTable, GgmlType)| {
        table.sparse(ty).map(move |kernels| (table, ty, kernels))
    };
    let tables = tables().into_iter();
    tables.flat_map(|table| types().map(move |ty| (table, ty))).flat_map(of_type)
}

/// Whether a form is one of two of every four: it has no room for three of them.
fn holds_fours(kernels: &TypeKernels) -> bool {
    let (ty, lanes) = (kernels.ty, kernels.lanes().expect("a form"));
    let mut w = vec![0; lanes * ty.block_bytes()];
    for block in w.chunks_exact_mut(ty.block_bytes()) {
        (0..32).for_each(|at| set_code(ty, block, at, 0));
    }
    (0..3).for_each(|at| set_code(ty, &mut w, at, 1));
    !kernels.interleave(
        &w,
        ty.block_bytes(),
        &mut vec![0; w.len()][..lanes * kernels.interleaved_row_bytes(ty.block_bytes())],
    )
}

/// Sets a code of a block of 32.
fn set_code(ty: GgmlType, block: &mut [u8], at: usize, code: i8) {
    match ty {
        GgmlType::Q8_0 => block[2 + at] = code as u8,
        GgmlType::Q4_0 => {
            let (byte, shift) = (&mut block[2 + at % 16], at / 16 * 4);
            *byte = *byte & !(15 << shift) | ((code + 8) as u8) << shift;
        }
        _ => panic!("{ty} has no form without zeros"),
    }
}

/// Sets two of every four codes to zero, sometimes more.
fn prune(ty: GgmlType, w: &mut [u8], random: &mut Random) {
    for block in w.chunks_exact_mut(ty.block_bytes()) {
        for four in (0..32).step_by(4) {
            let (first, step) = (random.below(4), 1 + random.below(3));
            set_code(ty, block, four + first, 0);
            set_code(ty, block, four + (first + step) % 4, 0);
            if random.below(8) == 0 {
                set_code(ty, block, four + random.below(4), 0);
            }
        }
    }
}

/// Groups that [`groups_equal_native`] takes.
const N_GROUPS: usize = 3;

/// Products of some rows of the groups of `w`, of few tokens and of more.
fn groups_equal_native(
    table: &KernelTable,
    of_groups: &TypeKernels,
    w: &[u8],
    cols: usize,
    what: &str,
    random: &mut Random,
) {
    let (ty, lanes) = (of_groups.ty, of_groups.lanes().expect("groups"));
    let row_bytes = cols / ty.block_len() * ty.block_bytes();
    let group_bytes = lanes * of_groups.interleaved_row_bytes(row_bytes);
    let mut groups = vec![0; N_GROUPS * group_bytes];
    assert!(of_groups.interleave(w, row_bytes, &mut groups));
    for n in (1..=ROWS_MAX + 1).chain([12, 13, 19]) {
        let first = random.below(N_GROUPS * lanes);
        let rows = first..first + 1 + random.below(N_GROUPS * lanes - first);
        let mut x = inputs(n * cols, random);
        if random.below(3) == 0 {
            x.iter_mut().for_each(|x| *x = x.signum());
        }
        let native = &w[rows.start * row_bytes..rows.end * row_bytes];
        let want = matmul(table, ty, native, cols, &x);
        let covering = rows.start / lanes * group_bytes..rows.end.div_ceil(lanes) * group_bytes;
        let plans = [KernelTable::plan, KernelTable::plan_interleaved];
        for plan in plans.map(|plan| plan(table, of_groups.act, cols, n)) {
            let packed = Packed::by_plan(table, plan, &x);
            let mut y = vec![7.0; rows.len() * n];
            of_groups.matmul_interleaved(
                &groups[covering.clone()],
                rows.clone(),
                &packed.acts(),
                &mut Scratch::default(),
                &mut y,
            );
            let got: Vec<u32> = y.into_iter().map(bits).collect();
            let what = format!("{} interleaved {what} {rows:?} n={n} {plan:?}", table.level());
            assert_equal(ty, &what, rows.len(), &got, &want);
        }
    }
    // One row's values.
    let (mut values, mut want) = (vec![0.0; cols], vec![0.0; cols]);
    let row = random.below(N_GROUPS * lanes);
    let group = &groups[row / lanes * group_bytes..][..group_bytes];
    of_groups.dequantize_lane(group, row_bytes, row, &mut Vec::new(), &mut values);
    of_groups.dequantize(&w[row * row_bytes..][..row_bytes], &mut want);
    let of_row = |values: Vec<f32>| values.into_iter().map(bits).collect::<Vec<_>>();
    assert_eq!(of_row(values), of_row(want), "{ty}, {what}: values of row {row}");
}

/// A row alone or among others, on both layouts: the same bits.
#[test]
fn no_result_depends_on_the_rows() {
    let mut random = Random(4);
    for table in tables() {
        for ty in types() {
            let cols = ty.block_len().max(32) * (1 + random.below(3));
            let w = weights(ty, 67, cols, Blocks::Tame, &mut random);
            let row_bytes = w.len() / 67;
            for n in [1, ROWS_MAX, ROWS_MAX + 1, 24] {
                let x = inputs(n * cols, &mut random);
                let all = matmul(table, ty, &w, cols, &x);
                for rows in (1..=67).step_by(if n > 9 { 5 } else { 1 }) {
                    let first = random.below(67 - rows + 1);
                    let chunk = &w[first * row_bytes..(first + rows) * row_bytes];
                    let got = matmul(table, ty, chunk, cols, &x);
                    let want = all.chunks_exact(67).flat_map(|y| &y[first..first + rows]);
                    let want: Vec<u32> = want.copied().collect();
                    assert_equal(ty, &format!("rows {first}+{rows} n={n}"), rows, &got, &want);
                }
            }
        }
    }
}

/// Packed activations are the bytes that the scalar level packs by the same plan, whatever the input.
#[test]
fn packing_equals_scalar() {
    let mut random = Random(5);
    let scalar = KernelTable::at_most(Level::Scalar);
    let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX, 1e-38, 1e-45, f32::NEG_INFINITY];
    for table in tables() {
        for format in [ActFormat::F32, ActFormat::Q8x32] {
            for n in [1, 2, 4, 5, 8, 13, 32] {
                let cols = format.block_len().max(32) * (1 + random.below(5));
                let mut x = inputs(n * cols, &mut random);
                // Blocks of zeros, of halves that tie, of tiny and of non-finite numbers.
                for (b, x) in x.chunks_exact_mut(32).enumerate() {
                    match b % 7 {
                        1 => x.fill(0.0),
                        2 => x.iter_mut().for_each(|x| *x = (*x * 254.0).round() / 2.0),
                        3 => x.iter_mut().for_each(|x| *x *= 1e-38),
                        4 => x[random.below(32)] = odd[random.below(odd.len())],
                        _ => {}
                    }
                }
                let got = Packed::new(table, format, cols, &x);
                let want = Packed::by_plan(scalar, got.plan, &x);
                assert_eq!(got.q, want.q, "{format:?} n={n} cols={cols}");
                assert_eq!(got.s, want.s, "{format:?} n={n} cols={cols}");
                let bits = |x: &[f32]| x.iter().copied().map(bits).collect::<Vec<_>>();
                assert_eq!(bits(&got.d), bits(&want.d), "{format:?} n={n} cols={cols}");
                assert_eq!(bits(&got.x), bits(&want.x), "{format:?} n={n} cols={cols}");
            }
        }
    }
}

/// Quantized products are near the float ones: an oracle that shares no code with the kernels
/// but dequantization.
#[test]
fn products_approximate_dequantized_weights() {
    let mut random = Random(6);
    for table in tables() {
        for ty in types() {
            let (rows, cols) = (6, 512);
            let w = weights(ty, rows, cols, Blocks::Tame, &mut random);
            let mut values = vec![0.0; rows * cols];
            kernels(table, ty).dequantize(&w, &mut values);
            for n in [2, 10] {
                let x = inputs(n * cols, &mut random);
                let got = matmul(table, ty, &w, cols, &x);
                for (x, got) in x.chunks_exact(cols).zip(got.chunks_exact(rows)) {
                    for (w, got) in values.chunks_exact(cols).zip(got) {
                        let dot = |a: &[f32], b: &[f32]| -> f64 {
                            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                        };
                        // 8-bit activations err by 1/254 of the largest at most, as noise.
                        let bound = 5.0 / 254.0 * dot(w, w).sqrt() + 1e-4;
                        let error = (f64::from(f32::from_bits(*got)) - dot(w, x)).abs();
                        assert!(error <= bound, "{ty} n={n}: off by {error}, allowed {bound}");
                    }
                }
            }
        }
    }
}
