//! The CPU's worker threads, and the only memory they share for writing.
//!
//! Rayon's fork/join costs 10 to 30 microseconds, a token of a small model has some two hundred
//! regions: so there is one `broadcast` per generate call, and inside it the workers walk the step
//! together, phase by phase, with a barrier between phases (spin, then park).
//!
//! A barrier waits for the slowest worker, and the slowest one is whoever the system has put aside
//! for another program: two threads beside two busy programs can be slower than one. So the leader
//! watches how long its workers wait for each other, sends some to the bench while the machine is
//! busy, and calls them back when it is not (see `Pace`). What is computed does not depend on it.
//!
//! What a phase may touch is checked, so that everything above this file is safe code: within one
//! phase a [`Shared`] buffer is either read by all workers or written by all of them, and a writer
//! reaches only the part that its [`Ticket`] owns. Tickets of a phase never overlap, and both
//! borrow from the [`Phase`], which ends at the barrier. The check is one relaxed load.

use super::topology::{CpuSet, pin_this_thread};
use std::alloc::Layout;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rounds of spinning at a barrier, about 100 microseconds: longer than a phase of a small model
/// is uneven, shorter than a time slice. Then the thread parks: one that yields instead gives its
/// time slices away and is not called when the barrier opens.
const SPINS: u32 = 8_000;
/// More threads than any machine this program is for; a typo must not start a million.
pub const MAX_THREADS: usize = 512;

/// Numbers the phases of all pools of the process: a phase is never mistaken for another's.
static NEXT_PHASE: AtomicU64 = AtomicU64::new(1);

/// A private pool of worker threads.
pub struct Pool {
    threads: rayon::ThreadPool,
    n_threads: usize,
}

impl Pool {
    /// Starts `n_threads` workers, at least one and at most [`MAX_THREADS`].
    pub fn new(n_threads: usize) -> std::io::Result<Pool> {
        let n_threads = n_threads.clamp(1, MAX_THREADS);
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .thread_name(|i| format!("teff-{i}"))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Pool { threads, n_threads })
    }

    /// Starts a worker on each of the CPUs, which does not leave it; at most [`MAX_THREADS`].
    pub fn pinned(cpus: CpuSet) -> std::io::Result<Pool> {
        let cpus: Vec<usize> = cpus.iter().take(MAX_THREADS).collect();
        let pool = Pool::new(cpus.len())?;
        let pin = |i: usize| cpus.get(i).map_or(Ok(()), |&cpu| pin_this_thread(cpu));
        let pinned = pool.threads.broadcast(|context| pin(context.index()));
        pinned.into_iter().collect::<Result<(), _>>()?;
        Ok(pool)
    }

    /// Number of workers.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Gathers all workers and runs `f` on one of them; through the [`Leader`] it puts all of them
    /// to work as often as it likes. This is the one broadcast of a generate call.
    pub fn lead<R: Send>(&self, f: impl FnOnce(&Leader<'_>) -> R + Send) -> R {
        let cpus = std::thread::available_parallelism().map_or(self.n_threads, |n| n.get());
        let team = Team::new(self.n_threads, cpus);
        let f = Mutex::new(Some(f));
        let result = Mutex::new(None);
        self.threads.broadcast(|context| {
            let _poison = PoisonOnPanic(&team);
            let worker = Worker {
                team: &team,
                index: context.index(),
                n_active: Cell::new(team.n),
                busy: Cell::new(false),
            };
            if context.index() != 0 {
                return worker.follow();
            }
            let f = f.lock().unwrap_or_else(PoisonError::into_inner).take();
            let leader = Leader { worker, pace: RefCell::new(Pace::new(team.n, team.cpus)) };
            if let Some(f) = f {
                let value = f(&leader);
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            }
            leader.dismiss();
        });
        let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
        result.expect("the leader ran to its end, or its panic was passed on by broadcast")
    }
}

/// A job: run by every worker of the team at the same time.
type Job<'a> = dyn Fn(&Worker<'_>) + Sync + 'a;

/// What the workers of one `lead` call share.
struct Team {
    n: usize,
    /// CPUs that this process may use: more workers than these do not spin.
    cpus: usize,
    /// The current job's number, and how many workers do it: those with the lowest indices. See
    /// [`JobWord`].
    job_word: AtomicU64,
    /// Workers that have arrived at the current barrier.
    arrived: AtomicUsize,
    /// Completed barriers.
    epoch: AtomicU64,
    /// Where workers wait for a barrier or the next job.
    room: Room,
    /// Where workers wait for a job that needs them again.
    bench: Room,
    /// Nanoseconds that workers have waited in stalls, see [`STALL_MIN`].
    stalled_ns: AtomicU64,
    /// A worker panicked: everybody leaves.
    poisoned: AtomicBool,
    /// The current phase's number.
    phase: AtomicU64,
    /// Next ticket of the current phase.
    next_ticket: AtomicUsize,
    /// First item of the current phase, the last one, and items per ticket; each plus one, or zeros
    /// before the first ticket.
    deal: [AtomicUsize; 3],
    /// The job of `job_word`; `None` sends the workers home.
    job: UnsafeCell<Option<*const Job<'static>>>,
}

// SAFETY: `job` is the only field that is not Sync. The leader writes it before it announces the
// job in `job_word`, and again only after the barrier that ends the job; a worker reads it in
// between, as one whom `job_word` names and for whom that barrier waits. So no access races.
unsafe impl Sync for Team {}

/// A job's number and its number of workers, in one atomic word.
#[derive(Clone, Copy)]
struct JobWord {
    number: u64,
    n_active: usize,
}

/// [`MAX_THREADS`] fits.
const N_ACTIVE_BITS: u32 = 16;

impl JobWord {
    fn pack(self) -> u64 {
        self.number << N_ACTIVE_BITS | self.n_active as u64
    }

    fn unpack(word: u64) -> JobWord {
        let n_active = (word & ((1 << N_ACTIVE_BITS) - 1)) as usize;
        JobWord { number: word >> N_ACTIVE_BITS, n_active }
    }
}

/// Where threads sleep until somebody changes what they wait for.
#[derive(Default)]
struct Room {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Room {
    /// Sleeps until `passed`, whose loads must be `SeqCst`.
    fn sleep_until(&self, passed: impl Fn() -> bool) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !passed() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes those who sleep, after a `SeqCst` store of what they wait for.
    fn wake_all(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}

impl Team {
    fn new(n: usize, cpus: usize) -> Team {
        Team {
            n,
            cpus,
            job_word: AtomicU64::new(JobWord { number: 0, n_active: n }.pack()),
            arrived: AtomicUsize::new(0),
            epoch: AtomicU64::new(0),
            room: Room::default(),
            bench: Room::default(),
            stalled_ns: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            phase: AtomicU64::new(0),
            next_ticket: AtomicUsize::new(0),
            deal: [const { AtomicUsize::new(0) }; 3],
            job: UnsafeCell::new(None),
        }
    }

    /// Tells `n_active` workers to do what is in `job`.
    fn announce(&self, n_active: usize) {
        self.open_phase();
        let last = JobWord::unpack(self.job_word.load(Ordering::Relaxed));
        let word = JobWord { number: last.number + 1, n_active };
        self.job_word.store(word.pack(), Ordering::SeqCst);
        self.room.wake_all();
        if n_active > last.n_active {
            self.bench.wake_all();
        }
    }

    /// Waits for a job after number `last` that worker `index` is to do.
    fn next_job(&self, last: u64, index: usize) -> JobWord {
        let word = || JobWord::unpack(self.job_word.load(Ordering::SeqCst));
        // The time between jobs is the leader's own and no stall.
        self.wait(word().n_active, || word().number != last);
        if word().n_active <= index {
            self.bench.sleep_until(|| word().n_active > index || self.is_poisoned());
            self.check_poison();
        }
        word()
    }

    /// Waits for all workers of a job; the last to arrive opens a new phase.
    fn barrier(&self, n_active: usize) {
        let epoch = self.epoch.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == n_active {
            self.open_phase();
            self.arrived.store(0, Ordering::Relaxed);
            self.epoch.store(epoch + 1, Ordering::SeqCst);
            self.room.wake_all();
            return;
        }
        let waited = self.wait(n_active, || self.epoch.load(Ordering::SeqCst) != epoch);
        if waited >= STALL_MIN {
            self.stalled_ns.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// Waits in the room, and says for how long it slept. Panics if another worker has.
    fn wait(&self, n_active: usize, passed: impl Fn() -> bool) -> Duration {
        let passed = || passed() || self.is_poisoned();
        let spins = if n_active > self.cpus { 0 } else { SPINS };
        let mut slept = Duration::ZERO;
        if !(0..spins).any(|_| {
            std::hint::spin_loop();
            passed()
        }) {
            let start = Instant::now();
            self.room.sleep_until(passed);
            slept = start.elapsed();
        }
        self.check_poison();
        slept
    }

    fn open_phase(&self) {
        self.phase.store(new_phase(), Ordering::Relaxed);
        self.next_ticket.store(0, Ordering::Relaxed);
        self.deal.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::SeqCst)
    }

    fn check_poison(&self) {
        assert!(!self.is_poisoned(), "another worker panicked");
    }
}

/// A wait for other workers that is longer than this is a stall: phases of a decode step are hardly
/// as long, time slices of other programs are longer.
const STALL_MIN: Duration = Duration::from_millis(1);
/// Workers' time that is judged at once.
const WINDOW: Duration = Duration::from_millis(50);
/// A share of their time in stalls that is worth fewer workers.
const STALL_SHARE_MAX: f64 = 0.2;
/// Of so many workers one leaves at a time, at least one.
const SHED_SHARE: usize = 4;
/// A worker who had to leave is called back after this time, and after twice as long if that was
/// too early, up to the latter.
const RETRY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(4)];

/// How many workers the jobs get.
struct Pace {
    n_active: usize,
    n_max: usize,
    /// Workers' time and stalls since the last judgement.
    time: Duration,
    stalled: Duration,
    /// When to have one more.
    retry_at: Option<Instant>,
    retry_after: Duration,
}

impl Pace {
    /// All `n` workers, and soon no more than `cpus`.
    fn new(n: usize, cpus: usize) -> Pace {
        Pace {
            n_active: n,
            n_max: n.min(cpus),
            time: Duration::ZERO,
            stalled: Duration::ZERO,
            retry_at: None,
            retry_after: RETRY[0],
        }
    }

    /// Takes note of a job that ended `now` after `elapsed`, and judges.
    fn note(&mut self, now: Instant, elapsed: Duration, stalled: Duration) {
        self.time += elapsed * self.n_active as u32;
        self.stalled += stalled;
        if self.time < WINDOW {
            return;
        }
        let share = self.stalled.as_secs_f64() / self.time.as_secs_f64();
        (self.time, self.stalled) = (Duration::ZERO, Duration::ZERO);
        if self.n_active > self.n_max {
            self.n_active = self.n_max;
        } else if share > STALL_SHARE_MAX && self.n_active > 1 {
            self.n_active -= (self.n_active / SHED_SHARE).max(1);
            self.retry_at = Some(now + self.retry_after);
            self.retry_after = (2 * self.retry_after).min(RETRY[1]);
        } else if self.n_active == self.n_max {
            // Trust comes back as slowly as it went.
            self.retry_after = self.retry_after.saturating_sub(WINDOW).max(RETRY[0]);
        } else if self.retry_at.is_none_or(|at| now >= at) {
            self.n_active += 1;
        }
    }
}

fn new_phase() -> u64 {
    let phase = NEXT_PHASE.fetch_add(1, Ordering::Relaxed);
    assert!(phase < 1 << PHASE_BITS, "phase numbers are used up");
    phase
}

/// Releases the other workers from their barriers when one of them unwinds.
struct PoisonOnPanic<'a>(&'a Team);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::SeqCst);
            self.0.room.wake_all();
            self.0.bench.wake_all();
        }
    }
}

/// The worker that runs the code between the jobs and starts them.
pub struct Leader<'a> {
    worker: Worker<'a>,
    pace: RefCell<Pace>,
}

impl Leader<'_> {
    /// Number of workers of the next job: fewer than the pool's while the machine is busy.
    pub fn n_threads(&self) -> usize {
        self.pace.borrow().n_active
    }

    /// Runs `job` on [`Leader::n_threads`] workers, this one included, and returns when all are
    /// done.
    pub fn run(&self, job: &Job<'_>) {
        let team = self.worker.team;
        let job: *const Job<'_> = job;
        // SAFETY: only the lifetime changes. Only workers whom the announcement names use the
        // pointer, and only until the barrier below, that is while `job` is borrowed; if a worker
        // unwinds, the barrier panics here as well and `lead` does not return before every worker
        // has left (rayon's broadcast waits for all).
        let job: *const Job<'static> = unsafe { std::mem::transmute(job) };
        // SAFETY: the job before has ended at a barrier, and no worker reads the field before the
        // announcement below.
        unsafe { *team.job.get() = Some(job) };
        let n_active = self.n_threads();
        self.worker.n_active.set(n_active);
        let start = Instant::now();
        team.announce(n_active);
        // SAFETY: `job` is borrowed until the end of this function.
        unsafe { (*job)(&self.worker) };
        team.barrier(n_active);
        let stalled = Duration::from_nanos(team.stalled_ns.swap(0, Ordering::Relaxed));
        let now = Instant::now();
        self.pace.borrow_mut().note(now, now - start, stalled);
    }

    fn dismiss(self) {
        let team = self.worker.team;
        // SAFETY: as in `run`: no worker reads the field before the announcement below.
        unsafe { *team.job.get() = None };
        team.announce(team.n);
    }
}

/// One of the workers, inside a job. Not `Sync`, nor is a [`Leader`]: jobs cannot start jobs.
pub struct Worker<'a> {
    team: &'a Team,
    index: usize,
    /// Workers of the current job.
    n_active: Cell<usize>,
    /// Inside a phase.
    busy: Cell<bool>,
}

impl Worker<'_> {
    /// This worker's number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of workers in the job.
    pub fn n_threads(&self) -> usize {
        self.n_active.get()
    }

    /// Runs one phase: all workers enter it, share its tickets, and leave it together.
    ///
    /// # Panics
    /// Inside another phase: its tickets would outlive the barrier at which they end.
    pub fn phase(&self, f: impl FnOnce(&Phase<'_>)) {
        assert!(!self.busy.replace(true), "phases do not nest");
        f(&Phase {
            team: self.team,
            id: self.team.phase.load(Ordering::Relaxed),
            dealt: Cell::new(false),
        });
        self.busy.set(false);
        self.team.barrier(self.n_active.get());
    }

    fn follow(&self) {
        let mut last = 0;
        loop {
            let JobWord { number, n_active } = self.team.next_job(last, self.index);
            last = number;
            self.n_active.set(n_active);
            // SAFETY: the leader wrote the field before it announced this job, and writes it again
            // only after the barrier that ends the job, which waits for this worker.
            let Some(job) = (unsafe { *self.team.job.get() }) else { return };
            // SAFETY: the leader keeps the job borrowed until the barrier below.
            unsafe { (*job)(self) };
            self.team.barrier(n_active);
        }
    }
}

/// The stretch of a job between two barriers.
pub struct Phase<'p> {
    team: &'p Team,
    id: u64,
    dealt: Cell<bool>,
}

impl Phase<'_> {
    /// The work items `0..n_items` in runs of `chunk`, dealt out to whoever is free. All workers
    /// must ask for the same deal, once a phase.
    pub fn tickets(&self, n_items: usize, chunk: usize) -> Tickets<'_> {
        self.tickets_of(0..n_items, chunk)
    }

    /// As [`Phase::tickets`] with other items than those from 0 on.
    pub fn tickets_of(&self, items: Range<usize>, chunk: usize) -> Tickets<'_> {
        assert!(!self.dealt.replace(true), "a phase deals its tickets once");
        let chunk = chunk.max(1);
        for (slot, mine) in self.team.deal.iter().zip([items.start, items.end, chunk]) {
            let first = slot.compare_exchange(0, mine + 1, Ordering::Relaxed, Ordering::Relaxed);
            assert!(first.is_ok() || first == Err(mine + 1), "workers asked for different deals");
        }
        Tickets { phase: self, items, chunk }
    }
}

/// Iterator over the tickets that this worker draws.
pub struct Tickets<'p> {
    phase: &'p Phase<'p>,
    items: Range<usize>,
    chunk: usize,
}

impl<'p> Iterator for Tickets<'p> {
    type Item = Ticket<'p>;

    fn next(&mut self) -> Option<Ticket<'p>> {
        let index = self.phase.team.next_ticket.fetch_add(1, Ordering::Relaxed);
        let start = index.checked_mul(self.chunk)?.checked_add(self.items.start)?;
        if start >= self.items.end {
            return None;
        }
        let end = self.items.end.min(start + self.chunk);
        Some(Ticket { phase_id: self.phase.id, items: start..end, life: PhantomData })
    }
}

/// The right, within one phase, to the items `items()` and to what they own in shared buffers.
pub struct Ticket<'p> {
    phase_id: u64,
    items: Range<usize>,
    life: PhantomData<&'p ()>,
}

impl Ticket<'_> {
    /// The items of this ticket.
    pub fn items(&self) -> Range<usize> {
        self.items.clone()
    }
}

/// Forty bits of phases last for half a year of a small model's decoding.
const PHASE_BITS: u32 = 40;
const PARAM_BITS: u32 = 22;
const READ: u64 = 0;
const CELLS: u64 = 1;
const COLUMNS: u64 = 2;
const SLOTS: u64 = 3;
/// Parameters of `SLOTS`: a page is written in one layout.
const SLOTS_AS_ROWS: usize = 0;
const SLOTS_AS_LANES: usize = 1;

/// What a buffer is used for in the current phase: number of the phase, kind of use, parameter.
struct Mode(AtomicU64);

impl Mode {
    /// Claims a kind of use for the phase; panics if the phase already uses the buffer otherwise.
    #[inline]
    fn claim(&self, phase: u64, kind: u64, param: usize) {
        assert!((param as u64) < 1 << PARAM_BITS, "a cell of a shared buffer is too long");
        let word = phase << (64 - PHASE_BITS) | kind << PARAM_BITS | param as u64;
        let mut now = self.0.load(Ordering::Relaxed);
        while now != word {
            assert!(
                now >> (64 - PHASE_BITS) != phase,
                "a buffer is used in two ways within one phase"
            );
            match self.0.compare_exchange(now, word, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }
}

/// A row-major matrix that the workers of a phase either all read or all write by ticket.
pub struct Shared<T> {
    mode: Mode,
    width: usize,
    start: NonNull<T>,
    len: usize,
    /// Whose the memory is, if not a box's.
    map: Option<memmap2::MmapMut>,
}

// SAFETY: access from several threads goes through `Mode::claim` and tickets, as each method says.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}
// SAFETY: it owns its elements.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if self.map.is_none() {
            let slice = NonNull::slice_from_raw_parts(self.start, self.len);
            // SAFETY: without a map `new` made the pointer and the length of a box it leaked.
            drop(unsafe { Box::from_raw(slice.as_ptr()) });
        }
    }
}

impl Shared<u8> {
    /// One row of `len` zeros in memory of its own, in huge pages where the system has them.
    pub fn mapped(len: usize) -> std::io::Result<Shared<u8>> {
        let mut map = memmap2::MmapMut::map_anon(len.max(1))?;
        // A hint: without huge pages it is only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = NonNull::from(&mut map[..]).cast();
        Ok(Shared { mode: Mode(AtomicU64::new(0)), width: len, start, len, map: Some(map) })
    }
}

impl<T> Shared<T> {
    /// Keeps memory of its own, see [`Shared::mapped`], from being swapped out.
    pub fn lock(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            return map.lock();
        }
        Ok(())
    }
}

impl<T: Copy + Default> Shared<T> {
    /// `rows` x `width` default values. Memory is zeroed lazily by the system, not touched here.
    pub fn new(rows: usize, width: usize) -> Shared<T> {
        let data = Box::leak(vec![T::default(); rows * width].into_boxed_slice());
        let (len, start) = (data.len(), NonNull::from(data).cast());
        Shared { mode: Mode(AtomicU64::new(0)), width, start, len, map: None }
    }

    /// Elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Exclusive access outside of jobs.
    pub fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: the buffer's own memory, borrowed with the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The whole buffer, read-only for this phase.
    #[inline]
    pub fn read<'p>(&'p self, phase: &'p Phase<'_>) -> &'p [T] {
        self.mode.claim(phase.id, READ, 0);
        // SAFETY: in this phase every claim on this buffer is for reading (`claim` panics
        // otherwise), and the phase outlives the borrow.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Row `row` of the buffer, read-only for this phase.
    #[inline]
    pub fn read_row<'p>(&'p self, phase: &'p Phase<'_>, row: usize) -> &'p [T] {
        &self.read(phase)[row * self.width..][..self.width]
    }

    /// The cells `ticket.items()`, contiguous: item `i` of the phase owns the `cell` elements from
    /// `i * cell` on.
    #[inline]
    pub fn write_cells<'t>(&'t self, ticket: &'t mut Ticket<'_>, cell: usize) -> &'t mut [T] {
        let items = ticket.items();
        self.cells(ticket, items, cell)
    }

    /// One of the ticket's cells; see [`Shared::write_cells`].
    #[inline]
    pub fn write_cell<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        cell: usize,
        item: usize,
    ) -> &'t mut [T] {
        self.cells(ticket, item..item + 1, cell)
    }

    /// Cell `item` of a buffer with `cells_per_row` cells of `cell` elements in a row, where the
    /// items of the phase are the rows.
    #[inline]
    pub fn write_tile_cell<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        cells_per_row: usize,
        cell: usize,
        item: usize,
    ) -> &'t mut [T] {
        let row = self.write_cell(ticket, cells_per_row * cell, item / cells_per_row);
        &mut row[item % cells_per_row * cell..][..cell]
    }

    #[inline]
    fn cells<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        items: Range<usize>,
        cell: usize,
    ) -> &'t mut [T] {
        assert!(ticket.items.start <= items.start && items.end <= ticket.items.end);
        self.mode.claim(ticket.phase_id, CELLS, cell);
        assert!(
            items.start <= items.end && items.end * cell <= self.len,
            "the cells are in the buffer"
        );
        // SAFETY: in bounds. All claims of this phase are for cells of this size, and no other
        // ticket of the phase has these items; the ticket is borrowed mutably for the slice's
        // life, so it gives out no second one meanwhile.
        unsafe {
            let start = self.start.as_ptr().add(items.start * cell);
            std::slice::from_raw_parts_mut(start, (items.end - items.start) * cell)
        }
    }

    /// Columns `columns` of row `row`, where item `i` of the phase is column `i` of every row.
    #[inline]
    pub fn write_columns<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        row: usize,
        columns: Range<usize>,
    ) -> &'t mut [T] {
        assert!(ticket.items.start <= columns.start && columns.end <= ticket.items.end);
        assert!(columns.start <= columns.end && columns.end <= self.width);
        self.mode.claim(ticket.phase_id, COLUMNS, 0);
        assert!(row * self.width + columns.end <= self.len, "the row is in the buffer");
        // SAFETY: in bounds. All claims of this phase are for columns, and no other ticket of the
        // phase has these; the ticket is borrowed mutably for the slice's life.
        unsafe {
            let start = self.start.as_ptr().add(row * self.width + columns.start);
            std::slice::from_raw_parts_mut(start, columns.end - columns.start)
        }
    }
}

/// The ticket's cells in four buffers at a time, each with its own cell size; see
/// [`Shared::write_cells`].
pub fn write_cells_of_four<'t, A, B, C, D>(
    ticket: &'t mut Ticket<'_>,
    a: (&'t Shared<A>, usize),
    b: (&'t Shared<B>, usize),
    c: (&'t Shared<C>, usize),
    d: (&'t Shared<D>, usize),
) -> (&'t mut [A], &'t mut [B], &'t mut [C], &'t mut [D])
where
    A: Copy + Default,
    B: Copy + Default,
    C: Copy + Default,
    D: Copy + Default,
{
    let of = |ticket: &Ticket<'_>| Ticket {
        phase_id: ticket.phase_id,
        items: ticket.items(),
        life: PhantomData,
    };
    let addresses = [
        std::ptr::from_ref(a.0).addr(),
        std::ptr::from_ref(b.0).addr(),
        std::ptr::from_ref(c.0).addr(),
        std::ptr::from_ref(d.0).addr(),
    ];
    let distinct = (1..4).all(|i| !addresses[..i].contains(&addresses[i]));
    assert!(distinct, "the four buffers are different ones");
    let mut tickets = [of(ticket), of(ticket), of(ticket), of(ticket)];
    let [ta, tb, tc, td] = &mut tickets;
    let slices = (
        std::ptr::from_mut(a.0.write_cells(ta, a.1)),
        std::ptr::from_mut(b.0.write_cells(tb, b.1)),
        std::ptr::from_mut(c.0.write_cells(tc, c.1)),
        std::ptr::from_mut(d.0.write_cells(td, d.1)),
    );
    // SAFETY: four slices of four different buffers; `ticket` is borrowed for their life, so it
    // gives out no others meanwhile.
    unsafe { (&mut *slices.0, &mut *slices.1, &mut *slices.2, &mut *slices.3) }
}

/// Where the tokens of a step go in a page: batch token `token + i` to slot `slot + i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// First token of the batch that the page takes.
    pub token: usize,
    /// The slot it goes to.
    pub slot: usize,
    /// Number of tokens.
    pub n: usize,
}

/// Where pages of the KV cache get their memory: large pieces, in huge pages where the system has
/// them, so that reading a long context does not miss the table of addresses at every page.
#[derive(Default)]
pub struct PageSpace {
    /// What is left of the newest piece: its first address and number of bytes.
    rest: Option<(NonNull<u8>, usize)>,
    piece: Option<Arc<memmap2::MmapMut>>,
}

// SAFETY: the address is of memory that the space owns, and that nobody else has got yet.
unsafe impl Send for PageSpace {}
// SAFETY: without `&mut` it can only be looked at.
unsafe impl Sync for PageSpace {}

impl PageSpace {
    /// Bytes of a piece. Only what is used becomes resident, 2 MiB at a time.
    const PIECE_BYTES: usize = 32 << 20;
    /// A cache line: pages share none.
    const ALIGN: usize = 64;

    /// Memory for `n` elements that nobody else has, and what keeps it.
    fn take<T: Copy + Default>(&mut self, n: usize) -> (NonNull<T>, Arc<memmap2::MmapMut>) {
        let layout = Layout::array::<T>(n).expect("a page is smaller than memory");
        assert!(layout.align() <= PageSpace::ALIGN, "elements are numbers");
        let bytes = layout.size().next_multiple_of(PageSpace::ALIGN);
        let (address, left) = match self.rest {
            Some(rest) if bytes <= rest.1 => rest,
            _ => self.start_piece(bytes.max(PageSpace::PIECE_BYTES), layout),
        };
        // SAFETY: a piece has `left >= bytes` from `address` on.
        self.rest = Some((unsafe { address.add(bytes) }, left - bytes));
        let start = address.cast::<T>();
        for i in 0..n {
            // SAFETY: inside of those bytes, which nobody else has; pieces begin at a page of
            // memory and shrink by multiples of `ALIGN`, so the address suits `T`.
            unsafe { start.add(i).write(T::default()) };
        }
        (start, self.piece.clone().expect("the rest is of a piece"))
    }

    fn start_piece(&mut self, bytes: usize, layout: Layout) -> (NonNull<u8>, usize) {
        let Ok(mut map) = memmap2::MmapMut::map_anon(bytes) else {
            std::alloc::handle_alloc_error(layout);
        };
        // A hint: without huge pages it is only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = NonNull::from(&mut map[..]).cast();
        self.piece = Some(Arc::new(map));
        (start, bytes)
    }
}

/// The keys or the values of one page of the KV cache: `[heads][slots][width]` if a slot is a row,
/// `[heads][width][slots]` if it is a lane. The tokens of a step write it, each its own slot, in a
/// phase whose items are the batch's tokens.
pub struct SlotMemory<T> {
    mode: Mode,
    slots: usize,
    width: usize,
    fill: Fill,
    start: NonNull<T>,
    len: usize,
    /// Whose the memory is.
    _piece: Arc<memmap2::MmapMut>,
}

// SAFETY: access from several threads goes through `Mode::claim` and tickets, as each method says.
unsafe impl<T: Send + Sync> Sync for SlotMemory<T> {}
// SAFETY: it owns its elements.
unsafe impl<T: Send> Send for SlotMemory<T> {}

impl<T: Copy + Default> SlotMemory<T> {
    /// Default values.
    pub fn new(space: &mut PageSpace, heads: usize, slots: usize, width: usize) -> SlotMemory<T> {
        let len = heads * slots * width;
        let (start, _piece) = space.take(len);
        let mode = Mode(AtomicU64::new(0));
        SlotMemory { mode, slots, width, fill: Fill::default(), start, len, _piece }
    }

    /// Elements of a head in a slot.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Says which tokens of the coming step the page takes, and where.
    pub fn set_fill(&mut self, fill: Fill) {
        assert!(fill.slot + fill.n <= self.slots, "the page holds its tokens");
        self.fill = fill;
    }

    /// Exclusive access outside of jobs.
    pub fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: the page's own memory, borrowed with the page.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The whole page, read-only for this phase.
    #[inline]
    pub fn read<'p>(&'p self, phase: &'p Phase<'_>) -> &'p [T] {
        self.mode.claim(phase.id, READ, 0);
        // SAFETY: the page's own memory; in this phase every claim on it is for reading.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The row of head `head` of batch token `token`; `None` if the token goes to another page.
    #[inline]
    pub fn write_slot<'t>(
        &'t self,
        ticket: &'t mut Ticket<'_>,
        token: usize,
        head: usize,
    ) -> Option<&'t mut [T]> {
        let slot = self.claim(ticket, token, SLOTS_AS_ROWS)?;
        let start = (head * self.slots + slot) * self.width;
        assert!(start + self.width <= self.len, "the head is in the page");
        // SAFETY: in bounds. All claims of this phase are for slot rows, a token's slot is its own
        // (`set_fill` checked the range, and needs `&mut self`), no other ticket of the phase has
        // this token, and the ticket is borrowed mutably for the slice's life.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(start), self.width) })
    }

    /// Stores the numbers `x` of head `head` of batch token `token` in a page that is laid out
    /// `[heads][width][slots]`; `None` if the token goes to another page.
    #[inline]
    pub fn write_lane(
        &self,
        ticket: &mut Ticket<'_>,
        token: usize,
        head: usize,
        x: &[T],
    ) -> Option<()> {
        let slot = self.claim(ticket, token, SLOTS_AS_LANES)?;
        let start = head * self.width * self.slots + slot;
        assert!(x.len() <= self.width, "the numbers of one head");
        assert!((head + 1) * self.width * self.slots <= self.len, "the head is in the page");
        for (i, &x) in x.iter().enumerate() {
            // SAFETY: in bounds, as `slot < slots` and `i < width`. All claims of this phase are
            // for lanes, a token's slot is its own (see `write_slot`), and no reference is made.
            unsafe { self.start.add(start + i * self.slots).write(x) };
        }
        Some(())
    }

    /// The slot of a token of the ticket.
    #[inline]
    fn claim(&self, ticket: &Ticket<'_>, token: usize, layout: usize) -> Option<usize> {
        let Fill { token: first, slot, n } = self.fill;
        assert!(ticket.items().contains(&token));
        if !(first..first + n).contains(&token) {
            return None;
        }
        self.mode.claim(ticket.phase_id, SLOTS, layout);
        Some(slot + token - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_cover_every_item_once_for_any_team() {
        for n_threads in [1, 2, 4, 7] {
            let pool = Pool::new(n_threads).unwrap();
            let hits: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
            pool.lead(|leader| {
                for _ in 0..50 {
                    leader.run(&|worker| {
                        for _ in 0..4 {
                            worker.phase(|phase| {
                                for ticket in phase.tickets(1000, 7) {
                                    for i in ticket.items() {
                                        hits[i].fetch_add(1, Ordering::Relaxed);
                                    }
                                }
                            });
                        }
                    });
                }
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 200));
        }
    }

    #[test]
    fn a_crowd_finishes_and_shrinks_to_the_cpus() {
        let cpus = std::thread::available_parallelism().unwrap().get();
        let pool = Pool::new(4 * cpus + 1).unwrap();
        let hits = AtomicUsize::new(0);
        let mut n_jobs = 0;
        pool.lead(|leader| {
            assert_eq!(leader.n_threads(), 4 * cpus + 1);
            while n_jobs < 1000 || leader.n_threads() > cpus {
                n_jobs += 1;
                leader.run(&|worker| {
                    assert!(worker.index() < worker.n_threads());
                    for _ in 0..4 {
                        worker.phase(|phase| {
                            let mine = phase.tickets(20, 1).count();
                            hits.fetch_add(mine, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(hits.load(Ordering::Relaxed), 80 * n_jobs);
    }

    #[test]
    fn stalls_shed_workers_and_quiet_calls_them_back() {
        let mut pace = Pace::new(8, 8);
        let mut now = Instant::now();
        let mut step = |pace: &mut Pace, stalled_ms: u64| {
            now += WINDOW;
            pace.note(now, WINDOW, Duration::from_millis(stalled_ms));
            pace.n_active
        };
        let busy: Vec<usize> = (0..7).map(|_| step(&mut pace, 150)).collect();
        assert_eq!(busy, [6, 5, 4, 3, 2, 1, 1]);
        let quiet = |pace: &mut Pace, step: &mut dyn FnMut(&mut Pace, u64) -> usize| {
            (1..1000).find(|_| step(pace, 0) == 8).unwrap()
        };
        let slow = quiet(&mut pace, &mut step);
        assert!(slow as u32 * WINDOW >= RETRY[1], "it was sent away often: {slow}");
        assert!((0..1000).all(|_| step(&mut pace, 0) == 8));
        assert_eq!(step(&mut pace, 150), 6);
        let fast = quiet(&mut pace, &mut step);
        assert!(fast as u32 * WINDOW <= 2 * RETRY[0], "it was sent away once: {fast}");
    }

    #[test]
    fn more_workers_than_cpus_are_for_a_moment_only() {
        let mut pace = Pace::new(8, 2);
        pace.note(Instant::now(), WINDOW, Duration::ZERO);
        assert_eq!(pace.n_active, 2);
        pace.note(Instant::now(), WINDOW, Duration::ZERO);
        assert_eq!(pace.n_active, 2);
    }

    #[test]
    fn phases_see_what_the_phase_before_wrote() {
        let pool = Pool::new(3).unwrap();
        let buffer = Shared::<u32>::new(4, 30);
        pool.lead(|leader| {
            leader.run(&|worker| {
                for round in 1..100 {
                    worker.phase(|phase| {
                        for mut ticket in phase.tickets(30, 4) {
                            let columns = ticket.items();
                            for row in 0..4 {
                                buffer.write_columns(&mut ticket, row, columns.clone()).fill(round);
                            }
                        }
                    });
                    worker.phase(|phase| {
                        assert!(buffer.read(phase).iter().all(|&x| x == round));
                    });
                }
            });
        });
    }

    #[test]
    fn cells_are_the_tickets_own() {
        let pool = Pool::new(2).unwrap();
        let mut buffer = Shared::<usize>::new(5, 12);
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    for mut ticket in phase.tickets(15, 1) {
                        let item = ticket.items().start;
                        buffer.write_cells(&mut ticket, 4).fill(item);
                    }
                });
            });
        });
        assert!(buffer.get_mut().iter().enumerate().all(|(i, &x)| x == i / 4));
    }

    #[test]
    #[should_panic(expected = "two ways within one phase")]
    fn reading_and_writing_in_one_phase_is_refused() {
        let pool = Pool::new(1).unwrap();
        let buffer = Shared::<u8>::new(1, 8);
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    let _ = buffer.read(phase);
                    for mut ticket in phase.tickets(8, 8) {
                        buffer.write_columns(&mut ticket, 0, 0..8).fill(1);
                    }
                });
            });
        });
    }

    #[test]
    #[should_panic(expected = "phases do not nest")]
    fn a_phase_inside_a_phase_is_refused() {
        let pool = Pool::new(1).unwrap();
        pool.lead(|leader| leader.run(&|worker| worker.phase(|_| worker.phase(|_| ()))));
    }

    #[test]
    #[should_panic]
    fn a_panic_in_one_worker_reaches_the_caller() {
        let pool = Pool::new(3).unwrap();
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|_| assert!(worker.index() != 2, "one of three"));
                worker.phase(|_| ());
            });
        });
    }

    #[test]
    fn slots_follow_the_fill() {
        let pool = Pool::new(2).unwrap();
        let mut page = SlotMemory::<f32>::new(&mut PageSpace::default(), 2, 8, 4);
        page.set_fill(Fill { token: 2, slot: 5, n: 3 });
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    for mut ticket in phase.tickets(6, 1) {
                        let token = ticket.items().start;
                        for (head, sign) in [1.0, -1.0].into_iter().enumerate() {
                            let row = page.write_slot(&mut ticket, token, head);
                            assert_eq!(row.is_some(), (2..5).contains(&token));
                            row.unwrap_or_default().fill(sign * token as f32);
                        }
                    }
                });
            });
        });
        let data = page.get_mut();
        assert_eq!(data[5 * 4..8 * 4], [2., 2., 2., 2., 3., 3., 3., 3., 4., 4., 4., 4.]);
        assert_eq!(data[32 + 7 * 4..], [-4.; 4]);
        assert_eq!(data[..5 * 4], [0.; 20]);
    }
    #[test]
    fn lanes_follow_the_fill() {
        let pool = Pool::new(2).unwrap();
        let mut page = SlotMemory::<f32>::new(&mut PageSpace::default(), 2, 8, 3);
        page.set_fill(Fill { token: 1, slot: 6, n: 2 });
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| {
                    for mut ticket in phase.tickets(4, 1) {
                        let token = ticket.items().start;
                        for head in 0..2 {
                            let x = [1.0, 2.0, 3.0].map(|x| x + (10 * token + 100 * head) as f32);
                            let written = page.write_lane(&mut ticket, token, head, &x);
                            assert_eq!(written.is_some(), (1..3).contains(&token));
                        }
                    }
                });
            });
        });
        let data = page.get_mut();
        let lane = |slot: usize| data[slot..].iter().step_by(8).copied().collect::<Vec<_>>();
        assert_eq!(lane(6), [11., 12., 13., 111., 112., 113.]);
        assert_eq!(lane(7), [21., 22., 23., 121., 122., 123.]);
        assert!((0..6).all(|slot| lane(slot).iter().all(|&x| x == 0.0)));
    }
}
