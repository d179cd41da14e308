//! The pool's barrier and hand-over under loom: every interleaving of two threads, some of three,
//! and every value that the memory model lets them see.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --package teff-loom --target-dir target/loom`
//!
//! Data that the workers share is in loom's cells, which fail on an access that no barrier orders.
//! Threads sleep instead of spinning: to loom, a round of spinning is one more thread switch.
#![cfg(all(test, loom))]
#![allow(dead_code, reason = "the pool uses all of it")]

#[path = "../../src/backend/cpu/pool/barrier.rs"]
mod barrier;
#[path = "../../src/backend/cpu/pool/handover.rs"]
mod handover;
#[path = "../../src/backend/cpu/pool/sync.rs"]
mod sync;
#[path = "../../src/backend/cpu/pool/wait_queue.rs"]
mod wait_queue;

use barrier::{Barrier, Broken};
use handover::Handover;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// Workers of every model.
const N: usize = 2;
/// Thread switches that loom forces within one execution, besides those at waits. More find
/// nothing that fewer do not, in practice, and take hours.
const PREEMPTIONS_MAX: usize = 3;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(model);
}

/// Number that is read and written without synchronization of its own.
struct Data(UnsafeCell<u32>);

// SAFETY: loom checks every access.
unsafe impl Sync for Data {}
// SAFETY: it is a number.
unsafe impl Send for Data {}

impl Data {
    fn new() -> Data {
        Data(UnsafeCell::new(0))
    }

    fn get(&self) -> u32 {
        // SAFETY: loom fails if somebody writes at the same time.
        self.0.with(|x| unsafe { *x })
    }

    fn set(&self, value: u32) {
        // SAFETY: loom fails if somebody reads or writes at the same time.
        self.0.with_mut(|x| unsafe { *x = value });
    }
}

/// What the model's workers share, as `Team` does.
struct Team {
    barrier: Barrier,
    handover: Handover<Job>,
}

/// A job that the leader lends: what it borrows, and how the follower does it.
struct Job {
    borrowed: Data,
    run: fn(&Team, &Job) -> Result<(), Broken>,
}

impl Team {
    fn new() -> Arc<Team> {
        Arc::new(Team { barrier: Barrier::new(), handover: Handover::new(N) })
    }

    fn end_phase(&self) -> Result<(), Broken> {
        self.barrier.pass(N, 0, || (), || ()).map(drop)
    }

    /// Does jobs until it is sent home.
    fn follow(&self, index: usize) {
        let mut last = 0;
        loop {
            let handed = self.handover.next(index, last, 0, || ());
            last = handed.number;
            if handed.job.is_null() {
                return;
            }
            // SAFETY: the leader keeps the job until this worker has left it; if it did not, loom
            // would find the write of `lend` at its end.
            let job = unsafe { &*handed.job };
            let _ = (job.run)(self, job);
            self.barrier.leave(handed.n_active);
        }
    }

    /// Lends a job to `n_active` workers, does the leader's part, and takes the job back.
    fn lend(
        &self,
        n_active: usize,
        run: fn(&Team, &Job) -> Result<(), Broken>,
        lead: impl Fn(&Job) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let job = Job { borrowed: Data::new(), run };
        self.handover.announce(&job, n_active);
        let _ = lead(&job);
        self.barrier.leave(n_active);
        self.barrier.wait_for_all_to_leave(n_active, 0, || ());
        // As if the stack frame were used for something else.
        job.borrowed.set(u32::MAX);
        self.barrier.mend()
    }
}

/// Leader and one follower.
fn with_follower(lead: impl Fn(&Team)) {
    let team = Team::new();
    let follower = thread::spawn({
        let team = team.clone();
        move || team.follow(1)
    });
    lead(&team);
    team.handover.announce(std::ptr::null(), N);
    follower.join().unwrap();
}

#[test]
fn a_phase_sees_what_the_phase_before_wrote() {
    check(|| {
        with_follower(|team| {
            let done = team.lend(
                N,
                |team, job| {
                    job.borrowed.set(1);
                    team.end_phase()?;
                    assert_eq!(job.borrowed.get(), 1);
                    team.end_phase()?;
                    job.borrowed.set(2);
                    Ok(())
                },
                |job| {
                    team.end_phase()?;
                    assert_eq!(job.borrowed.get(), 1);
                    team.end_phase()
                },
            );
            assert_eq!(done, Ok(()));
        });
    });
}

#[test]
fn jobs_follow_each_other() {
    check(|| {
        with_follower(|team| {
            for _ in 0..2 {
                let run = |team: &Team, job: &Job| {
                    job.borrowed.set(1);
                    team.end_phase()
                };
                let lead = |job: &Job| {
                    team.end_phase()?;
                    assert_eq!(job.borrowed.get(), 1);
                    Ok(())
                };
                assert_eq!(team.lend(N, run, lead), Ok(()));
            }
        });
    });
}

#[test]
fn a_parked_worker_is_called_back() {
    check(|| {
        with_follower(|team| {
            assert_eq!(team.lend(1, |_, _| unreachable!("it is parked"), |_| Ok(())), Ok(()));
            let run = |team: &Team, job: &Job| {
                job.borrowed.set(1);
                team.end_phase()
            };
            assert_eq!(team.lend(N, run, |_| team.end_phase()), Ok(()));
            assert_eq!(team.lend(1, |_, _| unreachable!("it is parked"), |_| Ok(())), Ok(()));
        });
    });
}

#[test]
fn one_phase_more_breaks_the_barrier() {
    check(|| {
        with_follower(|team| {
            let uneven = team.lend(
                N,
                |team, job| {
                    team.end_phase()?;
                    let end = team.end_phase();
                    assert_eq!(end, Err(Broken::Uneven));
                    job.borrowed.set(1);
                    end
                },
                |_| team.end_phase(),
            );
            assert_eq!(uneven, Err(Broken::Uneven));
        });
    });
}

#[test]
fn one_phase_less_breaks_the_barrier_and_the_next_job_is_right() {
    check(|| {
        with_follower(|team| {
            let run = |_: &Team, job: &Job| {
                job.borrowed.set(1);
                Ok(())
            };
            let lead = |_: &Job| {
                let end = team.end_phase();
                assert_eq!(end, Err(Broken::Uneven));
                end
            };
            assert_eq!(team.lend(N, run, lead), Err(Broken::Uneven));
            assert_eq!(team.lend(N, |team, _| team.end_phase(), |_| team.end_phase()), Ok(()));
        });
    });
}

#[test]
fn a_panic_lets_the_others_out_and_the_next_job_is_right() {
    check(|| {
        with_follower(|team| {
            let run = |team: &Team, job: &Job| {
                job.borrowed.set(1);
                team.barrier.break_down(Broken::Panicked);
                Err(Broken::Panicked)
            };
            let lead = |_: &Job| {
                let end = team.end_phase();
                assert_eq!(end, Err(Broken::Panicked));
                end
            };
            assert_eq!(team.lend(N, run, lead), Err(Broken::Panicked));
            assert_eq!(team.lend(N, |team, _| team.end_phase(), |_| team.end_phase()), Ok(()));
        });
    });
}

#[test]
fn a_panic_of_the_leader_waits_for_the_follower() {
    check(|| {
        with_follower(|team| {
            let run = |team: &Team, job: &Job| {
                job.borrowed.set(1);
                let end = team.end_phase();
                assert_eq!(end, Err(Broken::Panicked));
                assert_eq!(job.borrowed.get(), 1);
                end
            };
            let lead = |_: &Job| {
                team.barrier.break_down(Broken::Panicked);
                Err(Broken::Panicked)
            };
            assert_eq!(team.lend(N, run, lead), Err(Broken::Panicked));
        });
    });
}

/// Three workers without a hand-over: one waits for the end of a phase, one leaves without it, one
/// panics. Whoever is first, the next job starts with a barrier that works.
#[test]
fn a_late_discovery_does_not_break_the_next_job() {
    check(|| {
        let barrier = Arc::new(Barrier::new());
        let [waits, leaves] = [true, false].map(|waits| {
            let barrier = barrier.clone();
            thread::spawn(move || {
                if waits {
                    assert!(barrier.pass(3, 0, || (), || ()).is_err());
                }
                barrier.leave(3);
            })
        });
        barrier.break_down(Broken::Panicked);
        barrier.leave(3);
        barrier.wait_for_all_to_leave(3, 0, || ());
        assert!(barrier.mend().is_err());
        waits.join().unwrap();
        leaves.join().unwrap();
        assert_eq!(barrier.mend(), Ok(()), "nothing is left of the job before");
    });
}
