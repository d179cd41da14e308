//! The seam between the decoder and whatever computes its steps.

use super::observer::Observer;
use super::offload::Offload;
use super::pages::{CacheOp, PageFill, PageId, StateSlot};
use super::program::{Buf, Program};
use crate::tensor::memory::{NoThreads, OutOfMemory};
use crate::workers::Workers;
use std::fmt;
use std::iter::{Take, Zip};
use std::ops::Range;
use std::slice::ChunksExactMut;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use teff_kernels::{BlockMax, MAX_BLOCK};

/// Input of a step: a batch of tokens of one or more sequences, those of a sequence side by side
/// and in order.
#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// Position of each token in its sequence.
    pub positions: &'a [u32],
    /// Index into `tables` and `states` for each token, ascending.
    pub sequence: &'a [u32],
    /// Pages of each sequence: `[group][position / PAGE_TOKENS]`, `None` where the layers have
    /// forgotten.
    pub tables: &'a [&'a [Vec<Option<PageId>>]],
    /// States of each sequence, if the program has any; all different.
    pub states: &'a [StateSlot],
    /// Pages that the tokens' keys and values go to: every token once in each group.
    pub fills: &'a [PageFill],
    /// Batch indices of the tokens whose results are wanted, ascending.
    pub outputs: &'a [u32],
    /// Whether the maxima of the logits' blocks are wanted too.
    pub maxima: bool,
}

/// Error of a backend that could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// Worker threads could not be started.
    Threads(std::io::Error),
    /// The system has no memory for the buffers.
    Memory(OutOfMemory),
    /// A device beside the CPUs is not to be had.
    Device(DeviceError),
}

/// Error of a device beside the CPUs: it refused something, or is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceError {
    /// Name of the device.
    pub device: String,
    /// Fault of the device, in words.
    pub fault: String,
}

impl DeviceError {
    /// The error of a device.
    pub fn new(device: &str, fault: String) -> DeviceError {
        DeviceError { device: device.to_owned(), fault }
    }

    /// The same, at a part of the program.
    #[must_use]
    pub fn at(self, part: impl fmt::Display) -> DeviceError {
        DeviceError { fault: format!("{part}: {}", self.fault), ..self }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device, self.fault)
    }
}

impl std::error::Error for DeviceError {}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Threads(error) => NoThreads(error).fmt(f),
            StartError::Memory(error) => error.fmt(f),
            StartError::Device(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> StartError {
        StartError::Threads(error)
    }
}

impl From<DeviceError> for StartError {
    fn from(error: DeviceError) -> StartError {
        StartError::Device(error)
    }
}

impl From<OutOfMemory> for StartError {
    fn from(error: OutOfMemory) -> StartError {
        StartError::Memory(error)
    }
}

/// Error of a step that ended early. Pages that it was to fill and states that it was to change hold anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// The caller's flag was set.
    Cancelled,
    /// The system had no memory for what the step computes on the way.
    Memory(OutOfMemory),
    /// A device beside the CPUs is lost, or refused something.
    Device(DeviceError),
    /// The same, and the CPUs have taken its part over, from the next step on: all pages and states hold
    /// anything.
    Moved(DeviceError),
}

impl From<DeviceError> for Unfinished {
    fn from(error: DeviceError) -> Unfinished {
        Unfinished::Device(error)
    }
}

impl From<OutOfMemory> for Unfinished {
    fn from(error: OutOfMemory) -> Unfinished {
        Unfinished::Memory(error)
    }
}

/// Results of a step.
#[derive(Debug)]
pub struct Results<'a> {
    /// Rows in the order of [`StepInput::outputs`], `[max outputs][n_out]`.
    pub rows: &'a mut [f32],
    /// Maxima of each row's blocks of [`MAX_BLOCK`] elements, `[max outputs][blocks]`, if the step
    /// was to give them.
    pub maxima: &'a mut [f32],
    /// Length of a row.
    pub n_out: usize,
    /// Threads that are idle until the next step.
    pub workers: &'a dyn Workers,
}

impl<'a> Results<'a> {
    /// The first `n` rows with the maxima of their blocks.
    pub fn with_maxima(self, n: usize) -> LogitRows<'a> {
        let rows = self.rows.chunks_exact_mut(self.n_out);
        let maxima = self.maxima.chunks_exact_mut(self.n_out.div_ceil(MAX_BLOCK));
        LogitRows { rows: rows.zip(maxima).take(n), workers: self.workers }
    }
}

/// Rows of logits that a step gave, with the maxima of their blocks.
#[derive(Debug)]
pub struct LogitRows<'a> {
    rows: Take<Zip<ChunksExactMut<'a, f32>, ChunksExactMut<'a, f32>>>,
    workers: &'a dyn Workers,
}

impl<'a> LogitRows<'a> {
    /// Threads that are idle until the next step.
    pub fn workers(&self) -> &'a dyn Workers {
        self.workers
    }
}

impl<'a> Iterator for LogitRows<'a> {
    type Item = BlockMax<'a>;

    fn next(&mut self) -> Option<BlockMax<'a>> {
        self.rows.next().map(|(row, maxima)| BlockMax::new(row, maxima))
    }
}

/// Traffic between the CPU and a device beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Submissions of operations.
    pub submissions: u64,
    /// Bytes of steps' inputs and of rows that went to the device.
    pub bytes_there: u64,
    /// Bytes of rows and of results that came back.
    pub bytes_back: u64,
}

/// A program with the memory and the device to run it.
pub trait Backend: Send {
    /// The program.
    fn program(&self) -> &Arc<Program>;

    /// Tokens that fit one step.
    fn max_tokens(&self) -> usize;

    /// Rows of results that one step can give.
    fn max_outputs(&self) -> usize;

    /// Workers that share a step.
    fn n_threads(&self) -> usize;

    /// Bytes that the steps so far sent to a device beside the CPUs, and got back.
    fn transfers(&self) -> Transfers {
        Transfers::default()
    }

    /// Bytes per second that a device beside the CPUs copies from one place of its memory to another, counted
    /// once where they are read and once where they are written; `None`: there is no device, or it fails.
    fn copy_bandwidth(&self) -> Option<f64> {
        None
    }

    /// Parts of the program with their places; `None`: all of it is on the CPUs.
    fn offload(&self) -> Option<Offload> {
        None
    }

    /// Keeps in memory what the backend made of the weights.
    ///
    /// # Errors
    /// More than the process may lock.
    fn lock_weights(&self) -> std::io::Result<()>;

    /// Calls `f` once, with the workers gathered for as many steps as it makes.
    fn lead(&mut self, f: &mut (dyn FnMut(&mut dyn Executor) + Send));
}

/// A backend whose workers are gathered.
pub trait Executor {
    /// Changes the memory of pages and states, in this order, and makes what the step is to fill.
    ///
    /// # Errors
    /// The system has no memory for that, or a device is lost. Pages and states that were named as
    /// destinations hold anything then, all others what they held.
    fn prepare(&mut self, ops: &[CacheOp], input: &StepInput<'_>) -> Result<(), Unfinished>;

    /// Runs operations `ops` of the program for a batch. The ranges of a step come in ascending
    /// order and cover the program, on one executor or on several in turn.
    ///
    /// `cancel` is looked at about once in each layer; when it is set, all workers leave the range.
    /// An `observer` sees the inputs of the range's products; none costs nothing.
    ///
    /// # Errors
    /// [`Unfinished::Cancelled`] if the flag was seen in time; [`Unfinished::Memory`].
    ///
    /// # Panics
    /// If the batch is larger than the backend was made for, or a token id is no row of the
    /// embedding.
    fn run(
        &mut self,
        ops: Range<usize>,
        input: &StepInput<'_>,
        cancel: Option<&AtomicBool>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<(), Unfinished>;

    /// Appends rows of a buffer, of the batch's first `n` tokens, as the ranges of the step so far have
    /// left them.
    ///
    /// # Errors
    /// A device is lost.
    fn read_rows(&mut self, buf: Buf, n: usize, rows: &mut Vec<f32>) -> Result<(), Unfinished>;

    /// Makes a buffer hold rows of the batch's first tokens, for the ranges of the step to come.
    ///
    /// # Errors
    /// A device is lost.
    fn write_rows(&mut self, buf: Buf, rows: &[f32]) -> Result<(), Unfinished>;

    /// Appends what a page holds of its first `n` tokens to `out`, and zeros for the others: layer
    /// by layer of the group the keys, `[kv heads][k_dim][PAGE_TOKENS]`, then the values,
    /// `[kv heads][PAGE_TOKENS][v_dim]`. Numbers are little-endian; of the quantized types, the bytes
    /// of codes come before the scales, each in this order. So the bytes are the same on every
    /// machine, [`LayerGroup::page_bytes`](super::pages::LayerGroup::page_bytes) of them.
    ///
    /// # Errors
    /// A device is lost.
    fn read_page(
        &mut self,
        group: usize,
        page: PageId,
        n: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfinished>;

    /// Makes a page hold what [`Executor::read_page`] gave.
    ///
    /// # Errors
    /// The system has no memory for the page, or a device is lost.
    ///
    /// # Panics
    /// If these are not the bytes of a page.
    fn write_page(&mut self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), Unfinished>;

    /// Appends the states of a slot to `out`, one after the other, in little-endian f32. The order
    /// within a state is the backend's, whatever the machine.
    fn read_states(&mut self, slot: StateSlot, out: &mut Vec<u8>);

    /// Makes a slot hold what [`Executor::read_states`] gave.
    ///
    /// # Errors
    /// The system has no memory for the slot.
    ///
    /// # Panics
    /// If these are not the bytes of a slot.
    fn write_states(&mut self, slot: StateSlot, bytes: &[u8]) -> Result<(), Unfinished>;

    /// Results of the last step that ran to the end of the program.
    fn results(&mut self) -> Results<'_>;

    /// Bytes of weights that decoding has repacked so far, and that it will have in the end.
    fn repacked_bytes(&self) -> [usize; 2];
}
