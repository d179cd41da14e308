//! Plans: what a file will hold, before anything is computed.

use super::error::QuantizeError;
use super::form::STRIP;
use super::grids;
use super::imatrix::{Imatrix, Statistics};
use super::method::{METHODS, Method};
use super::mix::{self, Facts, Mix, Shape, Wishes};
use super::planned::{Made, Planned};
use super::prune::Pruning;
use super::warning::Warning;
use super::zeros::{KeepZeros, has_zero};
use crate::grid::{Found, Qat};
use crate::receipt::Request;
use gguf_rs_lite::{ByteOrder, GgmlType, GgufFile, TensorInfo};
use teff_kernels::KernelTable;

/// Options of a plan.
#[derive(Debug)]
pub struct Options {
    /// Types by their common name; `None` keeps all types.
    pub mix: Option<Mix>,
    /// Deviations from the mix.
    pub wishes: Wishes,
    /// How codes are found.
    pub method: &'static Method,
    /// Importances of columns.
    pub imatrix: Option<Imatrix>,
    /// Name that metadata gets for them.
    pub imatrix_name: String,
    /// Goes on without importances where a type is of little use without them.
    pub force: bool,
    /// Pruning, if there is some.
    pub pruning: Option<Pruning>,
    /// Which zeros stay zeros in tensors that are not pruned.
    pub keep_zeros: KeepZeros,
    /// As many files as the input has.
    pub keep_split: bool,
    /// Threads that compute.
    pub threads: usize,
    /// Kernels that read and write blocks.
    pub kernels: &'static KernelTable,
    /// Whether tensors whose values lie on a grid that their new type has keep their codes.
    pub qat: Qat,
    /// Whether tensors that lie on a grid get the type that has its codes, where none is named for them.
    pub types_of_grids: bool,
    /// Receipt that the file's metadata is to have, if there is to be one.
    pub receipt: Option<Request>,
}

impl Options {
    /// A mix by the default method, on all CPUs.
    pub fn new(mix: Mix) -> Options {
        Options { mix: Some(mix), ..Options::unchanged() }
    }

    /// All types as they are, by the default method, on all CPUs.
    pub fn unchanged() -> Options {
        Options {
            mix: None,
            wishes: Wishes::default(),
            method: &METHODS[0],
            imatrix: None,
            imatrix_name: String::new(),
            force: false,
            pruning: None,
            keep_zeros: KeepZeros::default(),
            keep_split: false,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            kernels: KernelTable::detect(),
            qat: Qat::Auto,
            types_of_grids: false,
            receipt: None,
        }
    }
}

/// Plan of a file: what it will hold.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) options: &'a Options,
    /// Value of `general.file_type`; `None` leaves it as it is.
    pub(super) file_type: Option<u32>,
    /// The tensors in the file's order.
    pub tensors: Vec<Planned<'a>>,
    /// Warnings for the user.
    pub warnings: Vec<Warning>,
}

impl<'a> Plan<'a> {
    /// Chooses types and checks that nothing stands in the way.
    ///
    /// # Errors
    /// Types cannot be chosen or made, a pattern finds no tensor, a type needs importances, or these
    /// are another model's.
    pub fn new(file: &'a GgufFile, options: &'a Options) -> Result<Plan<'a>, QuantizeError> {
        Plan::watched(file, options, &mut |_, _, _| true)
    }

    /// [`Plan::new`], where `on` hears of tensors whose values are looked at: the last one, how many were and
    /// of how many. It returns whether to go on.
    ///
    /// # Errors
    /// As [`Plan::new`], and [`QuantizeError::Cancelled`] if `on` says so.
    pub fn watched(
        file: &'a GgufFile,
        options: &'a Options,
        on: &mut dyn FnMut(&TensorInfo, usize, usize) -> bool,
    ) -> Result<Plan<'a>, QuantizeError> {
        if file.data_order() == ByteOrder::Big {
            return Err(QuantizeError::BigEndian);
        }
        options.wishes.check(file)?;
        let shapes: Vec<Shape<'_>> = file.tensors().iter().map(Shape::from).collect();
        let pruning = options.pruning.as_ref();
        let choices = match options.mix {
            None if pruning.is_some_and(|pruning| pruning.ty.is_some()) => pruned(file, options)?,
            Some(mix) => {
                let facts = Facts::of(file)?;
                mix::choose(mix, &facts, options.imatrix.is_some(), &options.wishes, &shapes)?
            }
            None if options.wishes.has_types() => {
                mix::copied(&Facts::of(file)?, &options.wishes, &shapes)
            }
            None => shapes.iter().map(|s| mix::Choice { ty: s.ty, wanted: s.ty }).collect(),
        };
        let mut choices = choices;
        let grids = match options.types_of_grids && options.qat == Qat::Auto {
            true => grids::types(file, options, &shapes, &mut choices, on)?,
            false => vec![None; shapes.len()],
        };
        let types: Vec<GgmlType> = choices.iter().map(|choice| choice.ty).collect();
        let is_copy = types.iter().zip(&shapes).all(|(ty, shape)| *ty == shape.ty);
        let file_type = match options.mix {
            Some(mix) => Some(mix.file_type()),
            None if is_copy => None,
            None => file_type_of(file, &types),
        };
        Plan::of_choices(file, options, file_type, &choices, grids, on)
    }

    /// A plan of these types, one for each tensor of the file.
    ///
    /// # Errors
    /// As [`Plan::new`].
    ///
    /// # Panics
    /// If there are not as many types as tensors.
    pub fn with_types(
        file: &'a GgufFile,
        options: &'a Options,
        types: &[GgmlType],
    ) -> Result<Plan<'a>, QuantizeError> {
        if file.data_order() == ByteOrder::Big {
            return Err(QuantizeError::BigEndian);
        }
        assert_eq!(types.len(), file.tensors().len(), "a type for each tensor");
        let choices: Vec<mix::Choice> =
            types.iter().map(|&ty| mix::Choice { ty, wanted: ty }).collect();
        let grids = vec![None; types.len()];
        let file_type = file_type_of(file, types);
        Plan::of_choices(file, options, file_type, &choices, grids, &mut |_, _, _| true)
    }

    fn of_choices(
        file: &'a GgufFile,
        options: &'a Options,
        file_type: Option<u32>,
        choices: &[mix::Choice],
        grids: Vec<Option<Found>>,
        on: &mut grids::Look<'_>,
    ) -> Result<Plan<'a>, QuantizeError> {
        let mut tensors = Vec::with_capacity(choices.len());
        let pruned = options.pruning.as_ref().map(|own| own.tensors(file)).transpose()?;
        for (number, ((info, choice), grid)) in
            file.tensors().iter().zip(choices).zip(grids).enumerate()
        {
            let elements: u64 = info.dims.iter().product();
            let is_pruned = pruned.as_ref().is_some_and(|pruned| pruned[number]);
            let pruning = options.pruning.as_ref().filter(|_| is_pruned);
            if let Some(pruning) = pruning {
                pruning.check(info)?;
            }
            tensors.push(Planned {
                info,
                ty: choice.ty,
                wanted: choice.wanted,
                // Elements were counted without overflow when the file was opened; types have no
                // more bytes to an element than the largest, which was counted, too.
                bytes: choice.ty.bytes_of(elements).unwrap_or(u64::MAX),
                method: method_of(info, choice.ty, options)?,
                pruning,
                keep_zeros: keep_zeros(info, choice.ty, is_pruned, options)?,
                importances: None,
                grid,
                ready: None,
            });
        }
        let mut plan = Plan { file, options, file_type, tensors, warnings: Vec::new() };
        plan.find_importances()?;
        plan.check_inputs()?;
        grids::of_made(file, options, &mut plan.tensors, on)?;
        plan.warn();
        Ok(plan)
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.options.threads
    }

    /// How codes are found where the method has a way.
    pub fn method(&self) -> &'static Method {
        self.options.method
    }

    /// Kernels that read and write blocks.
    pub fn kernels(&self) -> &'static KernelTable {
        self.options.kernels
    }

    /// Pruning, if there is some.
    pub fn pruning(&self) -> Option<&'a Pruning> {
        self.options.pruning.as_ref()
    }

    /// Has the file get these tensors in place of what it would make.
    ///
    /// # Panics
    /// If a tensor of a name is planned in another type or shape.
    pub fn take_ready(&mut self, made: Vec<Made>) {
        for made in made {
            let weight = &made.weight;
            let found = self.tensors.iter_mut().find(|tensor| tensor.info.name == weight.name);
            let Some(tensor) = found else { continue };
            let is_same = tensor.ty == weight.ty && tensor.bytes == weight.bytes().len() as u64;
            assert!(is_same, "{}: as planned", weight.name);
            tensor.ready = Some(made);
        }
    }

    /// The mix, if types were chosen by one.
    pub fn mix(&self) -> Option<Mix> {
        self.options.mix
    }

    /// Bytes of all tensors together.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    fn find_importances(&mut self) -> Result<(), QuantizeError> {
        let options = self.options;
        let (mut missing, mut forced, mut unseen) = (Vec::new(), Vec::new(), Vec::new());
        for tensor in self.tensors.iter_mut().filter(|tensor| !tensor.is_copied()) {
            let name = &tensor.info.name;
            let statistics = options.imatrix.as_ref().and_then(|imatrix| imatrix.get(name));
            // Embeddings are looked up, not multiplied with: if they are the head, too, what a file
            // has for them may be of another shape, and does not count then.
            let is_looked_up =
                matches!(&name[..], "token_embd.weight" | "per_layer_token_embd.weight");
            let matrices: u64 = tensor.info.dims.iter().skip(2).product();
            let expected = tensor.info.cols() * matrices;
            let fits = |s: &&Statistics| s.in_sum2().len() as u64 == expected;
            let statistics =
                statistics.filter(|s| tensor.method.uses_importances && (!is_looked_up || fits(s)));
            if let Some(statistics) = statistics {
                if !fits(&statistics) {
                    let (name, found) = (name.clone(), statistics.in_sum2().len());
                    return Err(QuantizeError::ImportanceShape { name, expected, found });
                }
                if statistics.unseen() > 0 {
                    unseen.push((name, statistics.unseen()));
                }
                tensor.importances = Some(statistics.importances());
                continue;
            }
            let is_float = tensor.ty.block_len() == 1;
            let may_lack = is_looked_up || is_float || name == "output.weight";
            if options.imatrix.is_some() && tensor.method.uses_importances && !may_lack {
                missing.push(name);
            }
            if !needs_importances(name, tensor.ty, options.mix) {
                continue;
            }
            if !options.force {
                let (name, ty) = (name.clone(), tensor.ty);
                return Err(QuantizeError::NeedsImportances { name, ty });
            }
            forced.push((name, tensor.ty));
        }
        let named = |name: &&String| (*name).clone();
        if let Some(name) = missing.first().map(named) {
            let is_foreign = self.tensors.iter().all(|tensor| !tensor.has_importances());
            if is_foreign && !options.force {
                return Err(QuantizeError::ForeignImportances { name });
            }
            self.warnings.push(Warning::NoImportances { tensors: missing.len(), name });
        }
        if let Some((name, ty)) = forced.first() {
            let (tensors, name) = (forced.len(), named(name));
            self.warnings.push(Warning::Forced { tensors, name, ty: *ty });
        }
        if let Some((name, _)) = unseen.first() {
            let experts = unseen.iter().map(|(_, n)| n).sum();
            self.warnings.push(Warning::UnseenExperts { experts, name: named(name) });
        }
        Ok(())
    }

    /// Refuses a method that has to see inputs where importances say nothing of them.
    fn check_inputs(&self) -> Result<(), QuantizeError> {
        let Some(pruning) = self.pruning() else { return Ok(()) };
        let mut pruned = self.tensors.iter().filter(|tensor| tensor.pruning.is_some());
        if pruning.sees_text {
            // Hessians come in strips.
            let group = STRIP;
            return match pruned.find(|t| !t.info.cols().is_multiple_of(group as u64)) {
                Some(Planned { info, .. }) => {
                    let (name, cols) = (info.name.clone(), info.cols());
                    Err(QuantizeError::PruneGroups { name, cols, group })
                }
                None => Ok(()),
            };
        }
        match pruned.find(|tensor| pruning.method.sees_inputs && !tensor.has_importances()) {
            Some(tensor) => Err(tensor.no_inputs()),
            None => Ok(()),
        }
    }

    /// Refuses tensors that are to be pruned at the inputs of a text, which never came to them.
    pub(super) fn check_ready(&self) -> Result<(), QuantizeError> {
        let sees_text = self.pruning().is_some_and(|pruning| pruning.sees_text);
        let is_missed = |t: &&Planned<'_>| sees_text && t.pruning.is_some() && t.ready.is_none();
        self.tensors.iter().find(is_missed).map_or(Ok(()), |tensor| Err(tensor.no_inputs()))
    }

    fn warn(&mut self) {
        let is_again = |t: &&Planned<'_>| {
            let is_new = !t.is_copied() && !t.stays_in_blocks() && t.grid.is_none();
            is_new && t.info.ty.block_len() > 1
        };
        let again: Vec<GgmlType> =
            self.tensors.iter().filter(is_again).map(|t| t.info.ty).collect();
        if let Some(&ty) = again.first() {
            self.warnings.push(Warning::Requantized { tensors: again.len(), ty });
        }
        let is_other = |t: &&Planned<'_>| t.method.name != self.options.method.name;
        let others: Vec<&Planned<'_>> = self.tensors.iter().filter(is_other).collect();
        if let Some(first) = others.first() {
            let (tensors, name, ty) = (others.len(), first.info.name.clone(), first.ty);
            let method = self.options.method.name;
            self.warnings.push(Warning::OtherMethod { tensors, name, ty, method });
        }
        self.warn_of_zeros();
        self.warn_of_mix();
        let fallen: Vec<&Planned<'_>> = self.tensors.iter().filter(|t| t.ty != t.wanted).collect();
        if let Some(first) = fallen.first() {
            let (name, wanted, ty) = (first.info.name.clone(), first.wanted, first.ty);
            let tensors = fallen.len();
            self.warnings.push(Warning::Fallback { tensors, name, wanted, ty });
        }
    }

    /// Looks at the first row of tensors whose type has no zero.
    fn warn_of_zeros(&mut self) {
        let options = self.options;
        let is_lost = |t: &&Planned<'_>| {
            let [old, new] = [t.info.ty, t.ty].map(|ty| options.kernels.types(ty));
            let (Some(old), Some(new)) = (old, new) else { return false };
            if t.is_copied() || options.keep_zeros != KeepZeros::Auto || has_zero(new) {
                return false;
            }
            let mut x = vec![0.0; t.info.cols() as usize];
            let row_bytes = (t.info.bytes / t.info.rows()) as usize;
            old.dequantize(&self.file.data(t.info)[..row_bytes], &mut x);
            KeepZeros::Auto.keeps(&x) && x.iter().any(|x| *x != 0.0)
        };
        let lost: Vec<&Planned<'_>> = self.tensors.iter().filter(is_lost).collect();
        if let Some(first) = lost.first() {
            let (tensors, name, ty) = (lost.len(), first.info.name.clone(), first.ty);
            self.warnings.push(Warning::LosesZeros { tensors, name, ty });
        }
    }

    fn warn_of_mix(&mut self) {
        let Some(mix) = self.options.mix else { return };
        let mut types: Vec<(GgmlType, usize)> = Vec::new();
        for tensor in self.tensors.iter().filter(|tensor| !tensor.is_copied()) {
            match types.iter_mut().find(|(ty, _)| *ty == tensor.wanted) {
                Some((_, n)) => *n += 1,
                None => types.push((tensor.wanted, 1)),
            }
        }
        if !types.is_empty() && types.iter().all(|(ty, _)| *ty != mix.base()) {
            self.warnings.push(Warning::NoBase { mix, types });
        }
    }
}

/// The method that has a way from a tensor's type to another.
pub(super) fn method_of(
    info: &TensorInfo,
    ty: GgmlType,
    options: &Options,
) -> Result<&'static Method, QuantizeError> {
    if ty == info.ty {
        return Ok(options.method);
    }
    let name = || info.name.clone();
    if options.kernels.types(info.ty).is_none() {
        return Err(QuantizeError::CannotRead { name: name(), ty: info.ty });
    }
    let kernels = options.kernels.types(ty);
    let mut ways = [options.method, &METHODS[0]].into_iter();
    let way = ways.find(|method| kernels.is_some_and(|kernels| method.supports(kernels)));
    let method = options.method.name;
    way.ok_or_else(|| QuantizeError::NoMethod { name: name(), ty, method })
}

/// The types of a file whose pruned tensors get another.
fn pruned(file: &GgufFile, options: &Options) -> Result<Vec<mix::Choice>, QuantizeError> {
    let Some(pruning) = &options.pruning else { return Ok(Vec::new()) };
    let pruned = pruning.tensors(file)?;
    let choice = |(info, is_pruned): (&TensorInfo, bool)| {
        let wanted = pruning.ty.filter(|_| is_pruned).unwrap_or(info.ty);
        mix::of_type(wanted, info.cols())
    };
    Ok(file.tensors().iter().zip(pruned).map(choice).collect())
}

/// Which zeros of a tensor stay zeros: all that pruning makes, and those that are wanted else.
fn keep_zeros(
    info: &TensorInfo,
    ty: GgmlType,
    is_pruned: bool,
    options: &Options,
) -> Result<KeepZeros, QuantizeError> {
    let wanted = if is_pruned { KeepZeros::On } else { options.keep_zeros };
    let is_made = is_pruned || ty != info.ty;
    match (options.kernels.types(ty).is_some_and(has_zero), wanted) {
        (true, wanted) => Ok(wanted),
        (false, KeepZeros::On) if is_made => {
            Err(QuantizeError::NoZero { name: info.name.clone(), ty })
        }
        (false, _) => Ok(KeepZeros::Off),
    }
}

/// The number for metadata of a file of these types: of the mix that is named like the type of most
/// bytes, or else has it as its base.
fn file_type_of(file: &GgufFile, types: &[GgmlType]) -> Option<u32> {
    let bytes_of = |wanted: GgmlType| -> u64 {
        let own = file.tensors().iter().zip(types).filter(|(_, ty)| **ty == wanted);
        own.map(|(info, ty)| ty.bytes_of(info.dims.iter().product()).unwrap_or(0)).sum()
    };
    let most = types.iter().copied().max_by_key(|&ty| bytes_of(ty))?;
    let named = Mix::ALL.iter().find(|mix| mix.name() == most.name());
    let mix = named.or_else(|| Mix::ALL.iter().find(|mix| mix.base() == most));
    mix.map(|mix| mix.file_type())
}

/// Types that are of little use without importances, and two bits in a mix that is made for them; but
/// embeddings and heads get none from a calibration.
pub(super) fn needs_importances(name: &str, ty: GgmlType, mix: Option<Mix>) -> bool {
    use GgmlType::*;
    let is_low = match ty {
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS => true,
        Q2_K => mix == Some(Mix::Q2_K_S),
        _ => false,
    };
    let is_exempt = ["token_embd.weight", "per_layer_token_embd.weight", "output.weight"];
    is_low && !is_exempt.contains(&name)
}
