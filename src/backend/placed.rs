//! A program in two places: layers on a GPU, the rest on the CPU.
//!
//! Each place has its operations' buffers and the pages of its layers, under the same numbers. A step
//! goes from place to place; what crosses is what operations behind a boundary read of what those
//! before it wrote: the residual stream, and the results at the end.

use super::auto;
use super::cpu::{Cpu, Gathered};
use super::gpu::{AdapterInfo, Gpu, GpuOptions, adapter_info, unsupported};
use super::offload::{Offload, OffloadSizes, PartName, part_of};
use super::pages::{CacheOp, LayerGroup, PageId, StateSlot};
use super::plan::{GpuLayers, Placement, Plan, Side};
use super::program::{Buf, Op, Program};
use super::{
    Backend, BackendOptions, DeviceError, Executor, Observer, PlacementListener, Results,
    StartError, StepInput, Transfers, Unfinished,
};
use std::ops::{ControlFlow, Range};
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
    /// Hears that the CPUs take everything over when the GPU fails; `None`: they do not.
    heir: Option<Arc<dyn PlacementListener>>,
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
        listener: &Arc<dyn PlacementListener>,
    ) -> Result<Placed, StartError> {
        let program = Arc::new(program);
        let (gpu, plan) = on_gpu(&program, options, placement, &**listener)?;
        let cpu = Cpu::start_part(program.clone(), options, &|op| plan.side(op) == Side::Cpu)?;
        let groups = LayerGroup::of_layers(&program.kv);
        let sizes = options.sizes();
        let falls_back = placement.falls_back || placement.layers == GpuLayers::Auto;
        let heir = falls_back.then(|| listener.clone());
        Ok(Placed { cpu, device: Device { gpu, plan, groups, program, sizes, heir } })
    }
}

/// Places that the parts of a program would have, by what the GPU says of itself.
///
/// # Errors
/// There is no such GPU.
pub(super) fn offload(
    program: &Program,
    sizes: &OffloadSizes,
    placement: &Placement,
) -> Result<Offload, DeviceError> {
    let unsupported = |op: &Op| unsupported(program, op, sizes.kv_type);
    if placement.layers == GpuLayers::None {
        let plan = Plan::new(program, GpuLayers::None, &unsupported);
        return Ok(Offload::new(program, &plan, sizes));
    }
    let (AdapterInfo { name, memory_bytes, .. }, room) =
        adapter_info(placement.adapter.as_deref())?;
    let layers = match placement.layers {
        GpuLayers::Auto => auto::fitting(program, sizes, room, &unsupported),
        layers => layers,
    };
    let plan = Plan::new(program, layers, &unsupported);
    Ok(Offload {
        adapter: Some(name),
        adapter_bytes: memory_bytes,
        in_place: room.in_place_bytes(program, &plan),
        ..Offload::new(program, &plan, sizes)
    })
}

/// The GPU with the layers that `placement` asks for. If that is as many as it has memory for, half as
/// many are tried where they fail, and so on, until there is no layer left: then none is on a GPU.
fn on_gpu(
    program: &Arc<Program>,
    options: &BackendOptions,
    placement: &Placement,
    listener: &dyn PlacementListener,
) -> Result<(Option<Gpu>, Plan), StartError> {
    let gpu_options = GpuOptions {
        adapter: placement.adapter.as_deref(),
        shaders: placement.shaders,
        weights: placement.weights,
        max_tokens: options.max_tokens,
        max_outputs: options.max_outputs,
        kv_type: options.kv_type,
        lose_at: placement.lose_at,
    };
    let listener = Patience { listener, is_out: AtomicBool::new(false) };
    let tell = |line: &str| listener.tell(line);
    let unsupported = |op: &Op| unsupported(program, op, options.kv_type);
    let mut layers = placement.layers;
    if layers == GpuLayers::Auto {
        layers = match auto::layers(program, options, &gpu_options, &unsupported, &listener) {
            Err(StartError::Device(error)) => {
                tell(&format!("{error}; all layers stay on the CPU"));
                GpuLayers::None
            }
            layers => layers?,
        };
    }
    loop {
        let plan = Plan::new(program, layers, &unsupported);
        let kept: Vec<(PartName, &str)> = plan.kept().collect();
        for parts in kept.chunk_by(|a, b| a.1 == b.1) {
            let (first, reason) = parts[0];
            match parts {
                [_] => tell(&format!("{first} stays on the CPU: {reason}")),
                [.., (last, _)] => tell(&format!("{first} to {last} stay on the CPU: {reason}")),
                [] => {}
            }
        }
        if !plan.uses_gpu() {
            return Ok((None, plan));
        }
        let is_here = |op: usize| plan.side(op) == Side::Gpu;
        let is_asked_for = placement.layers != GpuLayers::Auto;
        match Gpu::start(program.clone(), &gpu_options, &is_here, &listener) {
            Ok(gpu) => return Ok((Some(gpu), plan)),
            Err(error) if is_asked_for || listener.is_out.load(Ordering::Relaxed) => {
                return Err(error.into());
            }
            Err(error) => {
                let n = plan.n_layers_on_gpu() / 2;
                tell(&format!("{error}; going on, layers on it: {n}"));
                layers = if n == 0 { GpuLayers::None } else { GpuLayers::Count(n) };
            }
        }
    }
}

/// A listener, and whether it has stopped a start.
struct Patience<'a> {
    listener: &'a dyn PlacementListener,
    is_out: AtomicBool,
}

impl PlacementListener for Patience<'_> {
    fn tell(&self, line: &str) {
        self.listener.tell(line);
    }

    fn bring(&self, done: u64, total: u64) -> ControlFlow<()> {
        let heard = self.listener.bring(done, total);
        self.is_out.fetch_or(heard.is_break(), Ordering::Relaxed);
        heard
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

    fn copy_bandwidth(&self) -> Option<f64> {
        self.device.gpu.as_ref()?.copy_bandwidth().ok()
    }

    fn offload(&self) -> Option<Offload> {
        let Device { gpu, plan, program, sizes, .. } = &self.device;
        let adapter = gpu.as_ref().map(|gpu| gpu.name().to_owned());
        let in_place = gpu.as_ref().map_or(0, Gpu::in_place_bytes);
        Some(Offload { adapter, in_place, ..Offload::new(program, plan, sizes) })
    }

    fn lock_weights(&self) -> std::io::Result<()> {
        self.cpu.lock_weights()
    }

    fn lead(&mut self, f: &mut (dyn FnMut(&mut dyn Executor) + Send)) {
        let Placed { cpu, device } = self;
        cpu.gather(&mut |cpu| f(&mut Both { cpu, device }));
    }
}

/// Both places while the CPU's workers are gathered.
struct Both<'a, 'c> {
    cpu: &'a mut Gathered<'c>,
    device: &'a mut Device,
}

impl Device {
    /// The GPU, which is there if any operation is on it.
    fn gpu(&mut self) -> &mut Gpu {
        self.gpu.as_mut().expect("there is one if the plan says so")
    }

    /// From its first operation to its last: what an error that is none of a single part's is of.
    fn parts(&self) -> String {
        let n = self.program.ops.len();
        let is_here = |op: &usize| self.plan.side(*op) == Side::Gpu;
        let ends = [(0..n).find(is_here), (0..n).rfind(is_here)];
        self.between(ends.map(Option::unwrap_or_default))
    }

    /// The parts of two operations.
    fn between(&self, ops: [usize; 2]) -> String {
        let [first, last] = ops.map(|op| part_of(&self.program, op));
        if first == last { first.to_string() } else { format!("{first} to {last}") }
    }
}

impl Both<'_, '_> {
    /// A result of the GPU. If it is an error, and the placement leaves us free, everything runs on the CPUs
    /// from now on.
    fn settle<T>(&mut self, given: Result<T, DeviceError>) -> Result<T, Unfinished> {
        given.map_err(|error| {
            let Some(listener) = self.device.heir.take() else { return error.into() };
            listener.tell(&format!(
                "{error}; all layers are on the CPU now, which computes again what was known of the text"
            ));
            self.device.gpu = None;
            self.device.plan = Plan::new(&self.device.program, GpuLayers::None, &|_| None);
            self.cpu.take_over();
            Unfinished::Moved(error)
        })
    }

    /// [`Both::settle`] of what is none of a single part's.
    fn settle_all<T>(&mut self, given: Result<T, DeviceError>) -> Result<T, Unfinished> {
        let named = given.map_err(|error| error.at(self.device.parts()));
        self.settle(named)
    }

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
                    let read = self.device.gpu().read_rows(buf, n, &mut rows);
                    self.settle_all(read)?;
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

impl Executor for Both<'_, '_> {
    fn prepare(&mut self, ops: &[CacheOp], input: &StepInput<'_>) -> Result<(), Unfinished> {
        self.cpu.prepare(ops, input)?;
        let Some(gpu) = &mut self.device.gpu else { return Ok(()) };
        let prepared = gpu.prepare(ops, input);
        self.settle_all(prepared)
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
                    let ends = [part.start, part.end - 1];
                    let ran = self.device.gpu().run(part, input);
                    let ran = ran.map_err(|error| error.at(self.device.between(ends)));
                    self.settle(ran)?;
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
                Side::Gpu => {
                    let read = self.device.gpu().read_page(layer, page, n, out);
                    self.settle_all(read)?;
                }
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
                Side::Gpu => {
                    let written = self.device.gpu().write_page(*layer, page, bytes);
                    self.settle_all(written)?;
                }
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
            Side::Gpu => self.device.gpu().results(self.cpu.workers()),
        }
    }

    fn repacked_bytes(&self) -> [usize; 2] {
        self.cpu.repacked_bytes()
    }
}
