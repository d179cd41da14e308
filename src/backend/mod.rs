//! The backends, which compute steps. A [`program::Program`] is a flat list of operations on
//! numbered buffers; a backend runs a range of it for a batch of tokens. It knows nothing of
//! models.
//!
//! **The seam.** The rooms above name no device: they see a [`Backend`] and, while its threads are
//! gathered, an [`Executor`]. What crosses is plain data. Down go token ids, positions, tables of
//! page numbers and the changes of pages and states ([`StepInput`], [`pages::CacheOp`]); up come
//! rows of results. Numbers of pages and slots are handed out by [`crate::kv`]; their memory is the
//! backend's, and made when a number is first named. Activations stay in the backend's buffers
//! from one range to the next.

#[cfg(any(feature = "gpu", target_vendor = "apple"))]
mod auto;
mod cpu;
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
pub mod gpu;
mod observer;
mod offload;
pub mod pages;
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
mod placed;
mod plan;
pub mod program;
pub mod reference;
mod step;

pub(crate) use cpu::LEN_MAX;
pub use cpu::MAX_THREADS;
pub use cpu::topology::{CpuSet, available_bytes};
pub use observer::{Observer, Product};
pub use offload::{Offload, OffloadSizes, PartName, PlacedPart, SideBytes};
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
pub use placed::Placed;
pub use plan::{GpuLayers, Placement, PlacementListener, Plan, ShaderChoice, Side, WeightSource};
pub use step::{
    Backend, DeviceError, Executor, LogitRows, Results, StartError, StepInput, Transfers,
    Unfinished,
};

use pages::KvType;
use program::Program;
use std::sync::Arc;
use teff_kernels::KernelTable;

/// Sizes and choices that are fixed when a backend is made.
#[derive(Clone, Copy, Debug)]
pub struct BackendOptions {
    /// Worker threads; `None`: the big cores that this process may run on.
    pub threads: Option<usize>,
    /// CPUs that get a worker each, which stays there, instead of `threads` that the system moves.
    pub cpus: Option<CpuSet>,
    /// Kernels to use.
    pub kernels: &'static KernelTable,
    /// Tokens in a step, at most.
    pub max_tokens: usize,
    /// Rows of results in a step, at most.
    pub max_outputs: usize,
    /// Tokens in a sequence, for which a device is to have room; pages are made as they are needed.
    pub n_ctx: usize,
    /// Type of cached keys and values.
    pub kv_type: KvType,
    /// Whether decoding may repack the weights.
    pub repack: bool,
}

impl BackendOptions {
    /// Sizes that the memory of a place depends on.
    pub fn sizes(&self) -> OffloadSizes {
        let &BackendOptions { n_ctx, max_tokens, max_outputs, kv_type, .. } = self;
        OffloadSizes { n_ctx, max_tokens, max_outputs, kv_type }
    }
}

/// A way to make a backend of a program, which the caller of the rooms above chooses: [`start`], or
/// [`start_placed`] with a placement.
pub type Start<'a> =
    dyn Fn(Program, &BackendOptions) -> Result<Box<dyn Backend>, StartError> + Sync + 'a;

/// The backend that runs `program` on this machine: its CPUs.
///
/// # Errors
/// Worker threads could not be started, or there is no memory for the buffers.
///
/// # Panics
/// If a weight's type has no kernel: [`KernelTable::types`] was to be asked first.
pub fn start(program: Program, options: &BackendOptions) -> Result<Box<dyn Backend>, StartError> {
    Ok(Box::new(cpu::Cpu::start(program, options)?))
}

/// The backend that runs `program` as `placement` says. Where that leaves a choice, `listener` hears what
/// came of it, then and later: with [`GpuLayers::Auto`] the CPUs go on where a GPU cannot.
///
/// # Errors
/// As of [`start`]; or the GPU is not to be had, or has no memory for the layers that were asked for, or the
/// listener has no patience.
///
/// # Panics
/// As [`start`].
pub fn start_placed(
    program: Program,
    options: &BackendOptions,
    placement: &Placement,
    listener: &Arc<dyn PlacementListener>,
) -> Result<Box<dyn Backend>, StartError> {
    if placement.layers == GpuLayers::None {
        return start(program, options);
    }
    on_gpu(program, options, placement, listener)
}

/// Places that `placement` would give the parts of a program, by what the GPU says of itself: nothing is brought
/// there, and nothing is measured.
///
/// # Errors
/// The GPU is not to be had.
pub fn offload(
    program: &Program,
    sizes: &OffloadSizes,
    placement: &Placement,
) -> Result<Offload, DeviceError> {
    #[cfg(any(feature = "gpu", target_vendor = "apple"))]
    return placed::offload(program, sizes, placement);
    #[cfg(not(any(feature = "gpu", target_vendor = "apple")))]
    match placement.layers {
        GpuLayers::None => {
            let plan = Plan::new(program, GpuLayers::None, &|_| None);
            Ok(Offload::new(program, &plan, sizes))
        }
        _ => Err(no_code()),
    }
}

#[cfg(any(feature = "gpu", target_vendor = "apple"))]
fn on_gpu(
    program: Program,
    options: &BackendOptions,
    placement: &Placement,
    listener: &Arc<dyn PlacementListener>,
) -> Result<Box<dyn Backend>, StartError> {
    Ok(Box::new(Placed::start(program, options, placement, listener)?))
}

#[cfg(not(any(feature = "gpu", target_vendor = "apple")))]
fn on_gpu(
    _: Program,
    _: &BackendOptions,
    _: &Placement,
    _: &Arc<dyn PlacementListener>,
) -> Result<Box<dyn Backend>, StartError> {
    Err(no_code().into())
}

#[cfg(not(any(feature = "gpu", target_vendor = "apple")))]
fn no_code() -> DeviceError {
    DeviceError::new("no GPU", "this build has no code for GPUs (feature `gpu`)".to_owned())
}
