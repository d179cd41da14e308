//! Number of workers that jobs get.
//!
//! A barrier waits for the slowest worker, and the slowest one is whoever the system has put aside
//! for another program: two threads beside two busy programs can be slower than one. So the leader
//! watches how long its workers sleep at barriers, parks some while the machine is busy, and calls
//! them back when it is not. What is computed does not depend on it.

use std::time::{Duration, Instant};

/// Time in jobs that is judged at once: a lone hiccup of some milliseconds is little of it.
const WINDOW: Duration = Duration::from_millis(100);
/// Share of the workers' time that is worth fewer of them, if it is slept at barriers. Short sleeps
/// count as well: they are all there is to see of two workers that the system put on one CPU.
const SLEPT_SHARE_MAX: f64 = 0.2;
/// Divisor of the workers parked at a time: one of so many, at least one.
const SHED_SHARE: usize = 4;
/// Time after which a parked worker is called back, and twice as long if that was too early, up to
/// the latter.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(4)];

/// Number of workers that the next job gets, and what it is judged by.
pub(super) struct TeamSize {
    n_active: usize,
    n_max: usize,
    /// Time in jobs since the last judgement, and what the workers slept of it, all together.
    time: Duration,
    slept: Duration,
    /// When to have one more.
    retry_at: Option<Instant>,
    retry_after: Duration,
}

impl TeamSize {
    /// All `n` workers, and soon no more than `cpus`.
    pub fn new(n: usize, cpus: usize) -> TeamSize {
        TeamSize {
            n_active: n,
            n_max: n.min(cpus),
            time: Duration::ZERO,
            slept: Duration::ZERO,
            retry_at: None,
            retry_after: RETRY[0],
        }
    }

    /// Number of workers of the next job.
    pub fn n_active(&self) -> usize {
        self.n_active
    }

    /// Takes note of a job that ended `now` after `elapsed`, and judges.
    pub fn note(&mut self, now: Instant, elapsed: Duration, slept: Duration) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_sheds_workers_and_quiet_calls_them_back() {
        let mut size = TeamSize::new(8, 8);
        let mut now = Instant::now();
        let mut step = |size: &mut TeamSize, slept: u32| {
            now += WINDOW;
            size.note(now, WINDOW, slept * WINDOW);
            size.n_active
        };
        let busy: Vec<usize> = (0..7).map(|_| step(&mut size, 3)).collect();
        assert_eq!(busy, [6, 5, 4, 3, 2, 1, 1]);
        let quiet = |size: &mut TeamSize, step: &mut dyn FnMut(&mut TeamSize, u32) -> usize| {
            (1..1000).find(|_| step(size, 0) == 8).unwrap()
        };
        let slow = quiet(&mut size, &mut step);
        assert!(slow as u32 * WINDOW >= RETRY[1], "it was sent away often: {slow}");
        assert!((0..1000).all(|_| step(&mut size, 0) == 8));
        assert_eq!(step(&mut size, 3), 6);
        let fast = quiet(&mut size, &mut step);
        assert!(fast as u32 * WINDOW <= 2 * RETRY[0], "it was sent away once: {fast}");
    }

    #[test]
    fn more_workers_than_cpus_are_for_a_moment_only() {
        let mut size = TeamSize::new(8, 2);
        size.note(Instant::now(), WINDOW, Duration::ZERO);
        assert_eq!(size.n_active, 2);
        size.note(Instant::now(), WINDOW, Duration::ZERO);
        assert_eq!(size.n_active, 2);
    }
}
