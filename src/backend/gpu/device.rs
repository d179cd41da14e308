//! The adapter that is chosen, and what goes wrong on it.

use super::adapter_memory::AdapterRoom;
use super::in_place::{InPlace, window_bytes_max};
use super::map_buffer::reads_maps;
use super::shader::{Form, Width};
use crate::backend::plan::{ShaderChoice, WeightSource};
use crate::backend::step::DeviceError;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// APIs that the shaders are translated to.
const BACKENDS: wgpu::Backends =
    wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// Sizes of subgroups that a shader for [`Form::Lanes`] can have: eight lanes fetch a token's columns, and a page
/// is a whole number of times as many keys.
const LANES: [u32; 3] = [8, 16, 32];
/// Sizes of subgroups that divide a workgroup and that shaders are made for.
const WIDTHS: [u32; 4] = [8, 16, 32, 64];

/// Bytes of a copy that is measured: more than any cache on a GPU has.
const COPY_BYTES: u64 = 128 << 20;
/// Copies in a reading: one alone is short for a fast device.
const COPIES: u64 = 4;
/// Readings, of which the best counts: before the first one the memory was not touched.
const COPY_READINGS: usize = 3;

/// Result of what a device does.
pub(super) type DeviceResult<T> = Result<T, DeviceError>;

/// An adapter of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Name of the GPU, as the driver says it.
    pub name: String,
    /// API by which it is reached.
    pub api: String,
    /// Whether it is a program on the CPU: such an adapter is only used when it is named.
    pub is_software: bool,
    /// Bytes that it has for buffers, as far as its driver tells.
    pub memory_bytes: Option<u64>,
}

/// The adapters of this machine.
pub fn adapters() -> Vec<AdapterInfo> {
    let all = all_adapters();
    all.iter().map(describe).collect()
}

/// The adapter whose name has `name` in it, or the best that is no program on the CPU, and its room.
///
/// # Errors
/// There is none.
pub(in crate::backend) fn adapter_info(
    name: Option<&str>,
) -> DeviceResult<(AdapterInfo, AdapterRoom)> {
    let adapter = choose(all_adapters(), name)?;
    Ok((describe(&adapter), AdapterRoom::new(&adapter)))
}

fn all_adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = BACKENDS;
    wait(wgpu::Instance::new(descriptor).enumerate_adapters(BACKENDS))
}

fn describe(adapter: &wgpu::Adapter) -> AdapterInfo {
    let info = adapter.get_info();
    AdapterInfo {
        name: info.name.clone(),
        api: info.backend.to_string(),
        is_software: info.device_type == wgpu::DeviceType::Cpu,
        memory_bytes: AdapterRoom::new(adapter).bytes(),
    }
}

/// Result of a future whose work is done when it is first asked, as all of native backends are.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(value) = polled {
            return value;
        }
        std::thread::yield_now();
    }
}

/// A device with its queue.
pub(super) struct Device {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub limits: wgpu::Limits,
    /// Abilities that shaders may rely on.
    pub form: Form,
    /// Rules for weights that are bound as pages of the file's map, if any are.
    pub in_place: Option<InPlace>,
    /// Source of the weights in those pages.
    pub weights: WeightSource,
    /// Name of the adapter.
    name: Arc<str>,
    /// The first thing that went wrong without being asked for.
    fault: Arc<Mutex<Option<String>>>,
}

impl Device {
    /// Opens the adapter whose name has `name` in it, or the best that is no program on the CPU, for
    /// these shaders, which read weights there.
    ///
    /// # Errors
    /// There is none, it gives no device, or it lacks what the shaders rely on.
    pub fn open(
        name: Option<&str>,
        shaders: ShaderChoice,
        weights: WeightSource,
    ) -> DeviceResult<Device> {
        let adapter = choose(all_adapters(), name)?;
        let info = adapter.get_info();
        let name: Arc<str> = info.name.as_str().into();
        let error = |fault: String| DeviceError::new(&name, fault);
        let form = form_of(&info, adapter.features(), shaders)
            .ok_or_else(|| error("has no subgroups".to_owned()))?;
        let limits = adapter.limits();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("teff"),
            required_limits: limits.clone(),
            required_features: match form {
                Form::Plain | Form::Subgroups(Width::Emulated(_)) => wgpu::Features::empty(),
                Form::Lanes(_) | Form::Subgroups(_) => wgpu::Features::SUBGROUP,
            },
            ..wgpu::DeviceDescriptor::default()
        };
        let opened = wait(adapter.request_device(&descriptor));
        let (device, queue) = opened.map_err(|e| error(format!("gives no device: {e}")))?;
        let binds_pages = match weights {
            WeightSource::Best => reads_maps(&info),
            WeightSource::Copies => false,
            WeightSource::PageCopies | WeightSource::PagesMisread => true,
        };
        let in_place = binds_pages.then(|| InPlace::new(&limits));
        let fault = Arc::new(Mutex::new(None));
        let (of_errors, of_loss) = (fault.clone(), fault.clone());
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note(&of_errors, error.to_string());
        }));
        device.set_device_lost_callback(move |_, message| {
            let why = if message.is_empty() { String::new() } else { format!(": {message}") };
            note(&of_loss, format!("the device is lost{why}"));
        });
        Ok(Device { device, queue, limits, form, in_place, weights, name, fault })
    }

    /// Name of the adapter.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error that names the adapter.
    pub fn error(&self, fault: impl Into<String>) -> DeviceError {
        DeviceError::new(&self.name, fault.into())
    }

    /// Bytes of a window of a weight, at most.
    pub fn window_bytes_max(&self) -> usize {
        window_bytes_max(&self.limits)
    }

    /// Whether anything has gone wrong so far.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> DeviceResult<()> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().map_or(Ok(()), |fault| Err(self.error(fault.clone())))
    }

    /// Runs `make`, whose faults are returned; `what` is for messages.
    ///
    /// # Errors
    /// The device refuses, or has no memory for it.
    pub fn guarded<T>(&self, what: &str, make: impl FnOnce() -> T) -> DeviceResult<T> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let scopes = [Internal, Validation, OutOfMemory].map(|f| self.device.push_error_scope(f));
        let made = make();
        let mut fault = None;
        for scope in scopes.into_iter().rev() {
            fault = wait(scope.pop()).or(fault);
        }
        match fault {
            None => Ok(made),
            Some(wgpu::Error::OutOfMemory { .. }) => {
                Err(self.error(format!("no memory for {what}")))
            }
            Some(fault) => Err(self.error(format!("{what}: {fault}"))),
        }
    }

    /// A buffer of `bytes` bytes, a whole number of 16.
    ///
    /// # Errors
    /// The buffer is larger than the device allows, or there is no memory for it.
    pub fn buffer(
        &self,
        what: &str,
        bytes: usize,
        usage: wgpu::BufferUsages,
    ) -> DeviceResult<wgpu::Buffer> {
        let size = (bytes.max(1) as u64).next_multiple_of(16);
        let is_bound = usage.contains(wgpu::BufferUsages::STORAGE);
        let most = match is_bound {
            true => self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size),
            false => self.limits.max_buffer_size,
        };
        if size > most {
            return Err(
                self.error(format!("{what}: {size} bytes are more than the {most} allowed"))
            );
        }
        let descriptor =
            wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
        self.guarded(what, || self.device.create_buffer(&descriptor))
    }

    /// Bytes per second that copies from buffer to buffer read and write: the best of some readings.
    ///
    /// # Errors
    /// There is no memory for the buffers, or the device is lost.
    pub fn copy_bandwidth(&self) -> DeviceResult<f64> {
        let bytes = COPY_BYTES.min(self.limits.max_buffer_size) / 16 * 16;
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = || self.buffer("a copy that is measured", bytes as usize, usage);
        let (from, to) = (buffer()?, buffer()?);
        let mut best = Duration::MAX;
        for _ in 0..COPY_READINGS {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            for _ in 0..COPIES {
                encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes);
            }
            let start = Instant::now();
            self.queue.submit([encoder.finish()]);
            let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
            polled.map_err(|error| self.error(format!("waiting for a copy: {error}")))?;
            self.check()?;
            best = best.min(start.elapsed());
        }
        Ok((2 * COPIES * bytes) as f64 / best.as_secs_f64().max(1e-9))
    }

    /// Waits for all that was submitted, and gives the first `bytes` bytes of a buffer that can be
    /// mapped to `read`.
    ///
    /// # Errors
    /// The device is lost.
    pub fn read(
        &self,
        staging: &wgpu::Buffer,
        bytes: usize,
        read: impl FnOnce(&[u8]),
    ) -> DeviceResult<()> {
        let slice = staging.slice(..bytes as u64);
        let mapped = Arc::new(Mutex::new(None));
        let seen = mapped.clone();
        slice.map_async(wgpu::MapMode::Read, move |result| {
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled.map_err(|error| self.error(format!("waiting for a step: {error}")))?;
        let mapped = mapped.lock().unwrap_or_else(PoisonError::into_inner).take();
        match mapped {
            Some(Ok(())) => {}
            _ => return Err(self.error("results cannot be read")),
        }
        {
            let view = slice.get_mapped_range();
            let view = view.map_err(|error| self.error(format!("results: {error}")))?;
            read(&view);
        }
        staging.unmap();
        Ok(())
    }
}

/// The form of shaders for an adapter; `None`: it lacks what they rely on.
fn form_of(
    info: &wgpu::AdapterInfo,
    features: wgpu::Features,
    shaders: ShaderChoice,
) -> Option<Form> {
    let (lanes, is_fixed) =
        (info.subgroup_min_size, info.subgroup_min_size == info.subgroup_max_size);
    let is_software = info.device_type == wgpu::DeviceType::Cpu;
    let has_subgroups = features.contains(wgpu::Features::SUBGROUP);
    let width = match is_fixed && WIDTHS.contains(&lanes) {
        true => Width::Fixed(lanes),
        false => Width::Any,
    };
    match shaders {
        ShaderChoice::Best
            if has_subgroups && is_software && is_fixed && LANES.contains(&lanes) =>
        {
            Some(Form::Lanes(lanes))
        }
        ShaderChoice::Best | ShaderChoice::Subgroups if has_subgroups => {
            Some(Form::Subgroups(width))
        }
        ShaderChoice::SubgroupsOfAny if has_subgroups => Some(Form::Subgroups(Width::Any)),
        ShaderChoice::Best | ShaderChoice::Plain => Some(Form::Plain),
        ShaderChoice::Emulated(lanes) => Some(Form::Subgroups(Width::Emulated(lanes))),
        ShaderChoice::Subgroups | ShaderChoice::SubgroupsOfAny => None,
    }
}

/// Takes note of the first fault.
fn note(place: &Mutex<Option<String>>, fault: String) {
    place.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
}

/// The adapter of that name, or the best.
fn choose(mut adapters: Vec<wgpu::Adapter>, name: Option<&str>) -> DeviceResult<wgpu::Adapter> {
    let infos: Vec<wgpu::AdapterInfo> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    let at = match name {
        Some(name) => {
            let wanted = name.to_lowercase();
            infos.iter().position(|info| info.name.to_lowercase().contains(&wanted))
        }
        None => {
            let real = (0..infos.len()).filter_map(|i| Some((rank(infos[i].device_type)?, i)));
            real.min().map(|(_, i)| i)
        }
    };
    let Some(at) = at else {
        let list: Vec<String> = infos.iter().map(|info| format!("`{}`", info.name)).collect();
        let there = match list.is_empty() {
            true => "this machine has no adapter".to_owned(),
            false => format!("adapters here are {}", list.join(", ")),
        };
        return Err(match name {
            Some(name) => {
                let why = format!("is no part of the name of an adapter of this machine: {there}");
                DeviceError::new(&format!("GPU \"{name}\""), why)
            }
            None if list.is_empty() => DeviceError::new("no GPU", there),
            None => DeviceError::new(
                "no GPU",
                format!("{there}, which are programs on the CPU and taken by name only"),
            ),
        });
    };
    Ok(adapters.swap_remove(at))
}

/// Adapters of lower rank come first; programs on the CPU have none.
fn rank(kind: wgpu::DeviceType) -> Option<u8> {
    match kind {
        wgpu::DeviceType::DiscreteGpu => Some(0),
        wgpu::DeviceType::IntegratedGpu => Some(1),
        wgpu::DeviceType::VirtualGpu => Some(2),
        wgpu::DeviceType::Other => Some(3),
        wgpu::DeviceType::Cpu => None,
    }
}
