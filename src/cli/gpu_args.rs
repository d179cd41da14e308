//! Options that say which layers of a model run on a GPU.

use super::progress::{Told, WorkProgress};
use super::{CliError, interrupt};
use crate::backend::{BackendOptions, GpuLayers, Placement, PlacementListener, start_placed};
use crate::engine::{Engine, EngineOptions, Model};
use crate::model::describe::bytes;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Layers on a GPU.
#[derive(clap::Args, Clone, Debug)]
pub struct GpuArgs {
    /// Layers that run on a GPU, counted from the last, with the head; `auto`: as many as it has memory
    /// for, `all`: all
    #[arg(long, value_name = "N|auto|all", default_value = "0")]
    gpu_layers: GpuLayers,
    /// The GPU, by a part of its name; so does the variable TEFF_GPU [default: the best that is no
    /// program on the CPU]
    #[arg(long, value_name = "NAME", requires = "gpu_layers")]
    gpu: Option<String>,
}

/// Layers on a GPU of a model that is only looked at.
#[derive(clap::Args, Clone, Debug)]
pub struct GpuPlanArgs {
    /// Tell which layer would run where on the GPU of this name, or on the best; what it takes on each
    /// side, and why a layer would stay on the CPU
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    gpu: Option<String>,
    /// Layers that are to run there, as for `run`
    #[arg(long, value_name = "N|auto|all", default_value = "auto", requires = "gpu")]
    gpu_layers: GpuLayers,
}

impl GpuPlanArgs {
    /// Placement of layers, if one is asked for.
    pub fn placement(&self) -> Option<Placement> {
        let named = self.gpu.clone()?;
        Some(placement(self.gpu_layers, Some(named)))
    }
}

/// Environment variable of a GPU's name.
const GPU_VARIABLE: &str = "TEFF_GPU";

impl GpuArgs {
    /// Whether layers are wanted on a GPU.
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    pub fn asks_for_layers(&self) -> bool {
        self.gpu_layers != GpuLayers::None
    }

    /// Where layers are to be.
    fn placement(&self) -> Placement {
        placement(self.gpu_layers, self.gpu.clone())
    }

    /// An engine with the layers where they are to be. Ctrl-C has the weights stop on their way to the GPU.
    pub fn engine(&self, model: &Model, options: &EngineOptions) -> Result<Engine, CliError> {
        let placement = self.placement();
        let at = CliError::of_model(model.path());
        if placement.layers == GpuLayers::None {
            return Engine::new(model, options).map_err(at);
        }
        interrupt::orderly(|stop| {
            let listener: Arc<dyn PlacementListener> =
                Arc::new(OnStderr { stop, bar: Mutex::default() });
            let start = |program, options: &BackendOptions| {
                start_placed(program, options, &placement, &listener)
            };
            let engine = Engine::on(model, options, &start).map_err(at)?;
            if let Some(offload) = engine.decoder().offload()
                && let Some(adapter) = &offload.adapter
            {
                let [n, n_layers] = offload.n_layers();
                super::note(format_args!("note: {n} of {n_layers} layers are on {adapter}"));
            }
            Ok::<_, CliError>(engine)
        })
    }
}

/// Tells on stderr what becomes of layers on a GPU.
struct OnStderr {
    stop: &'static AtomicBool,
    /// Shows how many of the weights are there, while not all are.
    bar: Mutex<Option<WorkProgress>>,
}

impl PlacementListener for OnStderr {
    fn tell(&self, line: &str) {
        super::note(format_args!("note: {line}"));
    }

    fn bring(&self, done: u64, total: u64) -> ControlFlow<()> {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |told: Told| {
            format!("weights to the GPU {} % of {}{}", told.percent, bytes(total), told.left)
        };
        bar.get_or_insert_with(WorkProgress::begin).show(done, total, line);
        let is_stopped = self.stop.load(Ordering::Relaxed);
        if is_stopped || done >= total {
            *bar = None;
        }
        if is_stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Layers on the GPU of a name, or on that of the variable's.
fn placement(layers: GpuLayers, name: Option<String>) -> Placement {
    let named = || std::env::var(GPU_VARIABLE).ok().filter(|name| !name.is_empty());
    let adapter = name.filter(|name| !name.is_empty()).or_else(named);
    Placement { layers, adapter, ..Placement::default() }
}
