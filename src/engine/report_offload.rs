//! Where the parts of a model in a file would run.

use super::report::{Report, ReportOptions, step_sizes};
use crate::backend::{self, DeviceError, Offload, OffloadSizes, Placement};
use crate::decoder::lower;

impl Report {
    /// Places that `placement` would give the parts of the model; `None` if it cannot be run.
    ///
    /// # Errors
    /// The GPU is not to be had.
    pub fn offload(
        &self,
        options: &ReportOptions,
        placement: &Placement,
    ) -> Option<Result<Offload, DeviceError>> {
        let (spec, n_ctx) = (self.spec.as_ref()?, self.memory.as_ref()?.n_ctx);
        let program = lower(&self.file, spec, options.kernels, n_ctx).ok()?;
        let [max_tokens, max_outputs] = step_sizes(&program, n_ctx);
        let kv_type = options.kv_type;
        let sizes = OffloadSizes { n_ctx, max_tokens, max_outputs, kv_type };
        Some(backend::offload(&program, &sizes, placement))
    }
}
