//! Threads of a pool: rayon's, or under miri the standard library's, because rayon leaves threads
//! behind that miri would wait for.

#[cfg(not(miri))]
use crate::tensor::memory;

#[cfg(not(miri))]
pub(super) struct Threads(rayon::ThreadPool);

#[cfg(not(miri))]
impl Threads {
    /// Starts `n` threads.
    ///
    /// # Errors
    /// The system has no more threads, or no memory for them.
    pub fn start(n: usize) -> std::io::Result<Threads> {
        let bytes = n.saturating_mul(memory::THREAD_BYTES);
        memory::check_room("the stacks of worker threads", bytes)?;
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .thread_name(|i| format!("teff-{i}"))
            .build()
            .map(Threads)
            .map_err(std::io::Error::other)
    }

    /// Runs `f` on every thread at the same time, with the thread's index.
    pub fn broadcast<R: Send>(&self, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
        self.0.broadcast(|context| f(context.index()))
    }
}

#[cfg(miri)]
pub(super) struct Threads(usize);

#[cfg(miri)]
impl Threads {
    /// Remembers to start `n` threads.
    pub fn start(n: usize) -> std::io::Result<Threads> {
        Ok(Threads(n))
    }

    /// Runs `f` on every thread at the same time, with the thread's index.
    pub fn broadcast<R: Send>(&self, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
        let f = &f;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.0).map(|i| scope.spawn(move || f(i))).collect();
            let ended: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            let passed_on = |result: std::thread::Result<R>| {
                result.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
            };
            ended.into_iter().map(passed_on).collect()
        })
    }
}
