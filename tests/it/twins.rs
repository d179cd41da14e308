//! A file of each type against its twin: the same values, dequantized to F32. What differs is how
//! the inputs of products are rounded, no more.

use crate::decoder::{logits, options};
use crate::fixture_model::{self, Fixture};
use crate::measure::kl_mean;
use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter};
use std::path::Path;
use std::sync::Arc;
use teff::engine::Model;
use teff::sample::rng::Rng;
use teff_kernels::{KernelTable, TypeKernels};

/// Mean Kullback-Leibler divergence of the next token's distribution, in nats: ten times what
/// inputs rounded to 8 bits cost.
const KL_MAX: f64 = 1e-4;

/// The types that weights of a model may have; each must run.
const WEIGHT_TYPES: &[GgmlType] = {
    use GgmlType::*;
    &[
        F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ1_S, IQ1_M,
        IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0,
        Q2_0,
    ]
};

fn model(gguf: Vec<u8>) -> Model {
    let file = Arc::new(GgufFile::from_bytes(gguf).unwrap());
    Model::from_file(file, Path::new("test.gguf")).unwrap()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The matrices of an F32 file in another type, and the same values in F32. Others stay.
fn twins(gguf: &[u8], kernels: &TypeKernels, ty: GgmlType) -> [Vec<u8>; 2] {
    let file = GgufFile::from_bytes(gguf.to_vec()).unwrap();
    let fits = |dims: &[u64]| dims.len() > 1 && dims[0].is_multiple_of(ty.block_len() as u64);
    assert!(file.tensors().iter().filter(|tensor| fits(&tensor.dims)).count() > 10, "{ty}");
    let mut rng = Rng::new(u64::from(ty.id()));
    let matrices: Vec<Option<Vec<u8>>> = file
        .tensors()
        .iter()
        .map(|tensor| {
            let blocks = || blocks_of(kernels, ty, &f32s(file.data(tensor)), &mut rng);
            fits(&tensor.dims).then(blocks)
        })
        .collect();
    [false, true].map(|in_f32| {
        let mut writer = GgufWriter::new(Vec::new());
        for (key, value) in file.entries() {
            writer.add(key, value).unwrap();
        }
        for (tensor, blocks) in file.tensors().iter().zip(&matrices) {
            let ty = if blocks.is_some() && !in_f32 { ty } else { GgmlType::F32 };
            writer.declare(&tensor.name, ty, &tensor.dims).unwrap();
        }
        let mut data = writer.write_header().unwrap();
        for (tensor, blocks) in file.tensors().iter().zip(&matrices) {
            let bytes = match blocks {
                None => file.data(tensor).to_vec(),
                Some(blocks) if !in_f32 => blocks.clone(),
                Some(blocks) => {
                    let mut values = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
                    kernels.dequantize(blocks, &mut values);
                    values.iter().flat_map(|x| x.to_le_bytes()).collect()
                }
            };
            data.write_tensor(&bytes).unwrap();
        }
        data.finish().unwrap()
    })
}

/// The values in blocks; random blocks of about their size if the type can only be read.
fn blocks_of(kernels: &TypeKernels, ty: GgmlType, values: &[f32], rng: &mut Rng) -> Vec<u8> {
    let mut blocks = vec![0; ty.bytes_of(values.len() as u64).unwrap() as usize];
    if kernels.quantize(values, None, &mut blocks).is_ok() {
        return blocks;
    }
    let rms = |x: &[f32]| (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    let wanted = rms(values);
    let mut values = vec![0.0; ty.block_len()];
    for block in blocks.chunks_exact_mut(ty.block_bytes()) {
        block.fill_with(|| rng.next_u64() as u8);
        set_scale(ty, block, 1.0);
        kernels.dequantize(block, &mut values);
        set_scale(ty, block, wanted / rms(&values));
    }
    blocks
}

/// Sets the scale of a block of the lattice types, a half.
fn set_scale(ty: GgmlType, block: &mut [u8], scale: f32) {
    let half = half::f16::from_f32(scale).to_bits();
    if ty == GgmlType::IQ1_M {
        // Four bits at the top of each of the last four 16-bit words, the lowest first.
        for (i, byte) in [49, 51, 53, 55].into_iter().enumerate() {
            block[byte] = block[byte] & 0x0f | ((half >> (4 * i) & 0x0f) as u8) << 4;
        }
    } else {
        block[..2].copy_from_slice(&half.to_le_bytes());
    }
}

#[test]
fn every_type_gives_the_logits_of_its_dequantized_twin() {
    let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load("qwen3-dense");
    let table = KernelTable::detect();
    for &ty in WEIGHT_TYPES {
        let kernels = table.types(ty).unwrap_or_else(|| panic!("no kernels for {ty}"));
        let [ours, truth] =
            twins(&gguf, kernels, ty).map(|gguf| logits(&model(gguf), &tokens, &options(2, 16)));
        let kl = kl_mean(&ours, &truth, n_vocab);
        println!("{:8} {:6.3} bits: KL {kl:.1e}", ty.name(), bits_per_weight(ty));
        assert!((0.0..=KL_MAX).contains(&kl), "{ty}: KL {kl:.2e}");
    }
}

fn bits_per_weight(ty: GgmlType) -> f64 {
    (ty.block_bytes() * 8) as f64 / ty.block_len() as f64
}
