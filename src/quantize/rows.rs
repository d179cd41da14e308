//! Rows, dealt out to threads: parts of tensors become the bytes of their new types.
//!
//! A thread takes some rows, widens them to f32, checks that all are finite, quantizes, and reads the
//! result back to see what was lost. Threads go on with the next tensors while parts are written, which
//! is done by the one that started them, in the order of the file; they are a few parts ahead of it at
//! most. Sums of errors are kept for each part and added in their order, so that they do not depend on
//! who took what.

use super::error::QuantizeError;
use super::plan::Options;
use super::planned::Planned;
use crate::receipt::Loss;
use crate::tensor::memory::reserve;
use gguf_rs_lite::GgufFile;
use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use teff_kernels::TypeKernels;

/// Elements of a part, about: what is computed between two looks at whether to stop, less than a tenth
/// of a second for the slowest types. Rows are taken one by one, and stay in a thread's cache.
const PART_ELEMENTS: u64 = 128 << 10;

/// Parts for each thread that may be under way or wait to be written.
const PARTS_PER_THREAD: usize = 4;

/// Bytes of the input that are given back to the system at a time.
const RELEASE_BYTES: usize = 4 << 20;

/// Progress of a file that is written.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The tensor.
    pub tensor: &'a Planned<'a>,
    /// Its number in the file.
    pub number: usize,
    /// Rows of it that are done.
    pub rows: u64,
    /// Loss so far.
    pub loss: Loss,
    /// Elements that are done, of all tensors that are not copied.
    pub done: u64,
    /// Elements that there are.
    pub total: u64,
}

/// Takes the bytes of a part, the rows of its tensor done so far and what they lost.
type WriteFn<'a> = dyn FnMut(&[u8], u64, Loss) -> Result<(), QuantizeError> + 'a;

/// Calls `write` with the rows of `tensors`, which threads quantize meanwhile.
pub(super) fn quantize<'a, T>(
    file: &'a GgufFile,
    tensors: impl Iterator<Item = &'a Planned<'a>>,
    options: &'a Options,
    write: impl FnOnce(&mut Rows<'_>) -> Result<T, QuantizeError>,
) -> Result<T, QuantizeError> {
    let works: Vec<Work<'_>> =
        tensors.map(|tensor| Work::new(file, tensor, options)).collect::<Result<_, _>>()?;
    let parts = works.iter().map(Work::parts).sum::<usize>();
    let n_threads = options.threads.clamp(1, parts.max(1));
    let (jobs, queue) = channel();
    let (done, results) = channel();
    let (queue, stop) = (Mutex::new(queue), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let mut rows = Rows {
            file,
            works: &works,
            jobs,
            results,
            ahead: VecDeque::new(),
            ahead_max: PARTS_PER_THREAD * n_threads,
            spare: Vec::new(),
            next: (0, 0),
            tensor: 0,
            written: 0,
            stop: &stop,
        };
        for _ in 0..n_threads {
            let (works, queue, stop, done) = (&works[..], &queue, &stop, done.clone());
            let thread = std::thread::Builder::new().name("teff-quantize".into());
            thread
                .spawn_scoped(scope, move || work(works, queue, &done, stop))
                .map_err(QuantizeError::Threads)?;
        }
        drop(done);
        write(&mut rows)
    })
}

/// Some rows of a tensor, and memory for their blocks.
struct Job {
    work: usize,
    rows: Range<u64>,
    out: Vec<u8>,
    /// Place among all parts of the file.
    number: usize,
}

/// A part that was computed, what it lost or why it failed.
struct Done {
    job: Job,
    result: Result<Result<Loss, QuantizeError>, Box<dyn Any + Send>>,
}

/// What a thread does: part after part until there is none.
fn work(works: &[Work<'_>], queue: &Mutex<Receiver<Job>>, done: &Sender<Done>, stop: &AtomicBool) {
    let mut buffers = Buffers::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut job) = next else { break };
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let work = &works[job.work];
        // Whoever waits for this part has to be told.
        let result = catch_unwind(AssertUnwindSafe(|| {
            work.part(job.rows.clone(), &mut job.out, &mut buffers)
        }));
        if done.send(Done { job, result }).is_err() {
            break;
        }
    }
}

/// The rows of tensors in the order of the file.
pub(super) struct Rows<'a> {
    file: &'a GgufFile,
    works: &'a [Work<'a>],
    jobs: Sender<Job>,
    results: Receiver<Done>,
    /// Parts that were handed out and not written, in their order, as far as they are computed.
    ahead: VecDeque<Option<Done>>,
    ahead_max: usize,
    /// Memory of parts that were written.
    spare: Vec<Vec<u8>>,
    /// Tensor and row that the next job begins with.
    next: (usize, u64),
    /// Tensors that were written.
    tensor: usize,
    /// Parts that were written.
    written: usize,
    stop: &'a AtomicBool,
}

impl Rows<'_> {
    /// Hands over the bytes of the next tensor, part by part.
    pub(super) fn tensor(&mut self, write: &mut WriteFn<'_>) -> Result<Loss, QuantizeError> {
        let work = &self.works[self.tensor];
        let info = work.tensor.info;
        let (mut loss, mut row, mut released) = (Loss::default(), 0, 0);
        while row < info.rows() {
            let Done { job, result } = self.part()?;
            assert!((job.work, job.rows.start) == (self.tensor, row), "parts in their order");
            let part = result.unwrap_or_else(|panic| resume_unwind(panic));
            loss.add(part?);
            if !loss.error2.is_finite() {
                let (name, ty) = (info.name.clone(), work.tensor.ty);
                return Err(QuantizeError::TooLarge { name, ty });
            }
            row = job.rows.end;
            let read = row as usize * work.old_row_bytes;
            if read - released >= RELEASE_BYTES || row == info.rows() {
                self.file.release(info, released..read);
                released = read;
            }
            write(&job.out, row, loss)?;
            self.spare.push(job.out);
        }
        self.tensor += 1;
        Ok(loss)
    }

    /// The next part of the file, once it is computed.
    fn part(&mut self) -> Result<Done, QuantizeError> {
        loop {
            self.hand_out()?;
            if let Some(Some(_)) = self.ahead.front() {
                self.written += 1;
                return Ok(self.ahead.pop_front().flatten().expect("looked at just now"));
            }
            let done = self.results.recv().expect("threads end when they are told to");
            let at = done.job.number - self.written;
            self.ahead[at] = Some(done);
        }
    }

    /// Hands out parts as far ahead as may be.
    fn hand_out(&mut self) -> Result<(), QuantizeError> {
        while self.ahead.len() < self.ahead_max {
            let (at, row) = self.next;
            let Some(work) = self.works.get(at) else { break };
            if row == 0 {
                self.file.check_uncut()?;
            }
            let all = work.tensor.info.rows();
            let rows = row..all.min(row + work.part_rows);
            self.next = if rows.end == all { (at + 1, 0) } else { (at, rows.end) };
            let mut out = self.spare.pop().unwrap_or_default();
            let bytes = (rows.end - rows.start) as usize * work.new_row_bytes;
            out.truncate(bytes);
            reserve(&mut out, bytes, "quantized rows")?;
            out.resize(bytes, 0);
            let number = self.written + self.ahead.len();
            self.ahead.push_back(None);
            let job = Job { work: at, rows, out, number };
            self.jobs.send(job).expect("the queue lives as long as this");
        }
        Ok(())
    }
}

/// The threads end, however the writing did.
impl Drop for Rows<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What threads know of a tensor.
struct Work<'a> {
    tensor: &'a Planned<'a>,
    /// The rows as they are.
    data: &'a [u8],
    old: &'a TypeKernels,
    new: &'a TypeKernels,
    old_row_bytes: usize,
    new_row_bytes: usize,
    /// Rows that a thread takes.
    part_rows: u64,
}

impl<'a> Work<'a> {
    fn new(
        file: &'a GgufFile,
        tensor: &'a Planned<'a>,
        options: &'a Options,
    ) -> Result<Work<'a>, QuantizeError> {
        let name = || tensor.info.name.clone();
        let old = options.kernels.types(tensor.info.ty);
        let old =
            old.ok_or_else(|| QuantizeError::CannotRead { name: name(), ty: tensor.info.ty })?;
        let (ty, method) = (tensor.ty, tensor.method.name);
        let new = options.kernels.types(ty);
        let new = new.ok_or_else(|| QuantizeError::NoMethod { name: name(), ty, method })?;
        let cols = tensor.info.cols();
        let rows = tensor.info.rows() as usize;
        Ok(Work {
            tensor,
            data: file.data(tensor.info),
            old,
            new,
            old_row_bytes: tensor.info.bytes as usize / rows,
            new_row_bytes: tensor.bytes as usize / rows,
            part_rows: (PART_ELEMENTS / cols).max(1),
        })
    }

    fn parts(&self) -> usize {
        self.tensor.info.rows().div_ceil(self.part_rows) as usize
    }

    /// Quantizes rows into `out`; returns what they lost.
    fn part(
        &self,
        rows: Range<u64>,
        out: &mut [u8],
        buffers: &mut Buffers,
    ) -> Result<Loss, QuantizeError> {
        if let Some(ready) = &self.tensor.ready {
            let start = rows.start as usize * self.new_row_bytes;
            out.copy_from_slice(&ready.weight.bytes()[start..start + out.len()]);
            // The whole of it is known.
            return Ok(if rows.start == 0 { ready.loss } else { Loss::default() });
        }
        let cols = self.tensor.info.cols() as usize;
        buffers.resize(cols)?;
        let Buffers { x, y } = buffers;
        let rows_of_matrix = self.tensor.info.dims.get(1).copied().unwrap_or(1);
        let mut grid = self.tensor.rows_of_grid(self.new)?;
        let mut loss = Loss::default();
        for (row, out) in rows.zip(out.chunks_exact_mut(self.new_row_bytes)) {
            let at = row as usize * self.old_row_bytes;
            let old = &self.data[at..at + self.old_row_bytes];
            self.old.dequantize(old, x);
            check_finite(&self.tensor.info.name, row, x)?;
            let importance = self.tensor.importance((row / rows_of_matrix) as usize);
            let row = self.tensor.row(self.new, grid.as_mut(), (x, old), importance, out, y)?;
            loss.add(row);
        }
        Ok(loss)
    }
}

/// A row before and after.
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Buffers {
    fn resize(&mut self, cols: usize) -> Result<(), QuantizeError> {
        for buffer in [&mut self.x, &mut self.y] {
            reserve(buffer, cols, "a row of weights")?;
            buffer.resize(cols, 0.0);
        }
        Ok(())
    }
}

/// Notices NaN and infinity.
pub(crate) fn check_finite(name: &str, row: u64, x: &[f32]) -> Result<(), QuantizeError> {
    // A sum of products with zero is zero unless one of them is not finite.
    if x.chunks(64).all(|x| x.iter().map(|x| x * 0.0).sum::<f32>() == 0.0) {
        return Ok(());
    }
    let column = x.iter().position(|x| !x.is_finite()).unwrap_or(0) as u64;
    Err(QuantizeError::NotFinite { name: name.to_owned(), row, column })
}
