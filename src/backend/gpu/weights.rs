//! Weights on a device, in windows of whole rows: pages of the mapped file where the device can read them there,
//! copies otherwise.

use super::device::{Device, DeviceResult};
use super::dispatch::windows;
use super::in_place::{BoundPages, InPlace};
use super::map_buffer::map_buffer;
use super::memory::STAGING;
use super::pages::STORAGE;
use crate::backend::PlacementListener;
use crate::backend::offload::part_of;
use crate::backend::plan::WeightSource;
use crate::backend::program::{BoundWeight, Program, WeightId};
use std::num::NonZeroU64;
use std::ops::{ControlFlow, Range};

/// Bytes behind a window: words are read from where a row ends, so there is one more.
pub(super) const TAIL_BYTES: usize = 4;
/// Bytes of a weight that are on their way to the device at a time.
const UPLOAD_BYTES: usize = 16 << 20;
/// Bytes at each end of a window in place that are compared with the file.
const PROBE_BYTES: usize = 16;

/// The weights of some of a program's operations.
#[derive(Default)]
pub(super) struct Weights {
    /// Windows of each weight of the program, none if it is not used here.
    windows: Vec<Vec<Window>>,
    /// Bytes that are bound as pages of the mapped file.
    pub in_place_bytes: u64,
}

/// A window of a weight: a part of a buffer.
struct Window {
    buffer: wgpu::Buffer,
    offset: u64,
    /// `None`: the rest of it.
    size: Option<NonZeroU64>,
    /// Bytes of the weight that are bound as pages of the mapped file.
    in_place: Option<Range<usize>>,
}

impl Weights {
    /// Brings the weights of the operations for which `is_here` holds to the device; the listener hears of
    /// each part. Should the device not read what the mapped file has, all are copied, which is told.
    ///
    /// # Errors
    /// The device has no memory for them or is lost, or the listener wants no more.
    pub fn bring(
        device: &Device,
        program: &Program,
        is_here: &dyn Fn(usize) -> bool,
        listener: &dyn PlacementListener,
    ) -> DeviceResult<Weights> {
        let mut is_known = vec![false; program.weights.len()];
        let here = (0..program.ops.len()).filter(|&op| is_here(op));
        let used =
            here.flat_map(|op| program.ops[op].weights().map(move |(_, weight)| (op, weight)));
        let used: Vec<(usize, &BoundWeight)> = used
            .filter(|(_, weight)| !std::mem::replace(&mut is_known[weight.id().0], true))
            .collect();
        let mut weights = Weights::upload_all(device, program, &used, device.in_place, listener)?;
        if let Some(name) = weights.misread(device, &used)? {
            let adapter = device.name();
            listener.tell(&format!(
                "{adapter} reads {name} otherwise than the mapped file has it: weights are copied"
            ));
            weights = Weights::upload_all(device, program, &used, None, listener)?;
        }
        device.check()?;
        Ok(weights)
    }

    fn upload_all(
        device: &Device,
        program: &Program,
        used: &[(usize, &BoundWeight)],
        rules: Option<InPlace>,
        listener: &dyn PlacementListener,
    ) -> DeviceResult<Weights> {
        let windows = program.weights.iter().map(|_| Vec::new()).collect();
        let mut weights = Weights { windows, in_place_bytes: 0 };
        let total = used.iter().map(|(_, weight)| weight.bytes().len() as u64).sum();
        let mut done = 0;
        for &(op, weight) in used {
            let mut hear = |n_bytes: usize| {
                done += n_bytes as u64;
                match listener.bring(done, total) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => {
                        Err(device.error(format!("{}: was stopped on its way", weight.name)))
                    }
                }
            };
            let uploaded = weights.upload(device, weight, rules, &mut hear);
            uploaded.map_err(|error| error.at(part_of(program, op)))?;
        }
        Ok(weights)
    }

    /// Brings a weight to the device; `hear` is told of each part's bytes.
    fn upload(
        &mut self,
        device: &Device,
        weight: &BoundWeight,
        rules: Option<InPlace>,
        hear: &mut dyn FnMut(usize) -> DeviceResult<()>,
    ) -> DeviceResult<()> {
        let row_bytes = weight.row_bytes();
        for rows in windows(weight, device.window_bytes_max()) {
            let part = rows.start * row_bytes..rows.end * row_bytes;
            let bound = rules.map_or(Ok(None), |rules| in_place(device, weight, rules, &part))?;
            let window = match bound {
                Some(window) => {
                    self.in_place_bytes += part.len() as u64;
                    hear(part.len())?;
                    window
                }
                None => {
                    let what = &weight.name;
                    let buffer = device.buffer(what, part.len() + TAIL_BYTES, STORAGE)?;
                    copy(device, what, &buffer, &weight.bytes()[part], hear)?;
                    Window { buffer, offset: 0, size: None, in_place: None }
                }
            };
            self.windows[weight.id().0].push(window);
        }
        Ok(())
    }

    /// The binding of a window.
    pub fn binding(&self, id: WeightId, window: usize) -> wgpu::BindingResource<'_> {
        let &Window { ref buffer, offset, size, .. } = &self.windows[id.0][window];
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size })
    }

    /// Name of a weight in place of which the device does not read what the file has, by both ends of each window.
    fn misread(
        &self,
        device: &Device,
        used: &[(usize, &BoundWeight)],
    ) -> DeviceResult<Option<String>> {
        let windows = used.iter().flat_map(|(_, weight)| {
            let windows = self.windows[weight.id().0].iter();
            windows.filter_map(|window| Some((*weight, window, window.in_place.clone()?)))
        });
        // A weight, bytes of it, and the place of the same in a buffer.
        let probes: Vec<(&BoundWeight, Range<usize>, &wgpu::Buffer, u64)> = windows
            .flat_map(|(weight, Window { buffer, offset, .. }, part)| {
                ends(part.len()).map(move |end| {
                    let at = offset + end.start as u64;
                    (weight, part.start + end.start..part.start + end.end, buffer, at)
                })
            })
            .collect();
        let total = probes.iter().map(|(_, bytes, ..)| bytes.len()).sum();
        if total == 0 {
            return Ok(None);
        }
        let staging = device.buffer("bytes that are compared", total, STAGING)?;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let mut to = 0;
        for (_, bytes, buffer, at) in &probes {
            encoder.copy_buffer_to_buffer(buffer, *at, &staging, to, bytes.len() as u64);
            to += bytes.len() as u64;
        }
        device.queue.submit([encoder.finish()]);
        let mut misread = None;
        device.read(&staging, total, |mut read| {
            for (weight, bytes, ..) in probes {
                let (ours, rest) = read.split_at(bytes.len());
                read = rest;
                if ours != &weight.bytes()[bytes] {
                    misread.get_or_insert_with(|| weight.name.clone());
                }
            }
        })?;
        Ok(misread)
    }
}

/// The first and the last whole words of so many bytes, as far as they are compared.
fn ends(len: usize) -> [Range<usize>; 2] {
    let whole = len / 4 * 4;
    let n = PROBE_BYTES.min(whole);
    [0..n, whole - n..whole]
}

/// A part of a weight as pages of the file's map; `None`: it is to be copied.
fn in_place(
    device: &Device,
    weight: &BoundWeight,
    rules: InPlace,
    part: &Range<usize>,
) -> DeviceResult<Option<Window>> {
    let Some(map) = weight.map() else { return Ok(None) };
    let of_map = map.offset + part.start..map.offset + part.end;
    let bound = rules.pages(map.bytes.len(), of_map);
    let Some(BoundPages { pages, offset, size }) = bound else { return Ok(None) };
    let what = &weight.name;
    let buffer = match device.weights {
        WeightSource::Best | WeightSource::Copies => map_buffer(device, what, map, &pages)?,
        WeightSource::PageCopies => {
            let buffer = device.buffer(what, pages.len(), STORAGE)?;
            let bytes = &map.bytes[pages.start..pages.end.min(map.bytes.len())];
            copy(device, what, &buffer, bytes, &mut |_| Ok(()))?;
            Some(buffer)
        }
        WeightSource::PagesMisread => Some(device.buffer(what, pages.len(), STORAGE)?),
    };
    Ok(buffer.map(|buffer| Window {
        buffer,
        offset: offset as u64,
        size: NonZeroU64::new(size as u64),
        in_place: Some(part.clone()),
    }))
}

/// Copies bytes of a weight of this name to a buffer; `hear` is told of each part's.
fn copy(
    device: &Device,
    what: &str,
    buffer: &wgpu::Buffer,
    bytes: &[u8],
    hear: &mut dyn FnMut(usize) -> DeviceResult<()>,
) -> DeviceResult<()> {
    for (i, part) in bytes.chunks(UPLOAD_BYTES).enumerate() {
        let at = (i * UPLOAD_BYTES) as u64;
        let whole = part.len() / 4 * 4;
        device.queue.write_buffer(buffer, at, &part[..whole]);
        if whole < part.len() {
            let mut last = [0; 4];
            last[..part.len() - whole].copy_from_slice(&part[whole..]);
            device.queue.write_buffer(buffer, at + whole as u64, &last);
        }
        // What is on its way takes memory until it is submitted and done.
        device.queue.submit([]);
        let polled = device.device.poll(wgpu::PollType::wait_indefinitely());
        polled.map_err(|error| device.error(format!("{what}: {error}")))?;
        hear(part.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_a_window_are_whole_words_of_it() {
        assert_eq!(ends(100), [0..16, 84..100]);
        assert_eq!(ends(103), [0..16, 84..100]);
        assert_eq!(ends(18), [0..16, 0..16]);
        assert_eq!(ends(7), [0..4, 0..4]);
        assert_eq!(ends(3), [0..0, 0..0]);
    }
}
