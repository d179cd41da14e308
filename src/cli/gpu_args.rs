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

/// Environment variable of a GPU's name.
const GPU_VARIABLE: &str = "TEFF_GPU";

impl GpuArgs {
    /// Where layers are to be.
    fn placement(&self) -> Placement {
        let named = || std::env::var(GPU_VARIABLE).ok().filter(|name| !name.is_empty());
        Placement { layers: self.gpu_layers, adapter: self.gpu.clone().or_else(named) }
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
