//! Models whose floats lie on grids: folders become files of the types that have the codes, files of
//! floats keep them through quantization, and what is on no grid is as it was.

use crate::convert::{convert, convert_as_stored, copy_of};
use crate::convert_lora::{Tensor, read, shards, write};
use crate::fixture_model::weight;
use crate::folder::Folder;
use gguf_rs_lite::{GgmlType, GgufFile};
use half::f16;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use teff::calibrate::{Calibration, LayerFolder, quantize_layers};
use teff::convert::{Conversion, ConvertOptions, Qat, TargetType};
use teff::engine::Model;
use teff::quantize::mix::Mix;
use teff::quantize::{Loss, Method, Options, Plan, Survey, Surveyed, Target};
use teff_kernels::KernelTable;

/// Columns under one scale.
const GROUP: usize = 32;

/// The values of a matrix on a grid of four bits.
fn on_grid(tensor: &Tensor) -> Vec<f32> {
    let drawn = |name: &str, i: usize| {
        f64::from(weight(11, &format!("{}{name}", tensor.name), &[1 << 20], i as u64))
    };
    let value = |i: usize| {
        let scale = f16::from_f64(0.01 * (1.5 + drawn("#scale", i / GROUP).clamp(-1.0, 1.0)));
        let code = (40.0 * drawn("#code", i)).round().clamp(-8.0, 7.0);
        scale.to_f32() * code as f32
    };
    (0..tensor.values.len()).map(value).collect()
}

/// A folder of llama's of which some matrices lie on grids where their rows have whole groups.
fn folder(scratch: &Folder, is_on_grid: fn(&str) -> bool) -> PathBuf {
    let folder = copy_of("llama-spm", scratch);
    let mut tensors: Vec<Tensor> = shards(&folder).iter().flat_map(|path| read(path)).collect();
    for tensor in &mut tensors {
        let cols = tensor.shape.last().copied().unwrap_or(1) as usize;
        if is_on_grid(&tensor.name) && tensor.shape.len() == 2 && cols.is_multiple_of(GROUP) {
            tensor.values = on_grid(tensor);
        }
    }
    shards(&folder).iter().for_each(|path| fs::remove_file(path).unwrap());
    let _ = fs::remove_file(folder.join("model.safetensors.index.json"));
    write(&folder.join("model.safetensors"), &tensors);
    folder
}

/// The name of a tensor, and its values.
type Named = (String, Vec<f32>);

/// All values of a file, by the names of its tensors.
fn values(path: &Path) -> Vec<Named> {
    let file = GgufFile::open(path).unwrap();
    let one = |info: &gguf_rs_lite::TensorInfo| {
        let mut values = vec![0.0; info.dims.iter().product::<u64>() as usize];
        let kernels = KernelTable::detect().types(info.ty).unwrap();
        kernels.dequantize(file.data(info), &mut values);
        (info.name.clone(), values)
    };
    file.tensors().iter().map(one).collect()
}

fn types(path: &Path, ty: GgmlType) -> usize {
    GgufFile::open(path).unwrap().tensors().iter().filter(|info| info.ty == ty).count()
}

/// Embedding, head, and in two layers four matrices of attention, gate and up.
const MATRICES: usize = 2 + 2 * 6;

#[test]
fn folders_on_a_grid_become_codes() {
    let scratch = Folder::new("qat-folder");
    let folder = folder(&scratch, |_| true);
    let [wide, codes, off] = ["wide", "codes", "off"].map(|name| scratch.0.join(name));
    convert(&folder, &wide, TargetType::F32).unwrap();
    let conversion = convert_as_stored(&folder, &codes).unwrap();
    let found: Vec<_> = conversion.tensors().iter().filter_map(|tensor| tensor.grid()).collect();
    assert_eq!(found.len(), MATRICES);
    assert!(found.iter().all(|found| found.is_exact() && found.group == GROUP), "{found:?}");
    assert_eq!(types(&codes, GgmlType::Q4_0), MATRICES);
    assert!(values(&wide) == values(&codes), "every value comes back");
    let options = ConvertOptions { qat: Qat::Off, ..ConvertOptions::default() };
    let plain = Conversion::plan(&folder, &options).unwrap();
    plain.write(&off, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    assert_eq!(types(&off, GgmlType::Q4_0), 0);
    assert!(plain.tensors().iter().all(|tensor| tensor.grid().is_none()));
    // Eight bits hold four.
    convert(&folder, &codes, TargetType::Q8_0).unwrap();
    assert_eq!(types(&codes, GgmlType::Q8_0), MATRICES);
    let same = |(wide, codes): (&Named, &Named)| wide == codes || wide.0.contains("ffn_down");
    assert!(values(&wide).iter().zip(&values(&codes)).all(same));
}

#[test]
fn plain_folders_stay_floats() {
    let scratch = Folder::new("qat-plain");
    let folder = folder(&scratch, |_| false);
    let conversion = convert_as_stored(&folder, &scratch.0.join("model.gguf")).unwrap();
    assert!(conversion.tensors().iter().all(|tensor| tensor.grid().is_none()));
}

/// Writes a file of other types; returns the types and losses of matrices.
fn quantize(file: &GgufFile, options: &Options, out: &Path) -> Vec<(GgmlType, bool, Loss)> {
    let plan = Plan::new(file, options).unwrap();
    let losses = plan.write(out, &mut |_| true).unwrap();
    let all = plan.tensors.iter().zip(losses);
    let matrices = all.filter(|(tensor, _)| tensor.info.dims.len() == 2);
    let whole = matrices.filter(|(tensor, _)| tensor.info.dims[0].is_multiple_of(32));
    whole.map(|(tensor, loss)| (tensor.ty, tensor.grid.is_some(), loss)).collect()
}

#[test]
fn files_of_floats_on_a_grid_keep_their_codes() {
    let scratch = Folder::new("qat-file");
    let folder = folder(&scratch, |_| true);
    let [wide, out] = ["wide", "out"].map(|name| scratch.0.join(name));
    convert(&folder, &wide, TargetType::F32).unwrap();
    let file = GgufFile::open(&wide).unwrap();
    for mix in [Mix::Q4_0, Mix::Q8_0] {
        let mut options = Options::new(mix);
        options.wishes.pure = true;
        let found = quantize(&file, &options, &out);
        assert_eq!(found.len(), MATRICES);
        for (ty, is_on_grid, loss) in found {
            assert!(is_on_grid && loss.error2 == 0.0, "{mix}: {ty} {loss:?}");
        }
        options.qat = Qat::Off;
        let found = quantize(&file, &options, &out);
        assert!(
            found.iter().all(|(_, is_on_grid, loss)| !is_on_grid && loss.error2 > 0.0),
            "{mix}"
        );
    }
    // The grid's types where none is wanted; none where another is.
    let options = Options { mix: None, types_of_grids: true, ..Options::new(Mix::Q4_0) };
    // Whoever watches hears of each tensor, and can have it stop.
    let mut heard = Vec::new();
    Plan::watched(&file, &options, &mut |info, done, total| {
        heard.push((info.name.clone(), done, total));
        true
    })
    .unwrap();
    let n = file.tensors().len();
    assert_eq!(heard.len(), n);
    assert!(heard.iter().enumerate().all(|(i, told)| (told.1, told.2) == (i + 1, n)), "{heard:?}");
    let stopped = Plan::watched(&file, &options, &mut |_, done, _| done < 2).unwrap_err();
    assert!(matches!(stopped, teff::quantize::QuantizeError::Cancelled), "{stopped}");
    let found = quantize(&file, &options, &out);
    assert!(found.iter().all(|(ty, is_on_grid, _)| *ty == GgmlType::Q4_0 && *is_on_grid));
    assert!(values(&wide) == values(&out));
    let mut options = Options::new(Mix::IQ4_NL);
    options.wishes.pure = true;
    let found = quantize(&file, &options, &out);
    assert!(found.iter().all(|(ty, is_on_grid, _)| *ty == GgmlType::IQ4_NL && !is_on_grid));
}

/// Methods that see a text leave matrices on grids alone, and make the others better.
#[test]
fn methods_that_see_a_text_keep_grids() {
    let scratch = Folder::new("qat-methods");
    let folder = folder(&scratch, |name| name.contains("self_attn"));
    let [wide, out] = ["wide", "out"].map(|name| scratch.0.join(name));
    convert(&folder, &wide, TargetType::F32).unwrap();
    let model = Model::open(&wide).unwrap();
    let source = values(&wide);
    for method in ["gptq+refit", "awq"] {
        let method = Method::from_name(method).unwrap();
        let options = Options { method, ..Options::new(Mix::Q4_0) };
        let mut plan = Plan::new(model.file(), &options).unwrap();
        let kernels = options.kernels;
        let tokens: Vec<u32> = (3..35).collect();
        let calibration = Calibration { model: &model, chunks: &[&tokens], threads: 2, kernels };
        let layers = LayerFolder::open(&scratch.0.join(method.name), 1).unwrap();
        let made = quantize_layers(calibration, &plan, &layers, &mut |_| true).unwrap();
        let names: Vec<&str> = made.iter().map(|made| &made.weight.name[..]).collect();
        assert!(names.contains(&"blk.0.ffn_gate.weight"), "{names:?}");
        assert!(!names.iter().any(|name| name.contains(".attn_") && !name.contains("norm")));
        plan.take_ready(made.clone());
        plan.write(&out, &mut |_| true).unwrap();
        let (mut kept, mut norms) = (0, 0);
        for (old, new) in source.iter().zip(values(&out)) {
            let is_on_grid = old.0.contains(".attn_") && !old.0.contains("norm");
            kept += usize::from(is_on_grid);
            assert!(!is_on_grid || *old == new, "{}: {}", method.name, old.0);
            // Factors of a norm would take its readers off their grids.
            norms += usize::from(old.0.contains("attn_norm") && *old == new);
        }
        assert_eq!((kept, norms), (8, 2), "{}", method.name);
    }
}

/// A size gives matrices on grids the type of their codes, and the room to others.
#[test]
fn sizes_know_of_grids() {
    let scratch = Folder::new("qat-size");
    let folder = folder(&scratch, |name| name.contains("self_attn"));
    let wide = scratch.0.join("wide");
    convert(&folder, &wide, TargetType::F32).unwrap();
    let file = GgufFile::open(&wide).unwrap();
    for (qat, expected) in [(Qat::Auto, 8), (Qat::Off, 0)] {
        let options = Options { qat, ..Options::new(Mix::Q4_0) };
        let target = Target::BitsPerWeight(8.5);
        let survey = Survey::new(&file, &options, target, &mut |_, _, _| true).unwrap();
        let usual: Vec<f64> = survey.tensors.iter().map(Surveyed::usual_sensitivity).collect();
        let types = survey.types(&usual).unwrap();
        let plan = Plan::with_types(&file, &options, &types).unwrap();
        let kept = plan.tensors.iter().filter(|tensor| tensor.grid.is_some());
        let kept: Vec<_> = kept.filter(|t| t.info.name.contains(".attn_")).collect();
        assert_eq!(kept.len(), expected);
        assert!(kept.iter().all(|tensor| tensor.ty == GgmlType::Q4_0));
    }
}
