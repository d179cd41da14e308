//! Cores and memory of this machine.
//!
//! On Linux everything is read from /sys and /proc; the functions take the directory, so tests can
//! fake it. Other systems give the number of CPUs, Apple's that of its fast cores too. Nothing here
//! fails: without information all CPUs count as alike.

pub use super::memory::available_bytes;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The cores that decoding is fastest on: of those this process may use, the big ones, and of each
/// one thread. A phase lasts until its slowest worker is done, so little cores and efficiency cores
/// hold the big ones up; two hyper-threads of a core share its multipliers.
///
/// Never more than the process's affinity mask and its control group's quota allow.
pub fn default_threads() -> usize {
    let n_allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    let n_fast = if cfg!(target_vendor = "apple") {
        apple_fast_cores().unwrap_or(n_allowed)
    } else {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = allowed_cpus(&status).unwrap_or_else(|| CpuSet::first(n_allowed));
        n_big_cores(Path::new("/sys/devices"), allowed)
    };
    n_fast.clamp(1, n_allowed)
}

/// Confines the calling thread to one CPU.
///
/// # Errors
/// The system has no such CPU, keeps it from this process, or cannot pin threads (all but Linux).
pub fn pin_this_thread(cpu: usize) -> std::io::Result<()> {
    #[cfg(all(feature = "pin", any(target_os = "linux", target_os = "android")))]
    let pinned = {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set).map_err(std::io::Error::from)
    };
    #[cfg(not(all(feature = "pin", any(target_os = "linux", target_os = "android"))))]
    let pinned: std::io::Result<()> = Err(std::io::ErrorKind::Unsupported.into());
    pinned.map_err(|e| std::io::Error::new(e.kind(), format!("no thread runs on CPU {cpu}: {e}")))
}

/// CPUs by the numbers the system gives them, below [`CpuSet::END`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CpuSet([u64; CpuSet::END / 64]);

impl CpuSet {
    /// Number of CPUs that a set can name, as in the sets of C libraries.
    pub const END: usize = 1024;

    const EMPTY: CpuSet = CpuSet([0; CpuSet::END / 64]);

    fn first(n: usize) -> CpuSet {
        CpuSet::of(0..n.min(CpuSet::END))
    }

    /// CPUs below [`CpuSet::END`].
    fn of(cpus: impl IntoIterator<Item = usize>) -> CpuSet {
        cpus.into_iter().fold(CpuSet::EMPTY, |mut set, cpu| {
            set.0[cpu / 64] |= 1 << (cpu % 64);
            set
        })
    }

    /// Number of CPUs.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is no CPU.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.0;
        (0..CpuSet::END).filter(move |cpu| words[cpu / 64] >> (cpu % 64) & 1 == 1)
    }

    /// The intersection of both sets, or this one if they have no CPU in common.
    fn narrowed_to(self, other: CpuSet) -> CpuSet {
        let both = CpuSet(std::array::from_fn(|i| self.0[i] & other.0[i]));
        if both.is_empty() { self } else { both }
    }

    /// Set that a file of Linux lists; CPUs from [`CpuSet::END`] on, which kernels reserve numbers
    /// for, are left out.
    fn of_kernel(list: &str) -> Option<CpuSet> {
        let ranges: Option<Vec<_>> = list.trim().split(',').map(parse_range).collect();
        let cpus = ranges?.into_iter().flat_map(|(first, last)| first..=last.min(CpuSet::END - 1));
        Some(CpuSet::of(cpus))
    }

    fn of_file(path: &Path) -> Option<CpuSet> {
        CpuSet::of_kernel(&std::fs::read_to_string(path).ok()?)
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A list that does not name CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuListError(String);

impl fmt::Display for CpuListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CpuListError(part) = self;
        write!(f, "`{part}` is no CPU below {} and no range of them, as in 0-3,6", CpuSet::END)
    }
}

impl std::error::Error for CpuListError {}

impl FromStr for CpuSet {
    type Err = CpuListError;

    /// Numbers and ranges, as in `0-3,6`.
    fn from_str(list: &str) -> Result<CpuSet, CpuListError> {
        let mut set = Vec::new();
        for part in list.split(',') {
            match parse_range(part) {
                Some((first, last)) if first <= last && last < CpuSet::END => {
                    set.extend(first..=last);
                }
                _ => return Err(CpuListError(part.to_owned())),
            }
        }
        Ok(CpuSet::of(set))
    }
}

/// `3` or `0-3`.
fn parse_range(text: &str) -> Option<(usize, usize)> {
    let number = |text: &str| text.trim().parse().ok();
    match text.split_once('-') {
        Some((first, last)) => Some((number(first)?, number(last)?)),
        None => number(text).map(|cpu| (cpu, cpu)),
    }
}

/// The affinity mask in `/proc/self/status`.
fn allowed_cpus(status: &str) -> Option<CpuSet> {
    CpuSet::of_kernel(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

/// A core with less than this share of the fastest one's speed is a little one. Above are the
/// middle clusters of phones (0.75 and more), below Cortex-A53 and A55 (at most 0.6, in the
/// Amlogic S922X) and Apple's efficiency cores (0.51 in an M2).
const BIG_CAPACITY: f64 = 2.0 / 3.0;
/// Share of the fastest clock rate that big cores have, for kernels that tell no more: above are
/// favoured cores (0.96), below Intel's E-cores (0.76) and the Cortex-A55 of an RK3588 (0.75).
const BIG_FREQUENCY: f64 = 7.0 / 8.0;

/// Counts the big cores among the CPUs `allowed`. `devices` is `/sys/devices` of Linux.
fn n_big_cores(devices: &Path, allowed: CpuSet) -> usize {
    let dir = devices.join("system/cpu");
    let online = CpuSet::of_file(&dir.join("online")).unwrap_or(allowed);
    let cpus = allowed.narrowed_to(online);
    let siblings = |cpu: usize| {
        let path = dir.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        CpuSet::of_file(&path).unwrap_or_else(|| CpuSet::of([cpu]))
    };
    let number = |cpu: usize, file: &str| -> Option<f64> {
        std::fs::read_to_string(dir.join(format!("cpu{cpu}/{file}"))).ok()?.trim().parse().ok()
    };
    // Those with a share of the fastest one's speed; `None` if a file tells no difference. A core
    // that runs two threads is big whatever its clock: AMD's compact cores are such, little cores
    // and E-cores are not.
    let fast = |file: &str, share: f64| {
        let speeds: Vec<_> = cpus.iter().map(|cpu| (cpu, number(cpu, file))).collect();
        let told = speeds.iter().filter_map(|(_, speed)| *speed);
        let (slowest, fastest) = told.fold((f64::MAX, 0.0), |(a, b), x| (x.min(a), x.max(b)));
        let is_big = |cpu, speed: Option<f64>| {
            speed.is_none_or(|speed| speed >= share * fastest) || siblings(cpu).len() > 1
        };
        let big = speeds.into_iter().filter(|&(cpu, speed)| is_big(cpu, speed)).map(|pair| pair.0);
        (slowest < fastest).then(|| CpuSet::of(big))
    };
    let big = match CpuSet::of_file(&devices.join("cpu_core/cpus")) {
        // Intel's P-cores.
        Some(performance) => cpus.narrowed_to(performance),
        None => fast("cpu_capacity", BIG_CAPACITY)
            .or_else(|| fast("cpufreq/cpuinfo_max_freq", BIG_FREQUENCY))
            .unwrap_or(cpus),
    };
    // Of the threads of a core the first counts.
    big.iter().filter(|&cpu| siblings(cpu).narrowed_to(big).iter().next() == Some(cpu)).count()
}

/// Apple's performance cores; `None` where they are not told apart. Asks the system's own program,
/// which takes some milliseconds, because the call itself would need `unsafe`.
fn apple_fast_cores() -> Option<usize> {
    ["hw.perflevel0.physicalcpu", "hw.physicalcpu"].into_iter().find_map(|name| {
        let output =
            std::process::Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
        std::str::from_utf8(&output.stdout).ok()?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A made-up `/sys/devices`.
    struct Devices(PathBuf);

    impl Devices {
        fn new(name: &str) -> Devices {
            let name = format!("teff-topology-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(path.join("system/cpu")).unwrap();
            Devices(path)
        }

        fn file(self, path: &str, text: &str) -> Devices {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
            self
        }

        /// A file that several CPUs have.
        fn cpus(self, cpus: &str, file: &str, text: &str) -> Devices {
            let cpus: CpuSet = cpus.parse().unwrap();
            cpus.iter().fold(self, |d, cpu| d.file(&format!("system/cpu/cpu{cpu}/{file}"), text))
        }

        fn siblings(self, cpus: &str) -> Devices {
            self.cpus(cpus, "topology/thread_siblings_list", cpus)
        }

        fn single(self, cpus: &str) -> Devices {
            let cpus: CpuSet = cpus.parse().unwrap();
            cpus.iter().fold(self, |devices, cpu| devices.siblings(&cpu.to_string()))
        }

        fn n_big(&self, allowed: &str) -> usize {
            n_big_cores(&self.0, allowed.parse().unwrap())
        }
    }

    impl Drop for Devices {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const CAPACITY: &str = "cpu_capacity";
    const FREQUENCY: &str = "cpufreq/cpuinfo_max_freq";

    #[test]
    fn raspberry_pi() {
        let pi4 = Devices::new("pi4")
            .single("0-3")
            .cpus("0-3", CAPACITY, "1024")
            .cpus("0-3", FREQUENCY, "1800000");
        assert_eq!(pi4.n_big("0-3"), 4);
        assert_eq!(pi4.n_big("1,3"), 2);
        let pi5 = Devices::new("pi5").single("0-3").cpus("0-3", FREQUENCY, "2400000");
        assert_eq!(pi5.n_big("0-3"), 4);
    }

    #[test]
    fn big_and_little() {
        let rk3588 = Devices::new("rk3588").single("0-7");
        let by_clock = rk3588
            .cpus("0-3", FREQUENCY, "1800000")
            .cpus("4-5", FREQUENCY, "2256000")
            .cpus("6-7", FREQUENCY, "2400000");
        assert_eq!(by_clock.n_big("0-7"), 4);
        // A kernel that knows no capacities gives every core the same one.
        let by_clock = by_clock.cpus("0-7", CAPACITY, "1024");
        assert_eq!(by_clock.n_big("0-7"), 4);
        let both = by_clock.cpus("0-3", CAPACITY, "397").cpus("4-5", CAPACITY, "963");
        assert_eq!(both.n_big("0-7"), 4);
        assert_eq!(both.n_big("0-4"), 1);
        assert_eq!(both.n_big("0-3"), 4, "nothing but little cores is allowed");

        let phone = Devices::new("phone")
            .cpus("0-3", CAPACITY, "250")
            .cpus("4-6", CAPACITY, "871")
            .cpus("7", CAPACITY, "1024")
            .cpus("0-6", FREQUENCY, "2400000")
            .cpus("7", FREQUENCY, "3200000");
        assert_eq!(phone.n_big("0-7"), 4);
        assert_eq!(phone.n_big("4-7"), 4);
        // Little cores may have the higher clock.
        let s922x = Devices::new("s922x")
            .cpus("0-1", CAPACITY, "617")
            .cpus("0-1", FREQUENCY, "1896000")
            .cpus("2-5", CAPACITY, "1024")
            .cpus("2-5", FREQUENCY, "1800000");
        assert_eq!(s922x.n_big("0-5"), 4);
    }

    #[test]
    fn hyper_threads_count_once() {
        let pairs = ["0-1", "2-3", "4-5", "6-7", "8-9", "10-11"];
        let intel = pairs.iter().fold(Devices::new("intel"), |d, pair| d.siblings(pair));
        let intel = intel
            .single("12-19")
            .cpus("0-11", FREQUENCY, "4900000")
            .cpus("12-19", FREQUENCY, "3700000");
        assert_eq!(intel.n_big("0-19"), 6, "by clock");
        let intel = intel.file("cpu_core/cpus", "0-11").file("cpu_atom/cpus", "12-19");
        assert_eq!(intel.n_big("0-19"), 6);
        assert_eq!(intel.n_big("1,3,12"), 2);
        assert_eq!(intel.n_big("12-15"), 4);

        // AMD numbers the second threads after all the first ones; compact cores are big ones.
        let amd = ["0,4", "1,5", "2,6", "3,7"]
            .iter()
            .fold(Devices::new("amd"), |d, pair| d.siblings(pair))
            .cpus("0,4", FREQUENCY, "5100000")
            .cpus("1-3,5-7", FREQUENCY, "3300000");
        assert_eq!(amd.n_big("0-7"), 4);
        assert_eq!(amd.n_big("4-7"), 4);
    }

    #[test]
    fn what_is_not_told_counts_as_alike() {
        let empty = Devices::new("empty");
        assert_eq!(empty.n_big("0-3"), 4);
        assert_eq!(empty.n_big("0"), 1);
        assert_eq!(n_big_cores(&empty.0.join("absent"), CpuSet::first(2)), 2);
        let garbage = empty
            .cpus("0-3", CAPACITY, "fast")
            .cpus("0-3", FREQUENCY, "")
            .cpus("0-3", "topology/thread_siblings_list", "0-")
            .file("system/cpu/online", "\u{fffd}");
        assert_eq!(garbage.n_big("0-3"), 4);
        let partly_off = garbage.file("system/cpu/online", "0,2-3");
        assert_eq!(partly_off.n_big("0-3"), 3);
        assert_eq!(Devices::new("one").single("0").cpus("0", CAPACITY, "1024").n_big("0"), 1);
    }

    #[test]
    fn lists_of_cpus() {
        let cpus = |list: &str| list.parse::<CpuSet>().map(|set| set.iter().collect::<Vec<_>>());
        assert_eq!(cpus("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(cpus("1023,5,5"), Ok(vec![5, 1023]));
        for bad in ["", ",", "x", "3-1", "0-1024", "1-", "-1", "0-3,,6", "99999999999999999999"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
        let error = "0-3,four".parse::<CpuSet>().unwrap_err().to_string();
        assert_eq!(error, "`four` is no CPU below 1024 and no range of them, as in 0-3,6");
    }

    #[test]
    fn the_affinity_mask_is_read() {
        let status = "Name:\tteff\nCpus_allowed:\tff\nCpus_allowed_list:\t0-2,5-8191\nx:\t0\n";
        let allowed = allowed_cpus(status).unwrap();
        assert_eq!(allowed.len(), CpuSet::END - 2);
        assert_eq!(allowed.iter().take(4).collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!(allowed_cpus(""), None);
        assert_eq!(allowed_cpus("Cpus_allowed_list:\t"), None);
    }

    #[cfg(all(feature = "pin", target_os = "linux"))]
    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let status = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let before = allowed_cpus(&status()).unwrap();
        let cpu = before.iter().last().unwrap();
        std::thread::spawn(move || {
            pin_this_thread(cpu).unwrap();
            assert_eq!(allowed_cpus(&status()), Some(CpuSet::of([cpu])));
        })
        .join()
        .unwrap();
        assert_eq!(allowed_cpus(&status()), Some(before));
        let error = pin_this_thread(CpuSet::END - 1).unwrap_err().to_string();
        assert!(error.starts_with("no thread runs on CPU 1023: "), "{error}");
    }
}
