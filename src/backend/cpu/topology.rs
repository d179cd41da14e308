//! What this machine offers: cores and memory.

use std::collections::BTreeSet;
use std::path::Path;

/// The physical cores that this process may run on: two hyper-threads of a core share its
/// multipliers, and a second one makes decoding slower.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    physical_cores(Path::new("/sys/devices/system/cpu")).map_or(allowed, |n| n.clamp(1, allowed))
}

/// Counts distinct sets of sibling threads as Linux lists them; `None` on other systems.
fn physical_cores(cpus: &Path) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for entry in std::fs::read_dir(cpus).ok()?.flatten() {
        let siblings = entry.path().join("topology/thread_siblings_list");
        if let Ok(list) = std::fs::read_to_string(siblings) {
            cores.insert(list);
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Memory that can be had without swapping, as Linux estimates it; `None` on other systems.
pub fn available_bytes() -> Option<usize> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_count_once() {
        let dir = std::env::temp_dir().join(format!("teff-topology-{}", std::process::id()));
        for (cpu, siblings) in [("cpu0", "0,2\n"), ("cpu1", "1,3\n"), ("cpu2", "0,2\n")] {
            let topology = dir.join(cpu).join("topology");
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        assert_eq!(physical_cores(&dir), Some(2));
        assert_eq!(physical_cores(&dir.join("cpu0")), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
