//! Memory that this process can have: what the system has free, and what limits leave of it.
//!
//! Linux tells in files, so that the limits are a function of a directory. A container is a control
//! group (cgroups(7)), and so are the groups around it: the least of all their limits counts, of
//! version 1 or 2 of the interface. `ulimit -v` and `ulimit -d` count too. macOS and Windows are
//! asked through the crate `sysinfo` (feature `memory`); elsewhere the answer is unknown. Limits of
//! Windows' job objects are not seen.

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

/// Memory that can be had without swapping, in bytes; `None` where the system does not tell.
pub fn available_bytes() -> Option<usize> {
    let of_system = if cfg!(any(target_os = "linux", target_os = "android")) {
        available_below(Path::new("/"))
    } else {
        asked_bytes()
    };
    of_system.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

#[cfg(all(feature = "memory", any(target_os = "macos", windows)))]
fn asked_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.available_memory()).filter(|&bytes| bytes > 0)
}

#[cfg(not(all(feature = "memory", any(target_os = "macos", windows))))]
fn asked_bytes() -> Option<u64> {
    None
}

/// Available bytes as Linux tells them in the files below `root`.
fn available_below(root: &Path) -> Option<u64> {
    let read = |path: &str| read_to_string(root.join(path)).unwrap_or_default();
    let status = read("proc/self/status");
    let limits = read("proc/self/limits");
    let under_limit = |limit: &str, used: &str| {
        Some(limit_of(&limits, limit)?.saturating_sub(kib_of(&status, used).unwrap_or(0)))
    };
    let groups = groups(root, &read("proc/self/mountinfo"), &read("proc/self/cgroup"));
    [
        kib_of(&read("proc/meminfo"), "MemAvailable:"),
        under_limit("Max address space", "VmSize:"),
        under_limit("Max data size", "VmData:"),
        groups.iter().filter_map(|(interface, folder)| interface.left(folder)).min(),
    ]
    .into_iter()
    .flatten()
    .min()
}

/// Bytes of a line such as `MemAvailable:  1000 kB`.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The soft limit, in bytes, of a line of `/proc/self/limits`; `None` if there is none.
fn limit_of(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// One version of the interface of control groups: how its files are called.
struct Interface {
    /// The type of the file system.
    kind: &'static str,
    /// The limits.
    limits: &'static [&'static str],
    /// File with the bytes that count against them.
    used: &'static str,
    /// Line of `memory.stat` with those that the system takes back when it needs memory.
    reclaimable: &'static str,
}

const V1: Interface = Interface {
    kind: "cgroup",
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};
const V2: Interface = Interface {
    kind: "cgroup2",
    // Above `high` a process is slowed down until it gives memory back.
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    reclaimable: "inactive_file ",
};

impl Interface {
    /// Memory that the limits of one group leave; `None` without a limit.
    fn left(&self, folder: &Path) -> Option<u64> {
        let number = |name: &str| -> Option<u64> {
            read_to_string(folder.join(name)).ok()?.trim().parse().ok()
        };
        // `max`, which is no number, stands for none.
        let limit = self.limits.iter().filter_map(|name| number(name)).min()?;
        let used = number(self.used).unwrap_or(0);
        let stat = read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat.lines().find_map(|line| line.strip_prefix(self.reclaimable));
        let reclaimable = reclaimable.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
    }

    /// The group of this process, in `/proc/self/cgroup`.
    fn group<'a>(&self, groups: &'a str) -> Option<&'a str> {
        groups.lines().find_map(|line| {
            let (id, rest) = line.split_once(':')?;
            let (controllers, group) = rest.split_once(':')?;
            let is_ours = match self.kind {
                "cgroup2" => id == "0" && controllers.is_empty(),
                _ => controllers.split(',').any(|name| name == "memory"),
            };
            is_ours.then_some(group)
        })
    }
}

/// The folders of the groups that this process is in, from the inmost to the outmost that can be
/// seen.
fn groups(root: &Path, mounts: &str, groups: &str) -> Vec<(&'static Interface, PathBuf)> {
    let mut folders = Vec::new();
    for line in mounts.lines() {
        // Fields before and behind the dash (proc_pid_mountinfo(5)).
        let Some((before, behind)) = line.split_once(" - ") else { continue };
        let before: Vec<&str> = before.split(' ').collect();
        let behind: Vec<&str> = behind.split(' ').collect();
        let (&[_, _, _, mounted, at, ..], &[kind, _, options, ..]) = (&before[..], &behind[..])
        else {
            continue;
        };
        let interface = match kind {
            "cgroup2" => &V2,
            "cgroup" if options.split(',').any(|option| option == "memory") => &V1,
            _ => continue,
        };
        let Some(group) = interface.group(groups) else { continue };
        let folder = root.join(unescaped(at).trim_start_matches('/'));
        let below = below_mount(&unescaped(mounted), group);
        let inside = below.ancestors().map(|group| folder.join(group));
        folders.extend(inside.map(|folder| (interface, folder)));
    }
    folders
}

/// The path of a group below the folder where a part of the hierarchy, `mounted`, is seen. A group
/// beyond that part is not seen, and the part's own limits count.
fn below_mount(mounted: &str, group: &str) -> PathBuf {
    let below = Path::new(group).strip_prefix(mounted).unwrap_or(Path::new(""));
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if below.components().all(is_plain) { below.to_path_buf() } else { PathBuf::new() }
}

/// A path in which spaces are written `\040`.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up root of the file system.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            let name = format!("teff-memory-{name}-{}", std::process::id());
            let root = Root(std::env::temp_dir().join(name));
            root.file("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:  8000 kB\n")
        }

        fn file(self, path: &str, text: &str) -> Root {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }

        /// A group of version 2 with a limit and what is used of it.
        fn v2(self, group: &str, max: &str, used: &str) -> Root {
            let folder = format!("sys/fs/cgroup{group}");
            self.file(&format!("{folder}/memory.max"), max)
                .file(&format!("{folder}/memory.current"), used)
        }

        fn v1(self, group: &str, max: &str, used: &str) -> Root {
            let folder = format!("sys/fs/cgroup/memory{group}");
            self.file(&format!("{folder}/memory.limit_in_bytes"), max)
                .file(&format!("{folder}/memory.usage_in_bytes"), used)
        }

        fn mounts(self, lines: &str, groups: &str) -> Root {
            self.file("proc/self/mountinfo", lines).file("proc/self/cgroup", groups)
        }

        fn available(&self) -> Option<u64> {
            available_below(&self.0)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const MOUNT_2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const MOUNTS_1: &str = "\
        31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";

    #[test]
    fn without_limits_the_system_tells() {
        assert_eq!(Root::new("none").available(), Some(8000 << 10));
        let max = Root::new("max").mounts(MOUNT_2, "0::/a\n").v2("/a", "max\n", "5\n");
        assert_eq!(max.available(), Some(8000 << 10));
        let nothing = Root::new("nothing").file("proc/meminfo", "");
        assert_eq!(nothing.available(), None);
    }

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let root = Root::new("v2")
            .mounts(MOUNT_2, "0::/a/b\n")
            .v2("", "max", "1")
            .v2("/a", "1000\n", "900\n")
            .v2("/a/b", "500\n", "300\n");
        assert_eq!(root.available(), Some(100), "the outer group has less left");
        let root = root.file("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 850\nfile 9\n");
        assert_eq!(root.available(), Some(200), "what can be taken back does not count");
        let root = root.file("sys/fs/cgroup/a/b/memory.high", "350");
        assert_eq!(root.available(), Some(50));
        let root = root.v2("/a/b", "500", "700");
        assert_eq!(root.available(), Some(0));
    }

    #[test]
    fn the_older_interface_counts_too() {
        let root = Root::new("v1")
            .mounts(MOUNTS_1, "12:cpu,cpuacct:/x\n4:memory:/docker/c\n0::/\n")
            .v1("", "9223372036854771712", "5")
            .v1("/docker", "9223372036854771712", "5")
            .v1("/docker/c", "80000000", "79000000");
        assert_eq!(root.available(), Some(1_000_000));
        let stat = "inactive_file 7\ntotal_inactive_file 500000\n";
        let root = root.file("sys/fs/cgroup/memory/docker/c/memory.stat", stat);
        assert_eq!(root.available(), Some(1_500_000));
    }

    #[test]
    fn a_container_sees_its_own_part_of_the_hierarchy() {
        // Without a namespace of its own: the mount shows a part, the group is named in full.
        let mounts = "32 30 0:28 /docker/c /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let root = Root::new("part").mounts(mounts, "4:memory:/docker/c/d\n");
        let root = root.v1("", "3000", "1000").v1("/d", "9000", "0");
        assert_eq!(root.available(), Some(2000));
        // The group lies beyond what the namespace shows.
        let root = root.mounts(MOUNT_2, "0::/../other\n").v2("", "700", "0");
        assert_eq!(root.available(), Some(700));
        assert_eq!(below_mount("/a", "/b/c"), PathBuf::new());
        assert_eq!(below_mount("/", "/b/c"), PathBuf::from("b/c"));
    }

    #[test]
    fn limits_of_the_shell_count() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max data size             unlimited            unlimited            bytes\n\
                      Max address space         3000000              unlimited            bytes\n";
        let root = Root::new("ulimit")
            .file("proc/self/limits", limits)
            .file("proc/self/status", "VmSize:\t    1000 kB\nVmData:\t  10 kB\n");
        assert_eq!(root.available(), Some(3_000_000 - 1000 * 1024));
        let tight = limits.replace("3000000", "30     ");
        assert_eq!(root.file("proc/self/limits", &tight).available(), Some(0));
    }

    #[test]
    fn garbage_is_no_limit() {
        let root = Root::new("garbage")
            .mounts("x\n30 - cgroup2\n1 2 3 4 - - - - -\n", ":::\n0\n")
            .file("proc/self/limits", "Max address space\nMax data size -1\n");
        assert_eq!(root.available(), Some(8000 << 10));
        let root = root.mounts(MOUNT_2, "0::/a\n").v2("/a", "lots", "\u{fffd}");
        assert_eq!(root.available(), Some(8000 << 10));
    }
}
