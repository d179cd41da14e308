//! Layers on a GPU: unpacking of every type, drawn programs against the naive backend, and starts that
//! come to nothing.
//!
//! The adapter is the one that `TEFF_GPU` names, or Mesa's software Vulkan: see `require.rs`.

use crate::decoder::{model, options};
use crate::fixture_model::{self, Fixture};
use crate::reference::{attention, compare_on, experts, products, rows};
use crate::require::require;
use gguf_rs_lite::GgmlType;
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use teff::backend::gpu::adapters;
use teff::backend::pages::KvType;
use teff::backend::program::{Op, Program};
use teff::backend::{
    BackendOptions, GpuLayers, Placement, PlacementListener, ShaderChoice, start_placed,
};
use teff::decoder::{Decoder, DecoderOptions, Outputs, SequenceChunk};
use teff::engine::Engine;
use teff::tensor::Weight;
use teff_kernels::{KernelTable, Level};

/// Types that shaders unpack.
const TYPES: [GgmlType; 16] = [
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
    GgmlType::IQ4_NL,
    GgmlType::IQ4_XS,
    GgmlType::MXFP4,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::F32,
];

/// Programs of each kind: a device and its shaders are made for each.
const N_SEEDS: u64 = 4;

/// A part of the name of the adapter that is tested.
pub fn adapter() -> Option<String> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    let found = NAME.get_or_init(|| {
        let wanted = std::env::var("TEFF_GPU").unwrap_or_else(|_| "llvmpipe".into());
        let is_it = |name: &str| name.to_lowercase().contains(&wanted.to_lowercase());
        adapters().into_iter().map(|adapter| adapter.name).find(|name| is_it(name))
    });
    require("gpu", found.clone(), "there is no adapter to test")
}

/// Layers on the adapter that is tested.
pub fn placement(layers: GpuLayers) -> Option<Placement> {
    Some(Placement { layers, adapter: Some(adapter()?), ..Placement::default() })
}

/// The same with the shaders that are best for the adapter, and with those that any can have.
fn in_both_forms(placement: Placement) -> [Placement; 2] {
    [placement.clone(), Placement { shaders: ShaderChoice::Plain, ..placement }]
}

/// A listener that nobody hears.
pub fn silent() -> Arc<dyn PlacementListener> {
    Arc::new(|_: &str| {})
}

/// A listener, and the lines that it was told.
pub fn noting() -> (Arc<Mutex<Vec<String>>>, Arc<dyn PlacementListener>) {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = said.clone();
    (said, Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned())))
}

/// A backend with all that has shaders on the GPU.
fn start_all(
    placement: &Placement,
) -> impl Fn(
    Program,
    &BackendOptions,
) -> Result<Box<dyn teff::backend::Backend>, teff::backend::StartError> {
    move |program, options| start_placed(program, options, placement, &silent())
}

/// Bytes of rows of a type: drawn, and all of one value.
fn extreme_rows(ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
    let len = ty.bytes_of((rows * cols) as u64).unwrap() as usize;
    let mut state = 1_u64;
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect();
    let row = len / rows;
    for (i, value) in [0x00, 0xff, 0x7f, 0x80].into_iter().enumerate() {
        bytes[i * row..][..row].fill(value);
    }
    bytes
}

/// Whether a number is what it should be but for the rounding of a product, and of a number too small
/// to be normal, which devices may take for zero.
fn is_close(ours: f32, truth: f32, scale: f32) -> bool {
    if !truth.is_finite() {
        // What infinities and no numbers become is the device's business, but no number.
        return !ours.is_finite();
    }
    (ours - truth).abs() <= 2e-6 * scale.max(truth.abs()) + 2e-38
}

#[test]
fn every_type_is_unpacked_as_the_kernels_do() {
    let Some(placement) = placement(GpuLayers::All) else { return };
    for ty in TYPES {
        let (n, cols) = (61, 2 * ty.block_len().max(24));
        let mut program = Program { n_vocab: n, n_out: cols, ..Program::default() };
        let bytes = extreme_rows(ty, n, cols);
        let table = program.bind(Weight::owned("table", ty, [1, n, cols], bytes));
        let kernels = KernelTable::at_most(Level::Scalar).types(ty).unwrap();
        let mut truth = vec![0.0; n * cols];
        for (row, out) in truth.chunks_mut(cols).enumerate() {
            kernels.dequantize(table.rows_of(0, row..row + 1), out);
        }
        let out = program.buffer(cols);
        program.ops.push(Op::Embed { table, scale: 1.0, addend: None, positions: None, out });
        program.ops.push(Op::Result { input: out, norm: None });
        program.check().unwrap();
        let options = BackendOptions {
            threads: Some(1),
            cpus: None,
            kernels: KernelTable::detect(),
            max_tokens: n,
            max_outputs: n,
            n_ctx: n,
            kv_type: KvType::F32,
            repack: false,
        };
        let backend = start_placed(program, &options, &placement, &silent()).unwrap();
        let options = DecoderOptions {
            threads: Some(1),
            cpus: None,
            max_batch: n,
            max_outputs: n,
            n_ctx: n,
            kv_type: KvType::F32,
            kv_bytes_max: usize::MAX,
            repack: false,
        };
        let mut decoder = Decoder::with_backend(backend, &options);
        let tokens: Vec<u32> = (0..n as u32).collect();
        let ours = decoder.lead(|decoder| {
            let sequence = decoder.kv_mut().create();
            let run = SequenceChunk { sequence, tokens: &tokens, outputs: Outputs::All };
            decoder.step(&[run]).unwrap().to_vec()
        });
        for (i, (row, truth)) in ours.chunks(cols).zip(truth.chunks(cols)).enumerate() {
            let scale =
                truth.iter().filter(|x| x.is_finite()).fold(0.0, |a: f32, b| a.max(b.abs()));
            for (j, (&a, &b)) in row.iter().zip(truth).enumerate() {
                assert!(is_close(a, b, scale), "{ty}, row {i}, element {j}: {a} for {b}");
            }
        }
    }
}

#[test]
fn products_are_the_references() {
    let Some(placement) = placement(GpuLayers::All) else { return };
    let of_32 = |ty: &GgmlType| ty.block_len() == 32;
    let blocks_of_32: Vec<GgmlType> = TYPES.into_iter().filter(of_32).collect();
    let of_256 = |ty: &GgmlType| ty.block_len() == 256;
    let blocks_of_256: Vec<GgmlType> = TYPES.into_iter().filter(of_256).collect();
    let floats = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];
    for placement in in_both_forms(placement) {
        let start = start_all(&placement);
        compare_on(&start, N_SEEDS, "plain numbers", 1e-9, |draw| products(draw, &floats, 37));
        compare_on(&start, 3 * N_SEEDS, "32", 1e-9, |draw| products(draw, &blocks_of_32, 32));
        compare_on(&start, 3 * N_SEEDS, "256", 1e-9, |draw| products(draw, &blocks_of_256, 256));
    }
}

#[test]
fn attention_is_the_references() {
    let Some(placement) = placement(GpuLayers::All) else { return };
    for placement in in_both_forms(placement) {
        let (start, n) = (start_all(&placement), 2 * N_SEEDS);
        compare_on(&start, n, "attention", 1e-9, |draw| attention(draw, false, KvType::F32));
        compare_on(&start, n, "both sides", 1e-9, |draw| attention(draw, true, KvType::F32));
        compare_on(&start, n, "halves", 1e-5, |draw| attention(draw, false, KvType::F16));
        compare_on(&start, n, "eight bits", 1e-3, |draw| attention(draw, false, KvType::Q8_0));
    }
}

#[test]
fn experts_are_the_references() {
    let Some(placement) = placement(GpuLayers::All) else { return };
    let start = start_all(&placement);
    compare_on(&start, 2 * N_SEEDS, "experts", 1e-9, |draw| experts(draw, GgmlType::F32, 23));
    // Those that stay on the CPU quantize their inputs.
    compare_on(&start, N_SEEDS, "quantized", 1e-3, |draw| experts(draw, GgmlType::MXFP4, 32));
}

/// Sums by subgroups: those of the adapter, taken as they are and as any, and emulated ones of other
/// widths.
#[test]
fn sums_by_subgroups_are_the_references() {
    let Some(placement) = placement(GpuLayers::All) else { return };
    let types = [GgmlType::F32, GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::MXFP4];
    for shaders in [
        ShaderChoice::Subgroups,
        ShaderChoice::SubgroupsOfAny,
        ShaderChoice::Emulated(8),
        ShaderChoice::Emulated(16),
        ShaderChoice::Emulated(32),
        ShaderChoice::Emulated(64),
    ] {
        let placement = Placement { shaders, ..placement.clone() };
        let (start, n) = (start_all(&placement), N_SEEDS);
        let what = |of: &str| format!("{of}, {shaders:?}");
        compare_on(&start, 2 * n, &what("32"), 1e-9, |draw| products(draw, &types, 32));
        compare_on(&start, n, &what("256"), 1e-9, |draw| {
            products(draw, &[GgmlType::Q4_K, GgmlType::Q6_K], 256)
        });
        compare_on(&start, n, &what("norms"), 1e-9, |draw| attention(draw, false, KvType::F32));
        compare_on(&start, n, &what("rows"), 1e-9, rows);
        compare_on(&start, n, &what("experts"), 1e-9, |draw| experts(draw, GgmlType::F32, 23));
    }
}

/// The same with the widths that software Vulkan has when it is told so.
#[test]
fn sums_by_subgroups_of_other_widths_are_the_references() {
    if adapter().is_none_or(|adapter| !adapter.contains("llvmpipe")) {
        return;
    }
    for bits in ["128", "512"] {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "gpu::sums_by_subgroups_are_the_references"]);
        let output = test.env("LP_NATIVE_VECTOR_WIDTH", bits).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{bits} bits: {said}");
    }
}

/// Most of these operations have no shader, so rows go from one place to the other and back.
#[test]
fn operations_on_rows_are_the_references_in_either_place() {
    let Some(placement) = placement(GpuLayers::All) else { return };
    compare_on(&start_all(&placement), N_SEEDS, "rows", 1e-9, rows);
}

#[test]
fn what_is_not_there_is_named() {
    let Fixture { gguf, .. } = fixture_model::load("llama-dense");
    let model = model(gguf);
    let placement = Placement {
        layers: GpuLayers::All,
        adapter: Some("no such thing".into()),
        ..Placement::default()
    };
    let start =
        |program, options: &BackendOptions| start_placed(program, options, &placement, &silent());
    let error = Engine::on(&model, &options(1, 1), &start).err().unwrap().to_string();
    assert!(error.contains("no such thing") && error.contains("adapter"), "{error}");
    // As many layers as the device has room for are none where there is no device.
    let placement = Placement { layers: GpuLayers::Auto, ..placement };
    let (said, listener) = noting();
    let start =
        |program, options: &BackendOptions| start_placed(program, options, &placement, &listener);
    assert!(Engine::on(&model, &options(1, 1), &start).is_ok());
    let said = said.lock().unwrap();
    assert!(said.iter().any(|line| line.contains("all layers stay on the CPU")), "{said:?}");
}

/// Hears of weights on their way, and stops them behind so many parts.
struct Counting {
    heard: Mutex<Vec<(u64, u64)>>,
    most: usize,
}

impl PlacementListener for Counting {
    fn tell(&self, line: &str) {
        panic!("{line}");
    }

    fn bring(&self, done: u64, total: u64) -> ControlFlow<()> {
        let mut heard = self.heard.lock().unwrap();
        heard.push((done, total));
        if heard.len() < self.most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

#[test]
fn weights_on_their_way_are_told_and_can_be_stopped() {
    if adapter().is_none() {
        return;
    }
    let model = model(fixture_model::load("llama-dense").gguf);
    for most in [usize::MAX, 3] {
        let counting = Arc::new(Counting { heard: Mutex::default(), most });
        let listener: Arc<dyn PlacementListener> = counting.clone();
        let placement =
            Placement { layers: GpuLayers::All, adapter: adapter(), ..Placement::default() };
        let start = |program, options: &BackendOptions| {
            start_placed(program, options, &placement, &listener)
        };
        let started = Engine::on(&model, &options(1, 1), &start);
        let heard = counting.heard.lock().unwrap();
        assert!(heard.is_sorted_by_key(|(done, _)| *done), "{heard:?}");
        if most == usize::MAX {
            let offload = started.unwrap().decoder().offload().unwrap();
            let n = offload.on_gpu.weights;
            assert_eq!(heard.last(), Some(&(n, n)));
        } else {
            let error = started.err().unwrap().to_string();
            assert_eq!(heard.len(), most);
            assert!(error.contains("was stopped on its way"), "{error}");
        }
    }
}
