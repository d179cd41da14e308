//! Options that say which layers of a model run on a GPU.

use crate::backend::{GpuLayers, Placement, start_placed};
use crate::engine::{Engine, EngineError, EngineOptions, Model};

/// Layers on a GPU.
#[derive(clap::Args, Clone, Debug)]
pub struct GpuArgs {
    /// Layers that run on a GPU, counted from the last, with the head; `auto`: as many as it has memory
    /// for, `all`: all
    #[arg(long, value_name = "N|auto|all", default_value = "0")]
    gpu_layers: GpuLayers,
    /// The GPU, by a part of its name; so does the variable TEFF_GPU [default: the best that is no
    /// program on the CPU]
    #[arg(long, value_name = "NAME")]
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
    /// Where layers are to be, if that is asked.
    pub fn placement(&self) -> Option<Placement> {
        let named = self.gpu.clone()?;
        Some(placement(self.gpu_layers, Some(named).filter(|name| !name.is_empty())))
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

    /// An engine with the layers where they are to be.
    pub fn engine(&self, model: &Model, options: &EngineOptions) -> Result<Engine, EngineError> {
        let placement = self.placement();
        Engine::on(model, options, &|program, options| {
            let tell = |line: &str| super::note(format_args!("note: {line}"));
            start_placed(program, options, &placement, &tell)
        })
    }
}

/// Layers on the GPU of a name, or on that of the variable's.
fn placement(layers: GpuLayers, name: Option<String>) -> Placement {
    let named = || std::env::var(GPU_VARIABLE).ok().filter(|name| !name.is_empty());
    Placement { layers, adapter: name.or_else(named), plain: false }
}
