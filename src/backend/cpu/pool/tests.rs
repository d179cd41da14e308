//! The pool as a whole. Under miri the loops are shorter and the threads not rayon's.

use super::*;
use crate::workers::Workers;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const FEW: usize = if cfg!(miri) { 3 } else { 50 };

/// Message of what `f` panics with.
fn panic_of<R>(f: impl FnOnce() -> R) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).err().expect("it panics");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).expect("a message")
}

/// Sleeps long enough for other threads to reach what they can reach.
fn pause() {
    std::thread::sleep(Duration::from_millis(if cfg!(miri) { 1 } else { 5 }));
}

/// Two phases that write a buffer and check it, as one job.
fn check_job(leader: &Leader<'_>, buffer: &Shared<u32>, value: u32) {
    leader.run(&|worker| {
        worker.phase(|phase| {
            for mut ticket in phase.tickets(buffer.width(), 1) {
                buffer.write_cells(&mut ticket, 1).fill(value);
            }
        });
        worker.phase(|phase| assert!(buffer.read(phase).iter().all(|&x| x == value)));
    });
}

#[test]
fn tickets_cover_every_item_once_for_any_team() {
    for n_threads in [1, 2, 4, 7] {
        let pool = Pool::new(n_threads).unwrap();
        let hits: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        pool.lead(|leader| {
            for _ in 0..FEW {
                leader.run(&|worker| {
                    for _ in 0..4 {
                        worker.phase(|phase| {
                            for ticket in phase.tickets(100, 7) {
                                for i in ticket.items() {
                                    hits[i].fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        });
                    }
                });
            }
        });
        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 4 * FEW));
    }
}

#[test]
fn workers_share_calls_of_a_function() {
    for n_threads in [1, 3] {
        let hits: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        let call = |i: usize| _ = hits[i].fetch_add(1, Ordering::Relaxed);
        let leaves = |i: usize| assert!(i != 2, "call {i} leaves");
        Pool::new(n_threads).unwrap().lead(|leader| {
            for n in [0, 1, 2, 100] {
                leader.each(n, &call);
            }
            assert_eq!(panic_of(|| leader.each(5, &leaves)), "call 2 leaves");
            leader.each(100, &call);
        });
        let hits: Vec<usize> = hits.into_iter().map(AtomicUsize::into_inner).collect();
        assert_eq!((hits[0], hits[1], &hits[2..]), (4, 3, &[2; 98][..]));
    }
}

#[test]
fn a_worker_begins_with_its_own_share() {
    let pool = Pool::new(2).unwrap();
    pool.lead(|leader| {
        leader.run(&|worker| {
            for n_items in 1..2 * FEW {
                worker.phase(|phase| {
                    let first = phase.tickets(n_items, 3).next();
                    let own = worker.share(n_items, 3).start;
                    assert!(first.is_none_or(|t| t.items().start == own || n_items <= 3));
                });
            }
        });
    });
}

#[cfg(not(miri))] // miri's clock runs by steps of the program
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
#[should_panic(expected = "phases do not nest")]
fn a_phase_inside_a_phase_is_refused() {
    let pool = Pool::new(1).unwrap();
    pool.lead(|leader| leader.run(&|worker| worker.phase(|_| worker.phase(|_| ()))));
}

#[test]
#[should_panic(expected = "too many items")]
fn a_deal_that_would_look_like_none_is_refused() {
    let pool = Pool::new(1).unwrap();
    pool.lead(|leader| {
        leader.run(&|worker| {
            worker.phase(|phase| assert_eq!(phase.tickets(usize::MAX, 1).count(), 0))
        });
    });
}

#[test]
fn workers_must_ask_for_one_deal() {
    let pool = Pool::new(2).unwrap();
    let error = panic_of(|| {
        pool.lead(|leader| {
            leader.run(&|worker| {
                worker.phase(|phase| assert!(phase.tickets(5 + worker.index(), 1).count() <= 6));
            });
        });
    });
    assert_eq!(error, "workers asked for different deals");
}

// ------------------------------------------------------------ a buffer belongs to one pool

#[test]
fn a_buffer_of_one_pool_is_refused_to_another() {
    let (reads, writes) = (Pool::new(1).unwrap(), Pool::new(1).unwrap());
    let mut buffer = Shared::<u32>::new("a test", 1, 8).unwrap();
    let write = |leader: &Leader<'_>| check_job(leader, &buffer, 7);
    reads.lead(|leader| {
        leader.run(&|worker| {
            worker.phase(|phase| {
                let seen = buffer.read(phase);
                let error = panic_of(|| writes.lead(write));
                assert!(error.contains(" uses a buffer of pool "), "{error}");
                assert_eq!(seen, [0; 8], "what this phase holds has not changed");
            });
        });
    });
    let error = panic_of(|| writes.lead(write));
    assert!(error.contains(" uses a buffer of pool "), "also when the other is done: {error}");
    buffer.get_mut().fill(1);
    writes.lead(|leader| check_job(leader, &buffer, 7));
    assert_eq!(buffer.get_mut(), [7; 8]);
}

#[test]
fn two_pools_race_for_a_buffer_and_one_gets_it() {
    for _ in 0..FEW {
        let mut buffer = Shared::<u32>::new("a test", 1, 8).unwrap();
        let won = [AtomicBool::new(false), AtomicBool::new(false)];
        std::thread::scope(|scope| {
            for won in &won {
                let buffer = &buffer;
                scope.spawn(move || {
                    let pool = Pool::new(2).unwrap();
                    let job = || pool.lead(|leader| check_job(leader, buffer, 7));
                    let done = catch_unwind(AssertUnwindSafe(job)).is_ok();
                    won.store(done, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(won.map(AtomicBool::into_inner).iter().filter(|&&won| won).count(), 1);
        assert_eq!(buffer.get_mut(), [7; 8]);
    }
}

#[test]
fn a_pool_is_led_by_one_at_a_time() {
    let pool = Pool::new(2).unwrap();
    let leading = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                pool.lead(|leader| {
                    assert_eq!(leading.fetch_add(1, Ordering::Relaxed), 0);
                    leader.run(&|worker| worker.phase(|_| ()));
                    leading.fetch_sub(1, Ordering::Relaxed);
                });
            });
        }
    });
    let error = panic_of(|| pool.lead(|_| pool.lead(|_| ())));
    assert_eq!(error, "a worker gathers the workers of its own pool");
    pool.lead(|leader| leader.run(&|_| ()));
}

// ------------------------------------------------------- no job outlives what it borrows

/// Runs a job on `pool` that ends in a panic, where every worker looks at a local of the leader's
/// until it leaves. Returns the message.
fn break_job(pool: &Pool, buffer: &Shared<u32>, job: impl Fn(&Worker<'_>, usize) + Sync) -> String {
    pool.lead(|leader| {
        let error = panic_of(|| {
            let local = vec![7_u8; 1000];
            let (done, n_started) = (AtomicUsize::new(0), AtomicUsize::new(0));
            /// Looks at what the job borrows when its worker unwinds.
            struct Looks<'a>(&'a [u8], &'a AtomicUsize);
            impl Drop for Looks<'_> {
                fn drop(&mut self) {
                    pause();
                    assert!(self.0.len() == 1000 && self.0.iter().all(|&x| x == 7));
                    self.1.fetch_add(1, Ordering::Relaxed);
                }
            }
            /// Says whether the leader frees its locals too soon.
            struct Frees<'a>(&'a AtomicUsize, &'a AtomicUsize);
            impl Drop for Frees<'_> {
                fn drop(&mut self) {
                    let [done, started] = [self.0, self.1].map(|n| n.load(Ordering::Relaxed));
                    assert_eq!(done, started, "a worker is still in the job");
                }
            }
            let _frees = Frees(&done, &n_started);
            leader.run(&|worker| {
                n_started.fetch_add(1, Ordering::Relaxed);
                let _looks = Looks(&local, &done);
                worker.phase(|phase| {
                    for mut ticket in phase.tickets(buffer.width(), 1) {
                        buffer.write_cells(&mut ticket, 1).fill(1);
                        job(worker, ticket.items().start);
                    }
                });
                job(worker, usize::MAX);
                worker.phase(|_| ());
            });
        });
        // The same team goes on.
        for value in 0..FEW as u32 {
            check_job(leader, buffer, value);
        }
        error
    })
}

#[test]
fn a_panic_frees_nothing_that_others_read_and_the_pool_goes_on() {
    for n_threads in 1..=4 {
        let pool = Pool::new(n_threads).unwrap();
        let mut buffer = Shared::<u32>::new("a test", 1, 16).unwrap();
        for index in 0..n_threads {
            let in_phase = |worker: &Worker<'_>, item| {
                assert!(item == usize::MAX || worker.index() != index, "in the phase");
                pause();
            };
            // Another worker may have taken all items before this one came.
            let between = |worker: &Worker<'_>, item| {
                assert!(item != usize::MAX || worker.index() != index, "between phases");
            };
            let both = |worker: &Worker<'_>, item| {
                between(worker, item);
                in_phase(worker, item);
            };
            assert_eq!(break_job(&pool, &buffer, between), "between phases");
            let error = break_job(&pool, &buffer, both);
            assert!(["in the phase", "between phases"].contains(&&*error), "{error}");
        }
        let all = |_: &Worker<'_>, _| panic!("all of them");
        assert_eq!(break_job(&pool, &buffer, all), "all of them");
        // Another team of the same pool.
        pool.lead(|leader| check_job(leader, &buffer, 5));
        assert_eq!(buffer.get_mut(), [5; 16]);
    }
}

#[test]
fn the_payload_of_a_panic_reaches_the_caller() {
    #[derive(Debug, PartialEq)]
    struct Payload(u32);
    let pool = Pool::new(3).unwrap();
    for index in 0..3 {
        let job = |worker: &Worker<'_>| {
            if worker.index() == index {
                panic_any(Payload(5));
            }
            worker.phase(|_| ());
        };
        let lead = AssertUnwindSafe(|| pool.lead(|leader| leader.run(&job)));
        let payload = catch_unwind(lead).unwrap_err();
        assert_eq!(payload.downcast_ref::<Payload>(), Some(&Payload(5)));
    }
}

#[test]
fn a_leader_that_panics_between_jobs_sends_the_workers_home() {
    for n_threads in 1..=4 {
        let pool = Pool::new(n_threads).unwrap();
        let buffer = Shared::<u32>::new("a test", 1, 16).unwrap();
        let error = panic_of(|| {
            pool.lead(|leader| {
                check_job(leader, &buffer, 1);
                panic!("between jobs");
            })
        });
        assert_eq!(error, "between jobs");
        pool.lead(|leader| check_job(leader, &buffer, 2));
    }
}

#[test]
fn a_caught_panic_of_a_phase_lets_nobody_into_the_next() {
    let pool = Pool::new(2).unwrap();
    let error = panic_of(|| {
        pool.lead(|leader| {
            leader.run(&|worker| {
                let phase = || worker.phase(|_| assert!(worker.index() > 0, "first of two"));
                let _ = catch_unwind(AssertUnwindSafe(phase));
                worker.phase(|_| ());
            });
        });
    });
    assert_eq!(error, "phases do not nest");
    pool.lead(|leader| leader.run(&|worker| worker.phase(|_| ())));
}

// ---------------------------------------------------------------- phases in equal number

#[test]
fn uneven_phases_are_told_and_nobody_is_left_in_the_job() {
    for n_threads in 2..=4 {
        let pool = Pool::new(n_threads).unwrap();
        let buffer = Shared::<u32>::new("a test", 1, 16).unwrap();
        for odd_one in 0..n_threads {
            for (most, fewest) in [(1, 0), (2, 1), (3, 1), (0, 1), (1, 2)] {
                let inside = AtomicUsize::new(0);
                pool.lead(|leader| {
                    let error = panic_of(|| {
                        let local = vec![7_u8; 1000];
                        leader.run(&|worker| {
                            /// Counts down, also when unwinding.
                            struct Inside<'a>(&'a AtomicUsize);
                            impl Drop for Inside<'_> {
                                fn drop(&mut self) {
                                    self.0.fetch_sub(1, Ordering::Relaxed);
                                }
                            }
                            inside.fetch_add(1, Ordering::Relaxed);
                            let _inside = Inside(&inside);
                            let n = if worker.index() == odd_one { most } else { fewest };
                            for _ in 0..n {
                                worker.phase(|_| assert!(local.iter().all(|&x| x == 7)));
                                assert!(local.iter().all(|&x| x == 7));
                            }
                        });
                    });
                    assert_eq!(error, worker::UNEVEN);
                    assert_eq!(inside.load(Ordering::Relaxed), 0);
                    check_job(leader, &buffer, odd_one as u32);
                });
            }
        }
    }
}
