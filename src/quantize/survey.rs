//! Surveys: what each tensor of a file would lose in each type that it may have.
//!
//! Some rows of a tensor, evenly spread, are quantized to every type by the method that would make
//! it, and the squared errors added up, each weighted by the importance of its column: with
//! activations of that size this is the expected squared error of the product. How much such an error
//! matters is another question, that of [`Survey::tensors`]' sensitivities: a caller measures them with
//! [`Survey::changed`], or takes [`Surveyed::usual_sensitivity`].
//!
//! Cost: a tensor has [`SAMPLE_ELEMENTS`] elements quantized some twenty times. The figures do not
//! depend on threads.

use super::allocate::{self, Offer};
use super::error::QuantizeError;
use super::grids;
use super::method::Method;
use super::mix::{self, Facts, Shape};
use super::plan::{self, Options, Plan};
use super::rows::check_finite;
use super::share::share;
use crate::grid::{self, Qat};
use crate::tensor::{Weight, memory};
use gguf_rs_lite::{GgmlType, GgufFile, TensorInfo};
use teff_kernels::{KernelTable, TypeKernels};

use GgmlType::*;

/// Types that a tensor may get.
const TYPES: &[GgmlType] = &[
    IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, Q2_K, IQ3_XXS, IQ3_S, Q3_K, IQ4_XS, IQ4_NL, Q4_0, Q4_K,
    Q4_1, Q5_0, Q5_K, Q5_1, Q6_K, Q8_0, F16,
];
/// Elements that are tried of each tensor, about; small errors of the errors do not change choices.
const SAMPLE_ELEMENTS: u64 = 1 << 17;
/// Rows that are tried at least.
const SAMPLE_ROWS_MIN: u64 = 16;
/// Divergence that an error of the head makes, by that of the same relative error of a layer's tensor: it
/// comes to the answers whole. 34 and 51 were measured, `benches/record/target.md`.
const HEAD_WEIGHT: f64 = 40.0;
/// Rows that a thread takes at a time.
const PART_ROWS: usize = 8;

/// A size that a file is to come to, at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Bytes of all files together.
    FileBytes(u64),
    /// Bits of the tensors' data, by their number of weights.
    BitsPerWeight(f64),
}

/// A tensor and what it would lose.
#[derive(Debug)]
pub struct Surveyed<'a> {
    /// The tensor.
    pub info: &'a TensorInfo,
    /// Its number in the file.
    pub number: usize,
    /// Types, with the weighted squared error of all weights as their cost.
    pub offers: Vec<Offer>,
    /// Weighted sum of all squared weights.
    pub size2: f64,
    is_head: bool,
    importances: Option<Vec<f32>>,
}

/// Survey of what the tensors of a file would lose, and the size that the file is to come to.
#[derive(Debug)]
pub struct Survey<'a> {
    file: &'a GgufFile,
    options: &'a Options,
    target: Target,
    /// Types of the tensors that have no choice.
    fixed: Vec<Option<GgmlType>>,
    /// The tensors that have one, in the file's order.
    pub tensors: Vec<Surveyed<'a>>,
}

impl<'a> Survey<'a> {
    /// Tries every type on every tensor that may be quantized; `step` hears of each tensor that is
    /// done, of how many are done out of how many, and returns whether to go on.
    ///
    /// # Errors
    /// No choice of types comes down to the target, which is said before anything is tried; weights
    /// cannot be read or are not finite, importances are another model's, or `step` said to stop.
    pub fn new(
        file: &'a GgufFile,
        options: &'a Options,
        target: Target,
        step: &mut dyn FnMut(&TensorInfo, usize, usize) -> bool,
    ) -> Result<Survey<'a>, QuantizeError> {
        let mut survey = Survey::untried(file, options, target)?;
        survey.check_least()?;
        let total = survey.tensors.len();
        for done in 1..=total {
            file.check_uncut()?;
            let tensor = &mut survey.tensors[done - 1];
            let trial = Trial::new(file, tensor.info, options, tensor.importances.as_deref())?;
            let (offers, size2) = trial.run(file.alignment().into(), options.threads)?;
            (tensor.offers, tensor.size2) = (offers, size2);
            tensor.find_grid(file, options)?;
            if !step(tensor.info, done, total) {
                return Err(QuantizeError::Cancelled);
            }
        }
        Ok(survey)
    }

    /// All offers, without costs.
    fn untried(
        file: &'a GgufFile,
        options: &'a Options,
        target: Target,
    ) -> Result<Survey<'a>, QuantizeError> {
        let shapes: Vec<Shape<'_>> = file.tensors().iter().map(Shape::from).collect();
        let fixed = mix::fixed(&Facts::of(file)?, &options.wishes, &shapes);
        // Importances are found and checked as for a file of eight bits.
        let any: Vec<GgmlType> = shapes
            .iter()
            .zip(&fixed)
            .map(|(shape, ty)| ty.unwrap_or(if shape.ty == Q8_0 { F16 } else { Q8_0 }))
            .map(|ty| if ty == Q8_0 || ty.block_len() == 1 { ty } else { F16 })
            .collect();
        let plan = Plan::with_types(file, options, &any)?;
        let has_head = file.tensor("output.weight").is_some();
        let head = if has_head { "output.weight" } else { "token_embd.weight" };
        let mut tensors = Vec::new();
        for (number, planned) in plan.tensors.into_iter().enumerate() {
            if fixed[number].is_some() {
                continue;
            }
            let (info, importances) = (planned.info, planned.importances);
            let trial = Trial::new(file, info, options, importances.as_deref())?;
            let offers = trial.offers(file.alignment().into());
            let is_head = info.name == head;
            tensors.push(Surveyed { info, number, offers, size2: 0.0, is_head, importances });
        }
        Ok(Survey { file, options, target, fixed, tensors })
    }

    /// Refuses a target below the least bytes of all offers.
    fn check_least(&self) -> Result<(), QuantizeError> {
        let least = |tensor: &Surveyed<'_>| {
            tensor.offers.iter().map(|offer| offer.bytes).min().unwrap_or(0)
        };
        let least = self.rest()? + self.tensors.iter().map(least).sum::<u64>();
        let target = self.target_bytes()?;
        if least > target { Err(self.too_small(target, least)) } else { Ok(()) }
    }

    fn too_small(&self, target: u64, least: u64) -> QuantizeError {
        let least_bits = self.bits_of(least).unwrap_or(f64::INFINITY);
        QuantizeError::Target { target, least, least_bits }
    }

    /// A type for each tensor of the file, so that it comes to no more than the target and the sum of
    /// errors, each times its tensor's sensitivity, is low. `sensitivities` are of [`Survey::tensors`].
    ///
    /// # Errors
    /// No choice of types comes down to that size.
    pub fn types(&self, sensitivities: &[f64]) -> Result<Vec<GgmlType>, QuantizeError> {
        let costs = |(tensor, &sensitivity): (&Surveyed<'_>, &f64)| -> Vec<Offer> {
            let cost = |offer: &Offer| Offer { cost: offer.cost * sensitivity, ..*offer };
            tensor.offers.iter().map(cost).collect()
        };
        let tensors: Vec<Vec<Offer>> = self.tensors.iter().zip(sensitivities).map(costs).collect();
        let (rest, target) = (self.rest()?, self.target_bytes()?);
        // Without room for anything, the error says how much is needed.
        let room = target.saturating_sub(rest);
        let chosen = allocate::allocate(&tensors, room)
            .map_err(|least| self.too_small(target, least + rest))?;
        if target < rest {
            return Err(self.too_small(target, rest));
        }
        let mut types: Vec<GgmlType> =
            self.fixed.iter().map(|fixed| fixed.unwrap_or(F32)).collect();
        for (tensor, offer) in self.tensors.iter().zip(chosen) {
            types[tensor.number] = tensor.offers[offer].ty;
        }
        Ok(types)
    }

    /// Bits per weight of the target.
    ///
    /// # Errors
    /// The metadata cannot be written.
    pub fn target_bits(&self) -> Result<f64, QuantizeError> {
        match self.target {
            Target::BitsPerWeight(bits) => Ok(bits),
            Target::FileBytes(bytes) => self.bits_of(bytes),
        }
    }

    /// Bits per weight of a file of this size.
    fn bits_of(&self, file_bytes: u64) -> Result<f64, QuantizeError> {
        let data = file_bytes.saturating_sub(self.plan()?.header_bytes_max()?);
        Ok(data as f64 * 8.0 / self.elements() as f64)
    }

    /// Bytes that the file may have.
    fn target_bytes(&self) -> Result<u64, QuantizeError> {
        match self.target {
            Target::FileBytes(bytes) => Ok(bytes),
            Target::BitsPerWeight(bits) => {
                let data = (bits * self.elements() as f64 / 8.0) as u64;
                Ok(self.plan()?.header_bytes_max()?.saturating_add(data))
            }
        }
    }

    fn elements(&self) -> u64 {
        let all = self.file.tensors().iter().map(|info| info.dims.iter().product::<u64>());
        all.sum::<u64>().max(1)
    }

    /// A plan in which tensors with a choice stay as they are.
    fn plan(&self) -> Result<Plan<'_>, QuantizeError> {
        let types = self.file.tensors().iter().zip(&self.fixed);
        let types: Vec<GgmlType> = types.map(|(info, fixed)| fixed.unwrap_or(info.ty)).collect();
        Plan::with_types(self.file, self.options, &types)
    }

    /// What a file has beside the tensors that have a choice: bytes.
    fn rest(&self) -> Result<u64, QuantizeError> {
        let own = |tensor: &Surveyed<'_>| tensor.offers.last().map_or(0, |offer| offer.bytes);
        let chosen: u64 = self.tensors.iter().map(own).sum();
        Ok(self.plan()?.file_bytes_max()? - chosen)
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.options.threads
    }

    /// Kernels that read and write blocks.
    pub fn kernels(&self) -> &'static KernelTable {
        self.options.kernels
    }

    /// A tensor as it would be read back from a type, in floats.
    ///
    /// # Errors
    /// Weights are not finite, or there is no memory.
    pub fn changed(&self, tensor: &Surveyed<'_>, ty: GgmlType) -> Result<Weight, QuantizeError> {
        let importances = tensor.importances.as_deref();
        let trial = Trial::new(self.file, tensor.info, self.options, importances)?;
        trial.changed(ty, self.options.threads)
    }
}

impl Surveyed<'_> {
    /// A type that has the codes of a grid which all weights lie on loses nothing.
    fn find_grid(&mut self, file: &GgufFile, options: &Options) -> Result<(), QuantizeError> {
        if options.qat == Qat::Off || self.info.ty.block_len() > 1 {
            return Ok(());
        }
        let is_offered = |ty: &&GgmlType| self.offers.iter().any(|offer| offer.ty == **ty);
        let types: Vec<GgmlType> = grid::TYPES.iter().filter(is_offered).copied().collect();
        if let Some(found) = grids::find(file, self.info, &types, options)? {
            let own = self.offers.iter_mut().filter(|offer| offer.ty == found.ty);
            own.for_each(|offer| offer.cost = 0.0);
        }
        Ok(())
    }

    /// The offer whose loss is to be measured for a file of so many bits per weight: the most bits
    /// below, of those that lose something, or else the least above.
    pub fn probe(&self, bits: f64) -> Option<&Offer> {
        /// Errors below this part of the weights are as good as none.
        const PART_MIN: f64 = 1e-4;
        let bits_of =
            |offer: &Offer| 8.0 * offer.ty.block_bytes() as f64 / offer.ty.block_len() as f64;
        let mut loses: Vec<&Offer> =
            self.offers.iter().filter(|offer| offer.cost > PART_MIN * self.size2).collect();
        loses.sort_by(|a, b| bits_of(a).total_cmp(&bits_of(b)).then(b.cost.total_cmp(&a.cost)));
        let below = loses.iter().rev().find(|offer| bits_of(offer) <= bits);
        below.or(loses.first()).copied()
    }

    /// The sensitivity where nothing was measured: an error counts by its part of the product, in all
    /// tensors alike but for the head, where it counts forty times.
    pub fn usual_sensitivity(&self) -> f64 {
        let weight = if self.is_head { HEAD_WEIGHT } else { 1.0 };
        if self.size2 > 0.0 { weight / self.size2 } else { 0.0 }
    }
}

/// A type that is tried.
struct Way<'a> {
    ty: GgmlType,
    method: &'static Method,
    kernels: &'a TypeKernels,
}

/// Some rows of a tensor on trial.
struct Trial<'a> {
    info: &'a TensorInfo,
    data: &'a [u8],
    importances: Option<&'a [f32]>,
    options: &'a Options,
    old: &'a TypeKernels,
    ways: Vec<Way<'a>>,
}

impl<'a> Trial<'a> {
    fn new(
        file: &'a GgufFile,
        info: &'a TensorInfo,
        options: &'a Options,
        importances: Option<&'a [f32]>,
    ) -> Result<Trial<'a>, QuantizeError> {
        let old = options.kernels.types(info.ty);
        let old =
            old.ok_or_else(|| QuantizeError::CannotRead { name: info.name.clone(), ty: info.ty })?;
        let fits = |ty: GgmlType| {
            let smaller = ty.bytes_of(info.cols()).is_some_and(|n| n < info.bytes / info.rows());
            let lacks = importances.is_none() && plan::needs_importances("", ty, None);
            smaller && info.cols().is_multiple_of(ty.block_len() as u64) && !lacks
        };
        let mut ways = Vec::new();
        for &ty in TYPES.iter().filter(|&&ty| fits(ty)) {
            let method = plan::method_of(info, ty, options)?;
            ways.extend(options.kernels.types(ty).map(|kernels| Way { ty, method, kernels }));
        }
        Ok(Trial { info, data: file.data(info), importances, options, old, ways })
    }

    /// The offers without costs, the tensor's own type as the last, which has none.
    fn offers(&self, alignment: u64) -> Vec<Offer> {
        let elements: u64 = self.info.dims.iter().product();
        let offer = |ty: GgmlType| {
            let bytes = ty.bytes_of(elements).unwrap_or(u64::MAX).next_multiple_of(alignment);
            Offer { ty, bytes, cost: 0.0 }
        };
        self.ways.iter().map(|way| way.ty).chain([self.info.ty]).map(offer).collect()
    }

    /// The offers with what each costs, and the size of the weights.
    fn run(&self, alignment: u64, threads: usize) -> Result<(Vec<Offer>, f64), QuantizeError> {
        let rows = self.info.rows();
        let wanted = (SAMPLE_ELEMENTS / self.info.cols()).clamp(SAMPLE_ROWS_MIN.min(rows), rows);
        let sample: Vec<u64> = (0..wanted).map(|i| (2 * i + 1) * rows / (2 * wanted)).collect();
        let n = self.ways.len() + 1;
        let parts: Vec<&[u64]> = sample.chunks(PART_ROWS).collect();
        let mut sums = vec![vec![0.0; n]; parts.len()];
        let work = |(rows, sums): (&[u64], &mut Vec<f64>), buffers: &mut Buffers| {
            rows.iter().try_for_each(|&row| self.add_losses(row, sums, buffers))
        };
        share(parts.into_iter().zip(&mut sums).collect(), threads, &work)?;
        let factor = rows as f64 / wanted as f64;
        let sum = |i: usize| factor * sums.iter().map(|sums| sums[i]).sum::<f64>();
        let mut offers = self.offers(alignment);
        offers.iter_mut().zip(0..self.ways.len()).for_each(|(offer, i)| offer.cost = sum(i));
        // Infinite where weights are too large for a type.
        offers.retain(|offer| offer.cost.is_finite());
        Ok((offers, sum(n - 1)))
    }

    /// Adds what a row loses in each way, and its size.
    fn add_losses(
        &self,
        row: u64,
        sums: &mut [f64],
        buffers: &mut Buffers,
    ) -> Result<(), QuantizeError> {
        let Buffers { x, y, blocks } = buffers;
        let importance = self.read(row, x)?;
        y.resize(x.len(), 0.0);
        for (way, sum) in self.ways.iter().zip(&mut *sums) {
            self.pass(way, importance, x, y, blocks)?;
            *sum += weighted(x, Some(y), importance);
        }
        if let Some(size) = sums.last_mut() {
            *size += weighted(x, None, importance);
        }
        Ok(())
    }

    /// Reads a row; returns the importances of its columns.
    fn read(&self, row: u64, x: &mut Vec<f32>) -> Result<Option<&'a [f32]>, QuantizeError> {
        let cols = self.info.cols() as usize;
        let row_bytes = self.data.len() / self.info.rows() as usize;
        x.resize(cols, 0.0);
        self.old.dequantize(&self.data[row as usize * row_bytes..][..row_bytes], x);
        check_finite(&self.info.name, row, x)?;
        let matrix = (row / self.info.dims.get(1).copied().unwrap_or(1)) as usize;
        Ok(self.importances.map(|all| &all[matrix * cols..][..cols]))
    }

    /// Quantizes a row and reads it back.
    fn pass(
        &self,
        way: &Way<'_>,
        importance: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        blocks: &mut Vec<u8>,
    ) -> Result<(), QuantizeError> {
        blocks.resize(x.len() / way.ty.block_len() * way.ty.block_bytes(), 0);
        let importance = importance.filter(|_| way.method.uses_importances);
        way.method.quantize(way.kernels, x, importance, blocks).map_err(|_| {
            let (name, ty, method) = (self.info.name.clone(), way.ty, way.method.name);
            QuantizeError::NoMethod { name, ty, method }
        })?;
        way.kernels.dequantize(blocks, y);
        Ok(())
    }

    /// All rows, quantized to a type and read back, as BF16 if they are that and else as F16.
    fn changed(&self, ty: GgmlType, threads: usize) -> Result<Weight, QuantizeError> {
        let floats = if self.info.ty == BF16 { BF16 } else { F16 };
        let (cols, rows) = (self.info.cols() as usize, self.info.rows() as usize);
        let to_floats = self.options.kernels.types(floats);
        let way = self.ways.iter().find(|way| way.ty == ty).zip(to_floats);
        let (way, to_floats) = way.ok_or_else(|| QuantizeError::NoMethod {
            name: self.info.name.clone(),
            ty,
            method: self.options.method.name,
        })?;
        let row_bytes = cols * size_of::<u16>();
        let mut bytes = Vec::new();
        memory::reserve(&mut bytes, rows * row_bytes, "changed weights")?;
        bytes.resize(rows * row_bytes, 0_u8);
        let part = |(first, out): (usize, &mut [u8]), buffers: &mut Buffers| {
            for (row, out) in (first * PART_ROWS..).zip(out.chunks_exact_mut(row_bytes)) {
                let Buffers { x, y, blocks } = &mut *buffers;
                let importance = self.read(row as u64, x)?;
                y.resize(x.len(), 0.0);
                self.pass(way, importance, x, y, blocks)?;
                // Floats have one way to be written, importances or not.
                let _ = to_floats.quantize(y, None, out);
            }
            Ok(())
        };
        share(bytes.chunks_mut(PART_ROWS * row_bytes).enumerate().collect(), threads, &part)?;
        let dim = |i: usize| self.info.dims.get(i).map_or(1, |&n| n as usize);
        let shape = [dim(2) * dim(3), dim(1), cols];
        Ok(Weight::owned(&self.info.name, floats, shape, bytes))
    }
}

/// A row before and after, and its blocks.
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    y: Vec<f32>,
    blocks: Vec<u8>,
}

/// Weighted sum of squares of a row, or of its distance to another.
fn weighted(x: &[f32], y: Option<&[f32]>, importance: Option<&[f32]>) -> f64 {
    let square = |i: usize| {
        let error = f64::from(x[i]) - y.map_or(0.0, |y| f64::from(y[i]));
        importance.map_or(1.0, |all| f64::from(all[i])) * error * error
    };
    (0..x.len()).map(square).sum()
}
