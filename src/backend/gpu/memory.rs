//! Buffers of a program on a device.

use super::device::{Device, DeviceResult};
use super::dispatch::{Bound, Dispatch, Dispatches, Scratch};
use super::input::{bytes_of_floats, bytes_of_words};
use super::pages::{LayerPages, STORAGE};
use super::weights::Weights;
use crate::backend::pages::KvType;
use crate::backend::program::{Op, Output, Program};
use std::num::NonZeroU64;

/// Usage of a buffer that results are read from.
pub(super) const STAGING: wgpu::BufferUsages =
    wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);

/// The buffers.
pub(super) struct Memory {
    /// Buffers of activations by their numbers in the program, of those that operations here use.
    pub activations: Vec<Option<wgpu::Buffer>>,
    /// None until they are brought.
    pub weights: Weights,
    /// Pages by layer.
    pub pages: Vec<Option<LayerPages>>,
    scratch: Vec<wgpu::Buffer>,
    constants: wgpu::Buffer,
    params: wgpu::Buffer,
    /// Bytes from the parameters of one dispatch to those of the next.
    params_stride: usize,
    pub angles: wgpu::Buffer,
    pub step: wgpu::Buffer,
    pub results: wgpu::Buffer,
    pub staging: wgpu::Buffer,
}

impl Memory {
    /// Buffers for the operations for which `is_here` holds.
    pub fn new(
        device: &Device,
        program: &Program,
        made: &Dispatches,
        kind: KvType,
        [max_tokens, max_outputs]: [usize; 2],
        is_here: &dyn Fn(usize) -> bool,
    ) -> DeviceResult<Memory> {
        let indices = || (0..program.ops.len()).filter(|&i| is_here(i));
        let ops = || indices().map(|i| &program.ops[i]);
        let mut activations: Vec<Option<wgpu::Buffer>> =
            program.widths.iter().map(|_| None).collect();
        let mut width_max = 1;
        for access in ops().flat_map(Op::buffers) {
            let (slot, width) = (&mut activations[access.buf.0], program.widths[access.buf.0]);
            if slot.is_none() {
                *slot = Some(device.buffer("activations", 4 * max_tokens * width, STORAGE)?);
            }
            width_max = width_max.max(width);
        }
        let mut pages: Vec<Option<LayerPages>> = program.kv.iter().map(|_| None).collect();
        for layer in ops().filter_map(kv_layer) {
            if pages[layer].is_none() {
                pages[layer] = Some(LayerPages::new(device, program.kv[layer], kind)?);
            }
        }
        let gives_results = ops().any(|op| match op {
            Op::Linear(op) => matches!(op.out, Output::Logits { .. }),
            Op::Result { .. } => true,
            _ => false,
        });
        let n_results = if gives_results { max_outputs * program.n_out } else { 0 };
        let scratch = Scratch::ALL.iter().map(|&kind| {
            let bytes = 4 * max_tokens * made.scratch[kind as usize];
            device.buffer("activations", bytes, STORAGE)
        });
        let scratch = scratch.collect::<DeviceResult<Vec<_>>>()?;
        let n_angles: usize = program.ropes.iter().map(|rope| 2 * rope.inv_freq.len()).sum();
        let constants = device.buffer("vectors", 4 * made.constants.len(), STORAGE)?;
        device.queue.write_buffer(&constants, 0, &bytes_of_floats(&made.constants));
        let (params, params_stride) = upload_params(device, &made.list)?;
        let staging_bytes = 4 * n_results.max(max_tokens * width_max);
        let memory = Memory {
            activations,
            weights: Weights::default(),
            pages,
            scratch,
            constants,
            params,
            params_stride,
            angles: device.buffer("angles of positions", 4 * max_tokens * n_angles, STORAGE)?,
            step: device.buffer("the input of a step", 64 * max_tokens, STORAGE)?,
            results: device.buffer("rows of results", 4 * n_results, STORAGE)?,
            staging: device.buffer("results on their way", staging_bytes, STAGING)?,
        };
        device.check()?;
        Ok(memory)
    }

    /// The binding that a shader is given.
    fn resource(&self, bound: Bound) -> wgpu::BindingResource<'_> {
        const HERE: &str = "operations here have their buffers here";
        let buffer = match bound {
            Bound::Weight(id, window) => return self.weights.binding(id, window),
            Bound::Buf(buf) => self.activations[buf.0].as_ref().expect(HERE),
            Bound::Pages(layer) => self.pages[layer].as_ref().expect(HERE).buffer(),
            Bound::Angles => &self.angles,
            Bound::Scratch(kind) => &self.scratch[kind as usize],
            Bound::Results => &self.results,
            Bound::Nothing => &self.constants,
        };
        buffer.as_entire_binding()
    }

    /// Bindings of dispatch number `index`.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        layout: &wgpu::BindGroupLayout,
        dispatch: &Dispatch,
        index: usize,
    ) -> wgpu::BindGroup {
        let params = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.params,
            offset: (index * self.params_stride) as u64,
            size: NonZeroU64::new(params_bytes(dispatch) as u64),
        });
        let step = self.step.as_entire_binding();
        let first = [params, step, self.constants.as_entire_binding()];
        let rest = dispatch.buffers.iter().map(|&bound| self.resource(bound));
        let resources: Vec<wgpu::BindingResource<'_>> = first.into_iter().chain(rest).collect();
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (resources.into_iter().enumerate())
            .map(|(i, resource)| wgpu::BindGroupEntry { binding: i as u32, resource })
            .collect();
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout,
            entries: &entries,
        })
    }
}

/// The layer whose keys and values an operation writes or reads.
pub(super) fn kv_layer(op: &Op) -> Option<usize> {
    match op {
        Op::RopeKv(op) => Some(op.layer),
        Op::Attention(op) => Some(op.layer),
        _ => None,
    }
}

/// Bytes of a dispatch's parameters: whole vectors of four words.
fn params_bytes(dispatch: &Dispatch) -> usize {
    (4 * dispatch.params.len()).next_multiple_of(16)
}

/// All parameters in one buffer.
fn upload_params(device: &Device, list: &[Dispatch]) -> DeviceResult<(wgpu::Buffer, usize)> {
    let alignment = device.limits.min_uniform_buffer_offset_alignment as usize;
    let most = list.iter().map(params_bytes).max().unwrap_or(16);
    let stride = most.next_multiple_of(alignment);
    let mut words = vec![0; stride / 4 * list.len().max(1)];
    for (of_one, dispatch) in words.chunks_mut(stride / 4).zip(list) {
        of_one[..dispatch.params.len()].copy_from_slice(&dispatch.params);
    }
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let buffer = device.buffer("parameters", 4 * words.len(), usage)?;
    device.queue.write_buffer(&buffer, 0, &bytes_of_words(&words));
    Ok((buffer, stride))
}
