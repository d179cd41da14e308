//! The memory of an adapter, which wgpu does not tell.

use super::in_place::InPlace;
use super::map_buffer::reads_maps;
use crate::backend::available_bytes;
use crate::backend::plan::{Plan, Side};
use crate::backend::program::Program;

/// Layers may take this share of a memory, in tenths: drivers and other programs have some.
const TENTHS: u64 = 9;

/// Room of an adapter for buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::backend) struct AdapterRoom {
    /// Bytes that are its own, or that its system would have it use; `None` where its API does not tell.
    pub own: Option<u64>,
    /// Bytes that are available to the CPU, if the adapter has the CPU's memory.
    pub shared: Option<u64>,
    /// Rules for weights that it reads where the file is mapped, if it does.
    pub in_place: Option<InPlace>,
}

impl AdapterRoom {
    /// The room of an adapter.
    pub fn new(adapter: &wgpu::Adapter) -> AdapterRoom {
        let info = adapter.get_info();
        let shared = match info.device_type {
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => None,
            _ => available_bytes().map(|bytes| bytes as u64),
        };
        let in_place = reads_maps(&info).then(|| InPlace::new(&adapter.limits()));
        AdapterRoom { own: own_bytes(adapter), shared, in_place }
    }

    /// Bytes in all; `None`: that is not told.
    pub fn bytes(self) -> Option<u64> {
        self.own.into_iter().chain(self.shared).min()
    }

    /// Bytes of weights that it would read where the file is mapped.
    pub fn in_place_bytes(self, program: &Program, plan: &Plan) -> u64 {
        let is_here = |op: usize| plan.side(op) == Side::Gpu;
        self.in_place.map_or(0, |rules| rules.bytes(program, &is_here))
    }

    /// Whether there is room for so many bytes, `in_place` of which are weights where the file is mapped: the
    /// adapter is to have them, but the memory that is available has no second copy of them.
    pub fn holds(self, needed: u64, in_place: u64) -> bool {
        let fits = |room: Option<u64>, bytes| room.is_none_or(|room| bytes <= room / 10 * TENTHS);
        fits(self.own, needed) && fits(self.shared, needed - in_place)
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

/// Bytes that the system would have the adapter use at most, which is a part of the CPU's memory where it has
/// that.
#[cfg(target_os = "macos")]
fn own_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    use objc2_metal::MTLDevice;
    // SAFETY: nothing of the adapter is destroyed here, and it outlives the guard.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Metal>() }?;
    Some(adapter.raw_device().recommendedMaxWorkingSetSize()).filter(|&bytes| bytes > 0)
}

/// On the other systems of Apple's the memory is the CPU's.
#[cfg(all(target_vendor = "apple", not(target_os = "macos")))]
fn own_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_has_no_more_than_is_its_own_or_shared() {
        let room = |own, shared| AdapterRoom { own, shared, in_place: None };
        let [none, own, shared] = [room(None, None), room(Some(70), None), room(None, Some(50))];
        let both = room(Some(70), Some(50));
        assert_eq!(
            [none, own, shared, both].map(AdapterRoom::bytes),
            [None, Some(70), Some(50), Some(50)]
        );
        assert!(none.holds(u64::MAX, 0));
        assert!(own.holds(63, 0) && !own.holds(64, 0));
        assert!(shared.holds(45, 0) && !shared.holds(46, 0));
        assert!(both.holds(45, 0) && !both.holds(46, 0));
    }

    /// A map takes memory once, however much of it is cached at the moment.
    #[test]
    fn weights_in_place_take_none_of_what_is_available() {
        let room = AdapterRoom { own: Some(100), shared: Some(20), in_place: None };
        assert!(room.holds(90, 72) && !room.holds(90, 71));
        // The adapter is to have them nevertheless.
        assert!(!room.holds(91, 91));
    }
}
