//! Pages of a mapped file as a buffer of the device's, where both have the same memory: Apple's GPUs, by Metal.
//!
//! Metal keeps the address and copies nothing. The buffer owns a share of the file, which it gives back when
//! Metal is done with it, so the map outlives all that the device does.

#[cfg(all(target_vendor = "apple", target_arch = "aarch64"))]
pub(super) use metal::{map_buffer, reads_maps};

#[cfg(all(target_vendor = "apple", target_arch = "aarch64"))]
mod metal {
    use crate::backend::gpu::device::{Device, DeviceResult};
    use crate::backend::gpu::in_place::PAGE_BYTES;
    use crate::tensor::WeightMap;
    use block2::RcBlock;
    use objc2_metal::{MTLDevice, MTLResourceOptions};
    use std::ffi::c_void;
    use std::ops::Range;
    use std::ptr::NonNull;
    use wgpu::hal::{api::Metal, metal};

    /// Whether an adapter can read the memory of the program.
    pub fn reads_maps(info: &wgpu::AdapterInfo) -> bool {
        // `wgpu` calls a GPU so whose memory is the CPU's.
        let is_unified = info.device_type == wgpu::DeviceType::IntegratedGpu;
        info.backend == wgpu::Backend::Metal && is_unified
    }

    /// A buffer that is whole pages of a map; `None`: the device does not take them.
    ///
    /// # Errors
    /// The device is lost.
    pub fn map_buffer(
        device: &Device,
        what: &str,
        map: WeightMap<'_>,
        pages: &Range<usize>,
    ) -> DeviceResult<Option<wgpu::Buffer>> {
        let bytes = &map.bytes[pages.start..pages.end.min(map.bytes.len())];
        let (address, len) = (NonNull::from(bytes).cast::<c_void>(), pages.len());
        let is_whole = address.addr().get().is_multiple_of(PAGE_BYTES);
        let is_covered = bytes.len().next_multiple_of(PAGE_BYTES) == len;
        if len == 0 || !is_whole || !is_covered {
            return Ok(None);
        }
        // SAFETY: nothing of the device is destroyed here, and the guard is dropped before it.
        let Some(hal) = (unsafe { device.device.as_hal::<Metal>() }) else { return Ok(None) };
        let file = map.file.clone();
        // Metal lets go of the block when it is done with the bytes, and the block of the file. A share of a
        // file may be given back by any thread.
        let keeper = RcBlock::new(move |_: NonNull<c_void>, _: usize| {
            let _ = &file;
        });
        // SAFETY: `bytes` begins a page and ends with the map or a page, as was checked above, and a system maps
        // whole pages, so `len` bytes from `address` on are mapped. They are so as long as `file` has the map,
        // which `keeper` has a share of. Nothing writes them: shaders read weights by bindings that only read
        // (`Shader::is_written`), and no copies go there by the usage below. The block may be sent.
        let raw = unsafe {
            hal.raw_device().newBufferWithBytesNoCopy_length_options_deallocator(
                address,
                len,
                MTLResourceOptions::StorageModeShared,
                Some(&keeper),
            )
        };
        let Some(raw) = raw else { return Ok(None) };
        // SAFETY: the buffer has `len` bytes.
        let buffer = unsafe { metal::Device::buffer_from_raw(raw, len as u64) };
        drop(hal);
        let descriptor = wgpu::BufferDescriptor {
            label: Some(what),
            size: len as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        };
        // SAFETY: the buffer is this device's, has the size that is described, which is not 0, and shared
        // storage, which serves the usage; its bytes are the file's.
        let wrap =
            move || unsafe { device.device.create_buffer_from_hal::<Metal>(buffer, &descriptor) };
        device.guarded(what, wrap).map(Some)
    }
}

/// Whether an adapter can read the memory of the program.
#[cfg(not(all(target_vendor = "apple", target_arch = "aarch64")))]
pub(super) fn reads_maps(_: &wgpu::AdapterInfo) -> bool {
    false
}

/// A buffer that is whole pages of a map; `None`: the device does not take them.
#[cfg(not(all(target_vendor = "apple", target_arch = "aarch64")))]
pub(super) fn map_buffer(
    _: &super::device::Device,
    _: &str,
    _: crate::tensor::WeightMap<'_>,
    _: &std::ops::Range<usize>,
) -> super::device::DeviceResult<Option<wgpu::Buffer>> {
    Ok(None)
}
