//! The memory of an adapter, which wgpu does not tell.

use crate::backend::available_bytes;

/// Bytes that an adapter has for buffers; `None` where its API does not tell. An adapter that shares the
/// CPU's memory has no more than is available there.
pub(super) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    let bytes = own_bytes(adapter);
    match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => bytes,
        _ => {
            let available = available_bytes().map(|bytes| bytes as u64);
            bytes.into_iter().chain(available).min()
        }
    }
}

/// Bytes of the largest heap that is the adapter's own.
#[cfg(not(target_vendor = "apple"))]
fn own_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    /// Bit of a heap that is the device's: VK_MEMORY_HEAP_DEVICE_LOCAL_BIT.
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: nothing of the adapter is destroyed here, and it outlives the guard.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device is one of this instance, which the guard keeps alive.
    let memory =
        unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    let own = heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0);
    own.map(|heap| heap.size).max()
}

/// On Apple's systems the memory is the CPU's.
#[cfg(target_vendor = "apple")]
fn own_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}
