//! Layers on a GPU: Metal, Vulkan or DirectX 12 by way of wgpu, with one set of shaders.
//!
//! A [`Gpu`] runs the operations that it was made for; [`super::placed`] gives it a range of layers
//! and the CPU the rest. Weights stay in the blocks of the file and are unpacked where they are used;
//! activations, sums and softmax are f32. A range of operations is one submission. For the same
//! batch the same device gives the same bits; they are not the CPU's.
//!
//! Limits: heads of at most 1024 elements, caches of f32, f16 and Q8_0, and what [`unsupported`] says.

mod adapter_memory;
mod device;
mod dispatch;
mod in_place;
mod input;
mod map_buffer;
mod memory;
mod pages;
mod shader;
mod submission;
mod support;
mod weights;

pub(super) use adapter_memory::AdapterRoom;
pub(super) use device::adapter_info;
pub use device::{AdapterInfo, adapters};
pub use shader::{Form, Shader, Width};
pub use support::unsupported;

use super::offload::part_of;
use super::pages::{CacheOp, KvType, LayerGroup, PageId};
use super::plan::{ShaderChoice, WeightSource};
use super::program::{Buf, Program, Tokens};
use super::step::DeviceError;
use super::{PlacementListener, Results, StepInput, Transfers};
use crate::workers::Workers;
use device::{Device, DeviceResult};
use dispatch::{Builder, Dispatch, Dispatches, Shape};
use memory::Memory;
use shader::{HEAD_MAX, HEAD_STEP, Pipelines};
use std::ops::Range;
use std::sync::Arc;
use submission::WORK_MAX;
use teff_kernels::MAX_BLOCK;
use teff_kernels::float::block_max;
use weights::Weights;

/// Sizes that are fixed when a device is made ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct GpuOptions<'a> {
    /// Part of the adapter's name; `None`: the best adapter that is no program on the CPU.
    pub adapter: Option<&'a str>,
    /// Shaders that it is to have.
    pub shaders: ShaderChoice,
    /// Source that they read weights from.
    pub weights: WeightSource,
    /// Tokens in a step, at most.
    pub max_tokens: usize,
    /// Rows of results in a step, at most.
    pub max_outputs: usize,
    /// Type of cached keys and values.
    pub kv_type: KvType,
    /// Number of the range before which the device is destroyed, for tests.
    pub lose_at: Option<u64>,
}

/// A device with the weights, pages and buffers of some of a program's operations.
pub(super) struct Gpu {
    device: Device,
    program: Arc<Program>,
    /// Groups of all layers, of those on the CPU too.
    groups: Vec<LayerGroup>,
    pipelines: Pipelines,
    made: Dispatches,
    /// Of each dispatch; `None`: a buffer of it is another one now.
    bindings: Vec<Option<wgpu::BindGroup>>,
    memory: Memory,
    /// Positions whose angles are there.
    angles_of: Vec<u32>,
    results: Vec<f32>,
    maxima: Vec<f32>,
    max_outputs: usize,
    transfers: Transfers,
    /// Ranges until the device is destroyed.
    lose_at: Option<u64>,
}

impl Gpu {
    /// A device that is ready for the operations for which `is_here` holds, none of them
    /// [`unsupported`].
    ///
    /// # Errors
    /// There is no such adapter, or it has no memory for all of that; or the listener, who hears of the
    /// weights, has no patience.
    pub fn start(
        program: Arc<Program>,
        options: &GpuOptions<'_>,
        is_here: &dyn Fn(usize) -> bool,
        listener: &dyn PlacementListener,
    ) -> DeviceResult<Gpu> {
        let device = Device::open(options.adapter, options.shaders, options.weights)?;
        let &GpuOptions { max_tokens, max_outputs, kv_type, .. } = options;
        let groups = LayerGroup::of_layers(&program.kv);
        let head = program.kv.iter().map(|shape| shape.k_dim.max(shape.v_dim)).max().unwrap_or(1);
        let shape = Shape {
            window_bytes_max: device.window_bytes_max(),
            max_tokens,
            kv: kv_type,
            head_max: head.next_multiple_of(HEAD_STEP).min(HEAD_MAX),
            form: device.form,
        };
        let made = Builder::new(&program, &groups, shape).build(is_here);
        let mut pipelines = Pipelines::default();
        for dispatch in &made.list {
            for shader in dispatch.kernel.shaders(device.form) {
                let added = pipelines.add(&device, shader);
                added.map_err(|error| error.at(part_of(&program, dispatch.op)))?;
            }
        }
        let sizes = [max_tokens, max_outputs];
        let mut memory = Memory::new(&device, &program, &made, kv_type, sizes, is_here)?;
        memory.weights = Weights::bring(&device, &program, is_here, listener)?;
        let n_out = program.n_out;
        Ok(Gpu {
            device,
            groups,
            pipelines,
            bindings: made.list.iter().map(|_| None).collect(),
            made,
            memory,
            angles_of: Vec::new(),
            results: vec![0.0; max_outputs * n_out],
            maxima: vec![0.0; max_outputs * n_out.div_ceil(MAX_BLOCK)],
            max_outputs,
            program,
            transfers: Transfers::default(),
            lose_at: options.lose_at,
        })
    }

    /// Name of the adapter.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Bytes that the steps so far sent here, and got back.
    pub fn transfers(&self) -> Transfers {
        self.transfers
    }

    /// Bytes of weights that are bound as pages of the mapped file.
    pub fn in_place_bytes(&self) -> u64 {
        self.memory.weights.in_place_bytes
    }

    /// Bytes per second that copies from buffer to buffer read and write.
    ///
    /// # Errors
    /// The device has no memory for the buffers, or is lost.
    pub fn copy_bandwidth(&self) -> DeviceResult<f64> {
        self.device.copy_bandwidth()
    }

    /// Changes pages, in this order, and makes what the step is to fill.
    ///
    /// # Errors
    /// The device has no memory for that, or is lost.
    pub fn prepare(&mut self, ops: &[CacheOp], input: &StepInput<'_>) -> DeviceResult<()> {
        for op in ops {
            match *op {
                CacheOp::CopyPage { group, from, to } => self.copy_page(group, from, to)?,
                // States are where their operations are.
                CacheOp::CopyStates { .. } | CacheOp::ClearStates(_) => {}
            }
        }
        for group in 0..self.groups.len() {
            let fills = input.fills.iter().filter(|fill| fill.group == group);
            let end = fills.map(|fill| fill.page.0 as usize + 1).max().unwrap_or(0);
            self.make(group, end)?;
        }
        self.device.check()
    }

    /// Makes pages of a group up to `end`.
    fn make(&mut self, group: usize, end: usize) -> DeviceResult<()> {
        let mut has_changed = false;
        for &layer in &self.groups[group].layers {
            if let Some(pages) = &mut self.memory.pages[layer] {
                has_changed |= pages.make(&self.device, end)?;
            }
        }
        if has_changed {
            self.bindings.iter_mut().for_each(|binding| *binding = None);
        }
        Ok(())
    }

    fn copy_page(&mut self, group: usize, from: PageId, to: PageId) -> DeviceResult<()> {
        self.make(group, from.0.max(to.0) as usize + 1)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        for &layer in &self.groups[group].layers {
            let Some(pages) = &self.memory.pages[layer] else { continue };
            // A buffer cannot be copied to itself.
            let bytes = pages.page_bytes();
            let between = self.device.buffer("a page on its way", bytes, pages::STORAGE)?;
            let bytes = bytes as u64;
            let buffer = pages.buffer();
            encoder.copy_buffer_to_buffer(buffer, pages.offset(from), &between, 0, bytes);
            encoder.copy_buffer_to_buffer(&between, 0, buffer, pages.offset(to), bytes);
        }
        self.device.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Computes a range of the program, whose operations are all here, as one submission, or as several if
    /// that would take long. Behind the program's last operation results are there.
    ///
    /// # Errors
    /// The device is lost, or refuses something.
    pub fn run(&mut self, ops: Range<usize>, input: &StepInput<'_>) -> DeviceResult<()> {
        if let Some(left) = &mut self.lose_at {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => self.device.device.destroy(),
            }
        }
        self.write_input(input)?;
        self.bind_all(&ops);
        let n = [input.tokens.len() as u32, input.outputs.len() as u32];
        let rows = |dispatch: &Dispatch| n[usize::from(dispatch.rows == Tokens::Outputs)];
        let listed = self.made.list.iter().enumerate();
        let parts = listed.filter(|(_, part)| ops.contains(&part.op) && rows(part) > 0);
        let parts: Vec<(usize, &Dispatch)> = parts.collect();
        let n_keys = input.positions.iter().map(|&position| u64::from(position) + 1).sum();
        let work = parts.iter().map(|(_, part)| part.work.of(u64::from(rows(part)), n_keys));
        let cuts = submission::cuts(&work.collect::<Vec<_>>(), WORK_MAX);
        let is_last = ops.end == self.program.ops.len();
        let bytes = 4 * self.program.n_out * input.outputs.len();
        let reads = is_last && bytes > 0;
        for cut in &cuts {
            let mut encoder = self.device.device.create_command_encoder(&Default::default());
            self.encode(&mut encoder, &parts[cut.clone()], rows);
            if reads && cut.end == parts.len() {
                let Memory { results, staging, .. } = &self.memory;
                encoder.copy_buffer_to_buffer(results, 0, staging, 0, bytes as u64);
            }
            self.device.queue.submit([encoder.finish()]);
        }
        self.transfers.submissions += cuts.len() as u64;
        if reads {
            let results = &mut self.results;
            results.clear();
            let read = |bytes: &[u8]| input::read_floats(bytes, results);
            self.device.read(&self.memory.staging, bytes, read)?;
            self.transfers.bytes_back += bytes as u64;
            self.results.resize(self.max_outputs * self.program.n_out, 0.0);
        }
        if reads && input.maxima {
            let n_out = self.program.n_out;
            let rows = self.results.chunks_exact(n_out).take(input.outputs.len());
            let maxima = self.maxima.chunks_exact_mut(n_out.div_ceil(MAX_BLOCK));
            rows.zip(maxima).for_each(|(row, maxima)| block_max(row, maxima));
        }
        self.device.check()
    }

    /// A pass of dispatches with their numbers, for so many rows each.
    fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        parts: &[(usize, &Dispatch)],
        rows: impl Fn(&Dispatch) -> u32,
    ) {
        let form = self.device.form;
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for &(i, dispatch) in parts {
            let n = rows(dispatch);
            let shader = dispatch.kernel.shader(n, form);
            let [x, y, z] = dispatch.grid.size(n, shader, form);
            pass.set_pipeline(self.pipelines.get(shader));
            pass.set_bind_group(0, &self.bindings[i], &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }

    /// Brings the input of a step to the device.
    fn write_input(&mut self, input: &StepInput<'_>) -> DeviceResult<()> {
        let words = input::words(input, &self.groups, self.program.bidirectional);
        let bytes = input::bytes_of_words(&words);
        if bytes.len() as u64 > self.memory.step.size() {
            let size = bytes.len().next_power_of_two();
            self.memory.step = self.device.buffer("the input of a step", size, pages::STORAGE)?;
            self.bindings.iter_mut().for_each(|binding| *binding = None);
        }
        let queue = &self.device.queue;
        queue.write_buffer(&self.memory.step, 0, &bytes);
        self.transfers.bytes_there += bytes.len() as u64;
        if self.angles_of != input.positions {
            let mut first = 0;
            let n = self.max_tokens();
            for rope in &self.program.ropes {
                let angles = input::bytes_of_floats(&input::angles(rope, input.positions));
                let at = 4 * (first * n) as u64;
                queue.write_buffer(&self.memory.angles, at, &angles);
                self.transfers.bytes_there += angles.len() as u64;
                first += 2 * rope.inv_freq.len();
            }
            self.angles_of = input.positions.to_vec();
        }
        Ok(())
    }

    /// Tokens that the buffers have room for.
    fn max_tokens(&self) -> usize {
        let widths: usize = self.program.ropes.iter().map(|rope| 2 * rope.inv_freq.len()).sum();
        (self.memory.angles.size() as usize / 4).checked_div(widths).unwrap_or(0)
    }

    fn bind_all(&mut self, ops: &Range<usize>) {
        let dispatches = self.made.list.iter().zip(&mut self.bindings).enumerate();
        for (i, (dispatch, binding)) in dispatches {
            if ops.contains(&dispatch.op) && binding.is_none() {
                let shader = dispatch.kernel.shader(1, self.device.form);
                let layout = self.pipelines.layout(shader);
                *binding = Some(self.memory.bind(&self.device.device, layout, dispatch, i));
            }
        }
    }

    /// Rows of a buffer as the ranges so far have left them, of the batch's first `n` tokens.
    ///
    /// # Errors
    /// The device is lost.
    pub fn read_rows(&mut self, buf: Buf, n: usize, rows: &mut Vec<f32>) -> DeviceResult<()> {
        let bytes = 4 * n * self.program.widths[buf.0];
        let buffer = self.memory.activations[buf.0].as_ref().expect("what crosses is used here");
        self.transfers.bytes_back += bytes as u64;
        self.read_back(buffer, 0, bytes, |bytes| input::read_floats(bytes, rows))
    }

    /// Makes a buffer hold rows of the batch's first tokens.
    pub fn write_rows(&mut self, buf: Buf, rows: &[f32]) {
        let buffer = self.memory.activations[buf.0].as_ref().expect("what crosses is used here");
        self.device.queue.write_buffer(buffer, 0, &input::bytes_of_floats(rows));
        self.transfers.bytes_there += 4 * rows.len() as u64;
    }

    fn read_back(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        bytes: usize,
        read: impl FnOnce(&[u8]),
    ) -> DeviceResult<()> {
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &self.memory.staging, 0, bytes as u64);
        self.device.queue.submit([encoder.finish()]);
        self.device.read(&self.memory.staging, bytes, read)
    }

    /// What a layer's page holds of its first `n` tokens, in the order of
    /// [`Executor::read_page`](super::Executor::read_page).
    ///
    /// # Errors
    /// The device is lost.
    pub fn read_page(
        &mut self,
        layer: usize,
        page: PageId,
        n: usize,
        out: &mut Vec<u8>,
    ) -> DeviceResult<()> {
        let pages = self.memory.pages[layer].as_ref().expect("the layer is here");
        let (bytes, offset) = (pages.page_bytes(), pages.offset(page));
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.device.buffer("a page on its way", bytes, usage)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(pages.buffer(), offset, &staging, 0, bytes as u64);
        self.device.queue.submit([encoder.finish()]);
        self.device.read(&staging, bytes, |bytes| pages.store(bytes, n, out))
    }

    /// Makes a layer's page hold what [`Gpu::read_page`] gave.
    ///
    /// # Errors
    /// The device has no memory for the page, or is lost.
    pub fn write_page(&mut self, layer: usize, page: PageId, bytes: &[u8]) -> DeviceResult<()> {
        let of_layer = |group: &LayerGroup| group.layers.contains(&layer);
        let group = self.groups.iter().position(of_layer).expect("every layer is in a group");
        self.make(group, page.0 as usize + 1)?;
        let pages = self.memory.pages[layer].as_ref().expect("the layer is here");
        let bytes = pages.restore(bytes);
        self.device.queue.write_buffer(pages.buffer(), pages.offset(page), &bytes);
        self.device.check()
    }

    /// Results of the last step whose last operation ran here, with the CPU's workers.
    pub fn results<'a>(&'a mut self, workers: &'a dyn Workers) -> Results<'a> {
        let Gpu { results, maxima, .. } = self;
        Results { rows: results, maxima, n_out: self.program.n_out, workers }
    }

    /// An error of this device.
    pub fn error(&self, fault: &str) -> DeviceError {
        self.device.error(fault)
    }
}
