//! The CPU's worker threads, and the only memory they share for writing.
//!
//! Rayon's fork/join costs 10 to 30 microseconds, a token of a small model has some two hundred
//! regions: so there is one `broadcast` per generate call, and inside it the workers walk the step
//! together, phase by phase, with a barrier between phases (spin, then park).
//!
//! Memory is what decoding waits for, so it shall not be idle. Each worker has a share of a phase's
//! items, in one stretch: memory streams better that way, and its prefetchers are right about what
//! comes next. And while a worker spins at a barrier, it asks for what it will read after it.
//!
//! A barrier waits for the slowest worker, and the slowest one is whoever the system has put aside
//! for another program: two threads beside two busy programs can be slower than one. So the leader
//! watches how long its workers wait for each other, sends some to the bench while the machine is
//! busy, and calls them back when it is not (see `Pace`). What is computed does not depend on it.
//!
//! What a phase may touch is checked, so that everything above this room is safe code: within one
//! phase a [`Shared`] buffer is either read by all workers or written by all of them, and a writer
//! reaches only the part that its [`Ticket`] owns. Tickets of a phase never overlap, and both
//! borrow from the [`Phase`], which ends at the barrier. The check is one relaxed load.

mod shared;
mod slots;

pub use shared::{Shared, write_cells_of_four};
pub use slots::{Fill, PageSpace, SlotMemory};

use super::topology::{CpuSet, pin_this_thread};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use teff_kernels::{Ahead, FloatOps};

/// Rounds of spinning at a barrier, about 100 microseconds: longer than a phase of a small model
/// is uneven, shorter than a time slice. Then the thread parks: one that yields instead gives its
/// time slices away and is not called when the barrier opens.
const SPINS: u32 = 8_000;
/// Cache lines that a worker asks for in a round of spinning: about as fast as memory delivers.
const LINES_PER_SPIN: usize = 4;
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
                ahead: Cell::new(None),
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
    /// Completed barriers: what waiting workers look at all the time.
    epoch: Line<AtomicU64>,
    /// Where workers wait for a barrier or the next job.
    room: Room,
    /// Where workers wait for a job that needs them again.
    bench: Room,
    /// Nanoseconds that workers have slept at barriers.
    slept_ns: AtomicU64,
    /// A worker panicked: everybody leaves. Waiting workers look at it all the time.
    poisoned: Line<AtomicBool>,
    /// The current phase's number.
    phase: AtomicU64,
    /// Next ticket of each worker's share of the items, in phases that begin at an even epoch and
    /// in those that begin at an odd one.
    next_ticket: Vec<Line<[AtomicUsize; 2]>>,
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

/// Keeps what some workers write often away from what others read: two lines of 64 bytes, as CPUs
/// fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

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
            epoch: Line::default(),
            room: Room::default(),
            bench: Room::default(),
            slept_ns: AtomicU64::new(0),
            poisoned: Line::default(),
            phase: AtomicU64::new(0),
            next_ticket: (0..n).map(|_| Line::default()).collect(),
            deal: [const { AtomicUsize::new(0) }; 3],
            job: UnsafeCell::new(None),
        }
    }

    /// Tells `n_active` workers to do what is in `job`.
    fn announce(&self, n_active: usize) {
        self.open_phase();
        // Nobody draws tickets between jobs, and workers on the bench do not rewind theirs.
        for next in self.next_ticket.iter().flat_map(|line| &line.0) {
            next.store(0, Ordering::Relaxed);
        }
        let last = JobWord::unpack(self.job_word.load(Ordering::Relaxed));
        let word = JobWord { number: last.number + 1, n_active };
        self.job_word.store(word.pack(), Ordering::SeqCst);
        self.room.wake_all();
        if n_active > last.n_active {
            self.bench.wake_all();
        }
    }

    /// Waits for a job after number `last` that the worker is to do.
    fn next_job(&self, last: u64, worker: &Worker<'_>) -> JobWord {
        let word = || JobWord::unpack(self.job_word.load(Ordering::SeqCst));
        // The time between jobs is the leader's own and does not count.
        self.wait(worker, || word().number != last);
        if word().n_active <= worker.index {
            self.bench.sleep_until(|| word().n_active > worker.index || self.is_poisoned());
            self.check_poison();
        }
        word()
    }

    /// The worker waits for all of its job; the last to arrive opens a new phase.
    fn barrier(&self, worker: &Worker<'_>) {
        let epoch = self.epoch.0.load(Ordering::Acquire);
        // For the next phase; the one before this, which used it last, has ended for everybody.
        self.next_ticket[worker.index].0[parity(epoch + 1)].store(0, Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == worker.n_threads() {
            self.open_phase();
            self.arrived.store(0, Ordering::Relaxed);
            self.epoch.0.store(epoch + 1, Ordering::SeqCst);
            self.room.wake_all();
            return;
        }
        let slept = self.wait(worker, || self.epoch.0.load(Ordering::SeqCst) != epoch);
        if !slept.is_zero() {
            self.slept_ns.fetch_add(slept.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// Waits in the room, and says for how long it slept. Panics if another worker has.
    fn wait(&self, worker: &Worker<'_>, passed: impl Fn() -> bool) -> Duration {
        let passed = || passed() || self.is_poisoned();
        let spins = if worker.n_threads() > self.cpus { 0 } else { SPINS };
        let mut slept = Duration::ZERO;
        if !(0..spins).any(|_| {
            worker.ask_ahead();
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
        self.deal.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned.0.load(Ordering::SeqCst)
    }

    fn check_poison(&self) {
        assert!(!self.is_poisoned(), "another worker panicked");
    }
}

/// Time in jobs that is judged at once: a lone hiccup of some milliseconds is little of it.
const WINDOW: Duration = Duration::from_millis(100);
/// A share of the workers' time that is worth fewer of them, if it is slept at barriers. Short sleeps
/// count as well: they are all there is to see of two workers that the system put on one CPU.
const SLEPT_SHARE_MAX: f64 = 0.2;
/// Of so many workers one leaves at a time, at least one.
const SHED_SHARE: usize = 4;
/// A worker who had to leave is called back after this time, and after twice as long if that was
/// too early, up to the latter.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(4)];

/// How many workers the jobs get.
struct Pace {
    n_active: usize,
    n_max: usize,
    /// Time in jobs since the last judgement, and what the workers slept of it, all together.
    time: Duration,
    slept: Duration,
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
            slept: Duration::ZERO,
            retry_at: None,
            retry_after: RETRY[0],
        }
    }

    /// Takes note of a job that ended `now` after `elapsed`, and judges.
    fn note(&mut self, now: Instant, elapsed: Duration, slept: Duration) {
        self.time += elapsed;
        self.slept += slept;
        if self.time < WINDOW {
            return;
        }
        let workers_time = self.time.as_secs_f64() * self.n_active as f64;
        let share = self.slept.as_secs_f64() / workers_time;
        (self.time, self.slept) = (Duration::ZERO, Duration::ZERO);
        if self.n_active > self.n_max {
            self.n_active = self.n_max;
        } else if share > SLEPT_SHARE_MAX && self.n_active > 1 {
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

/// Which of a worker's two counters of tickets belongs to the phase that begins at this epoch.
fn parity(epoch: u64) -> usize {
    (epoch % 2) as usize
}

fn new_phase() -> u64 {
    let phase = NEXT_PHASE.fetch_add(1, Ordering::Relaxed);
    assert!(phase < 1 << shared::PHASE_BITS, "phase numbers are used up");
    phase
}

/// Releases the other workers from their barriers when one of them unwinds.
struct PoisonOnPanic<'a>(&'a Team);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.0.store(true, Ordering::SeqCst);
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
        team.barrier(&self.worker);
        let slept = Duration::from_nanos(team.slept_ns.swap(0, Ordering::Relaxed));
        let now = Instant::now();
        self.pace.borrow_mut().note(now, now - start, slept);
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
    /// What a coming phase reads, see [`Worker::expect`].
    ahead: Cell<Option<(&'static FloatOps, Ahead)>>,
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

    /// The items that are this worker's own of `phase.tickets(n_items, chunk)`.
    pub fn share(&self, n_items: usize, chunk: usize) -> Range<usize> {
        share(n_items, chunk, self.index, self.n_threads())
    }

    /// Says what this worker reads in one of the coming phases: it asks for that while it waits for
    /// others, when memory is idle.
    pub fn expect(&self, ops: &'static FloatOps, ahead: Ahead) {
        self.ahead.set(Some((ops, ahead)));
    }

    /// Asks for some more of what is expected.
    fn ask_ahead(&self) {
        if let Some((ops, mut ahead)) = self.ahead.get() {
            ops.prefetch_ahead(ahead.split_off(LINES_PER_SPIN));
            self.ahead.set(Some((ops, ahead)));
        }
    }

    /// Runs one phase: all workers enter it, share its tickets, and leave it together.
    ///
    /// # Panics
    /// Inside another phase: its tickets would outlive the barrier at which they end.
    pub fn phase(&self, f: impl FnOnce(&Phase<'_>)) {
        assert!(!self.busy.replace(true), "phases do not nest");
        f(&Phase {
            worker: self,
            parity: parity(self.team.epoch.0.load(Ordering::Relaxed)),
            id: self.team.phase.load(Ordering::Relaxed),
            dealt: Cell::new(false),
        });
        self.busy.set(false);
        self.team.barrier(self);
    }

    fn follow(&self) {
        let mut last = 0;
        loop {
            let JobWord { number, n_active } = self.team.next_job(last, self);
            last = number;
            self.n_active.set(n_active);
            // SAFETY: the leader wrote the field before it announced this job, and writes it again
            // only after the barrier that ends the job, which waits for this worker.
            let Some(job) = (unsafe { *self.team.job.get() }) else { return };
            // SAFETY: the leader keeps the job borrowed until the barrier below.
            unsafe { (*job)(self) };
            self.team.barrier(self);
        }
    }
}

/// The stretch of a job between two barriers.
pub struct Phase<'p> {
    worker: &'p Worker<'p>,
    /// Which counters of tickets belong to it.
    parity: usize,
    id: u64,
    dealt: Cell<bool>,
}

impl Phase<'_> {
    /// The work items `0..n_items` in runs of `chunk`. Each worker has a share of them, see
    /// [`Worker::share`], and takes it in ascending order, so that it reads memory in one stream;
    /// then it helps the others. All workers must ask for the same deal, once a phase.
    pub fn tickets(&self, n_items: usize, chunk: usize) -> Tickets<'_> {
        self.tickets_of(0..n_items, chunk)
    }

    /// As [`Phase::tickets`] with other items than those from 0 on.
    pub fn tickets_of(&self, items: Range<usize>, chunk: usize) -> Tickets<'_> {
        assert!(!self.dealt.replace(true), "a phase deals its tickets once");
        let chunk = chunk.max(1);
        let deal = &self.worker.team.deal;
        for (slot, mine) in deal.iter().zip([items.start, items.end, chunk]) {
            let first = slot.compare_exchange(0, mine + 1, Ordering::Relaxed, Ordering::Relaxed);
            assert!(first.is_ok() || first == Err(mine + 1), "workers asked for different deals");
        }
        Tickets { phase: self, items, chunk, n_empty: 0 }
    }
}

/// The chunks of `0..n_items` that worker `index` of `n` takes before it helps others, as items.
fn share(n_items: usize, chunk: usize, index: usize, n: usize) -> Range<usize> {
    let n_chunks = n_items.div_ceil(chunk);
    let start = |i: usize| n_items.min((n_chunks / n * i + n_chunks % n * i / n) * chunk);
    start(index)..start(index + 1)
}

/// Iterator over the tickets that this worker draws.
pub struct Tickets<'p> {
    phase: &'p Phase<'p>,
    items: Range<usize>,
    chunk: usize,
    /// Shares without a ticket left, from this worker's own on.
    n_empty: usize,
}

impl<'p> Iterator for Tickets<'p> {
    type Item = Ticket<'p>;

    fn next(&mut self) -> Option<Ticket<'p>> {
        let Phase { worker, parity, id, .. } = *self.phase;
        let n = worker.n_threads();
        while self.n_empty < n {
            let index = (worker.index + self.n_empty) % n;
            let share = share(self.items.len(), self.chunk, index, n);
            let next = &worker.team.next_ticket[index].0[parity];
            let drawn = next.fetch_add(1, Ordering::Relaxed);
            if drawn < share.len().div_ceil(self.chunk) {
                let start = share.start + drawn * self.chunk;
                let end = share.end.min(start + self.chunk);
                let items = self.items.start + start..self.items.start + end;
                return Some(Ticket { phase_id: id, items, life: PhantomData });
            }
            self.n_empty += 1;
        }
        None
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
    fn shares_are_whole_chunks_of_all_items_in_order() {
        for (n_items, chunk) in [(0, 1), (1, 1), (5, 7), (49, 7), (50, 7), (1000, 16)] {
            for n in [1, 2, 3, 16] {
                let mut end = 0;
                for index in 0..n {
                    let share = share(n_items, chunk, index, n);
                    assert_eq!(share.start, end);
                    assert!(share.end == n_items || share.end.is_multiple_of(chunk));
                    assert!(share.len().div_ceil(chunk) <= n_items.div_ceil(chunk).div_ceil(n));
                    end = share.end;
                }
                assert_eq!(end, n_items);
            }
        }
    }

    #[test]
    fn a_worker_begins_with_its_own_share() {
        let pool = Pool::new(2).unwrap();
        pool.lead(|leader| {
            leader.run(&|worker| {
                for n_items in 1..100 {
                    worker.phase(|phase| {
                        let first = phase.tickets(n_items, 3).next();
                        let own = worker.share(n_items, 3).start;
                        assert!(first.is_none_or(|t| t.items().start == own || n_items <= 3));
                    });
                }
            });
        });
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
    fn sleep_sheds_workers_and_quiet_calls_them_back() {
        let mut pace = Pace::new(8, 8);
        let mut now = Instant::now();
        let mut step = |pace: &mut Pace, slept: u32| {
            now += WINDOW;
            pace.note(now, WINDOW, slept * WINDOW);
            pace.n_active
        };
        let busy: Vec<usize> = (0..7).map(|_| step(&mut pace, 3)).collect();
        assert_eq!(busy, [6, 5, 4, 3, 2, 1, 1]);
        let quiet = |pace: &mut Pace, step: &mut dyn FnMut(&mut Pace, u32) -> usize| {
            (1..1000).find(|_| step(pace, 0) == 8).unwrap()
        };
        let slow = quiet(&mut pace, &mut step);
        assert!(slow as u32 * WINDOW >= RETRY[1], "it was sent away often: {slow}");
        assert!((0..1000).all(|_| step(&mut pace, 0) == 8));
        assert_eq!(step(&mut pace, 3), 6);
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
}
