//! A program in two places: layers on a GPU, the rest on the CPU.
//!
//! Each place has its operations' buffers and the pages of its layers, under the same numbers. A step
//! goes from place to place; what crosses is what operations behind a boundary read of what those
//! before it wrote: the residual stream, and the results at the end.

use super::auto;
use super::cpu::Cpu;
use super::gpu::{AdapterInfo, Gpu, GpuOptions, adapter_info, unsupported};
use super::offload::{Offload, OffloadSizes, part_of};
use super::pages::{CacheOp, LayerGroup, PageId, StateSlot};
use super::plan::{GpuLayers, Placement, Plan, Side};
use super::program::{Buf, Op, Program};
use super::{
    Backend, BackendOptions, DeviceError, Executor, Observer, Results, StartError, StepInput,
    Transfers, Unfinished,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A program whose operations are in two places.
pub struct Placed {
    cpu: Cpu,
    device: Device,
}

/// The part that is no CPU's.
struct Device {
    /// `None`: everything is on the CPU.
    gpu: Option<Gpu>,
    plan: Plan,
    groups: Vec<LayerGroup>,
    program: Arc<Program>,
    sizes: OffloadSizes,
}

impl Placed {
    /// Makes both places ready.
    ///
    /// # Errors
    /// One of them is not to be had.
    pub fn start(
        program: Program,
        options: &BackendOptions,
        placement: &Placement,
        tell: &dyn Fn(&str),
    ) -> Result<Placed, StartError> {
        let program = Arc::new(program);
        let (gpu, plan) = on_gpu(&program, options, placement, tell)?;
        let cpu = Cpu::start_part(program.clone(), options, &|op| plan.side(op) == Side::Cpu)?;
        let groups = LayerGroup::of_layers(&program.kv);
        let sizes = options.sizes();
        Ok(Placed { cpu, device: Device { gpu, plan, groups, program, sizes } })
    }
}

/// Where the parts of a program would be, by what the GPU says of itself.
///
/// # Errors
/// There is no such GPU.
pub(super) fn offload(
    program: &Program,
    sizes: &OffloadSizes,
    placement: &Placement,
) -> Result<Offload, DeviceError> {
    let unsupported = |op: &Op| unsupported(program, op, sizes.kv_type);
    let of = |layers| {
        let plan = Plan::new(program, layers, &unsupported);
        Offload::new(program, &plan, sizes)
    };
    if placement.layers == GpuLayers::None {
        return Ok(of(GpuLayers::None));
    }
    let AdapterInfo { name, memory_bytes, .. } = adapter_info(placement.adapter.as_deref())?;
    let layers = match placement.layers {
        GpuLayers::Auto => auto::fitting(program, sizes, memory_bytes, &unsupported),
        layers => layers,
    };
    Ok(Offload { adapter: Some(name), adapter_bytes: memory_bytes, ..of(layers) })
}

/// The GPU with the layers that `placement` asks for. If that is as many as it has memory for, half as
/// many are tried where they fail, and so on, until there is no layer left: then none is on a GPU.
fn on_gpu(
    program: &Arc<Program>,
    options: &BackendOptions,
    placement: &Placement,
    tell: &dyn Fn(&str),
) -> Result<(Option<Gpu>, Plan), StartError> {
    let gpu_options = GpuOptions {
        adapter: placement.adapter.as_deref(),
        plain: placement.plain,
        max_tokens: options.max_tokens,
        max_outputs: options.max_outputs,
        kv_type: options.kv_type,
    };
    let unsupported = |op: &Op| unsupported(program, op, options.kv_type);
    let mut layers = placement.layers;
    if layers == GpuLayers::Auto {
        layers = match auto::layers(program, options, &gpu_options, &unsupported, tell) {
            Err(StartError::Device(error)) => {
                tell(&format!("{error}; all layers stay on the CPU"));
                GpuLayers::None
            }
            layers => layers?,
        };
    }
    loop {
        let plan = Plan::new(program, layers, &unsupported);
        for (part, reason) in plan.kept() {
            tell(&format!("{part} stays on the CPU: {reason}"));
        }
        if !plan.uses_gpu() {
            return Ok((None, plan));
        }
        let is_here = |op: usize| plan.side(op) == Side::Gpu;
        match Gpu::start(program.clone(), &gpu_options, &is_here) {
            Ok(gpu) => return Ok((Some(gpu), plan)),
            Err(error) if placement.layers != GpuLayers::Auto => return Err(error.into()),
            Err(error) => {
                let n = plan.n_layers_on_gpu() / 2;
                tell(&format!("{error}; going on, layers on it: {n}"));
                layers = if n == 0 { GpuLayers::None } else { GpuLayers::Count(n) };
            }
        }
    }
}

impl Backend for Placed {
    fn program(&self) -> &Arc<Program> {
        self.cpu.program()
    }

    fn max_tokens(&self) -> usize {
        self.cpu.max_tokens()
    }

    fn max_outputs(&self) -> usize {
        self.cpu.max_outputs()
    }

    fn n_threads(&self) -> usize {
        self.cpu.n_threads()
    }

    fn transfers(&self) -> Transfers {
        self.device.gpu.as_ref().map_or(Transfers::default(), Gpu::transfers)
    }

    fn offload(&self) -> Option<Offload> {
        let Device { gpu, plan, program, sizes, .. } = &self.device;
        let adapter = gpu.as_ref().map(|gpu| gpu.name().to_owned());
        Some(Offload { adapter, ..Offload::new(program, plan, sizes) })
    }

    fn lock_weights(&self) -> std::io::Result<()> {
        self.cpu.lock_weights()
    }

    fn lead(&mut self, f: &mut (dyn FnMut(&mut dyn Executor) + Send)) {
        let Placed { cpu, device } = self;
        cpu.lead(&mut |cpu| f(&mut Both { cpu, device }));
    }
}

/// Both places while the CPU's workers are gathered.
struct Both<'a> {
    cpu: &'a mut dyn Executor,
    device: &'a mut Device,
}

impl Device {
    /// The GPU, which is there if any operation is on it.
    fn gpu(&mut self) -> &mut Gpu {
        self.gpu.as_mut().expect("there is one if the plan says so")
    }
}

impl Both<'_> {
    /// Brings what operations from `at` on read to their place.
    fn cross(&mut self, at: usize, to: Side, input: &StepInput<'_>) -> Result<(), Unfinished> {
        let n = input.tokens.len();
        let mut rows = Vec::new();
        for buf in self.device.plan.crossing(at) {
            rows.clear();
            match to {
                Side::Gpu => {
                    self.cpu.read_rows(buf, n, &mut rows)?;
                    self.device.gpu().write_rows(buf, &rows);
                }
                Side::Cpu => {
                    self.device.gpu().read_rows(buf, n, &mut rows)?;
                    self.cpu.write_rows(buf, &rows)?;
                }
            }
        }
        Ok(())
    }

    /// Layers of a group with their places, in the order of stored pages.
    fn layers(&self, group: usize) -> Vec<(usize, Side)> {
        let layers = self.device.groups[group].layers.iter();
        layers.map(|&layer| (layer, self.device.plan.layer_side(layer))).collect()
    }
}

impl Executor for Both<'_> {
    fn prepare(&mut self, ops: &[CacheOp], input: &StepInput<'_>) -> Result<(), Unfinished> {
        self.cpu.prepare(ops, input)?;
        match &mut self.device.gpu {
            Some(gpu) => Ok(gpu.prepare(ops, input)?),
            None => Ok(()),
        }
    }

    fn run(
        &mut self,
        ops: Range<usize>,
        input: &StepInput<'_>,
        cancel: Option<&AtomicBool>,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<(), Unfinished> {
        for part in self.device.plan.parts(ops) {
            let side = self.device.plan.side(part.start);
            if self.device.plan.is_boundary(part.start) {
                self.cross(part.start, side, input)?;
            }
            match side {
                Side::Cpu => {
                    let observer =
                        observer.as_deref_mut().map(|observer| observer as &mut dyn Observer);
                    self.cpu.run(part, input, cancel, observer)?;
                }
                Side::Gpu if observer.is_some() => {
                    let fault = "inputs of products that it computes cannot be observed";
                    return Err(self.device.gpu().error(fault).into());
                }
                Side::Gpu => {
                    if cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                        return Err(Unfinished::Cancelled);
                    }
                    let [first, last] = [part.start, part.end - 1];
                    self.device.gpu().run(part, input).map_err(|error| {
                        let [first, last] =
                            [first, last].map(|op| part_of(&self.device.program, op));
                        error.at(format_args!("{first} to {last}"))
                    })?;
                }
            }
        }
        Ok(())
    }

    fn read_rows(&mut self, buf: Buf, n: usize, rows: &mut Vec<f32>) -> Result<(), Unfinished> {
        self.cpu.read_rows(buf, n, rows)
    }

    fn write_rows(&mut self, buf: Buf, rows: &[f32]) -> Result<(), Unfinished> {
        self.cpu.write_rows(buf, rows)
    }

    fn read_page(
        &mut self,
        group: usize,
        page: PageId,
        n: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfinished> {
        let layers = self.layers(group);
        let mut on_cpu = Vec::new();
        let n_on_cpu = layers.iter().filter(|(_, side)| *side == Side::Cpu).count();
        if n_on_cpu > 0 {
            self.cpu.read_page(group, page, n, &mut on_cpu)?;
        }
        let mut on_cpu = on_cpu.chunks_exact((on_cpu.len() / n_on_cpu.max(1)).max(1));
        for (layer, side) in layers {
            match side {
                Side::Cpu => out.extend_from_slice(on_cpu.next().expect("each layer has its part")),
                Side::Gpu => self.device.gpu().read_page(layer, page, n, out)?,
            }
        }
        Ok(())
    }

    fn write_page(&mut self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), Unfinished> {
        let layers = self.layers(group);
        let mut on_cpu = Vec::new();
        for ((layer, side), bytes) in
            layers.iter().zip(bytes.chunks_exact(bytes.len() / layers.len()))
        {
            match side {
                Side::Cpu => on_cpu.extend_from_slice(bytes),
                Side::Gpu => self.device.gpu().write_page(*layer, page, bytes)?,
            }
        }
        if on_cpu.is_empty() {
            return Ok(());
        }
        self.cpu.write_page(group, page, &on_cpu)
    }

    fn read_states(&mut self, slot: StateSlot, out: &mut Vec<u8>) {
        self.cpu.read_states(slot, out);
    }

    fn write_states(&mut self, slot: StateSlot, bytes: &[u8]) -> Result<(), Unfinished> {
        self.cpu.write_states(slot, bytes)
    }

    fn results(&mut self) -> Results<'_> {
        let last = self.device.program.ops.len() - 1;
        match self.device.plan.side(last) {
            Side::Cpu => self.cpu.results(),
            Side::Gpu => self.device.gpu().results(),
        }
    }

    fn repacked_bytes(&self) -> [usize; 2] {
        self.cpu.repacked_bytes()
    }
}
