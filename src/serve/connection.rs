//! A connection's deadlines: for a request's head, for silence between requests, for an unread answer.

use super::limits::Limits;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Watch over a connection: what it has been doing since when.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    start: Instant,
    /// Requests that have begun and not ended.
    n_requests: AtomicUsize,
    /// Whether bytes of a head have come.
    has_head: AtomicBool,
    /// When the connection became idle, or its head began.
    since: AtomicU64,
    /// When writing stopped going on; 0: it goes on.
    blocked: AtomicU64,
}

/// Verdict: what is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Fine,
    /// It is closed.
    Close,
}

impl Watch {
    /// A connection that is new.
    pub fn new(limits: Limits) -> Watch {
        Watch {
            limits,
            start: Instant::now(),
            n_requests: AtomicUsize::new(0),
            has_head: AtomicBool::new(false),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Takes note that a request's head is whole.
    pub fn begin_request(&self) {
        self.n_requests.fetch_add(1, Ordering::AcqRel);
        self.has_head.store(false, Ordering::Release);
    }

    /// Takes note that a request's answer has been told.
    pub fn end_request(&self) {
        self.since.store(self.now(), Ordering::Release);
        self.n_requests.fetch_sub(1, Ordering::AcqRel);
    }

    /// The verdict on the connection now.
    pub fn verdict(&self) -> Verdict {
        let Limits { head_time, idle_time, write_time, .. } = self.limits;
        let now = Duration::from_millis(self.now());
        let millis = |at: &AtomicU64| Duration::from_millis(at.load(Ordering::Acquire));
        let blocked = millis(&self.blocked);
        let is_stuck = !blocked.is_zero() && now.saturating_sub(blocked) > write_time;
        let waited = now.saturating_sub(millis(&self.since));
        let is_late = match self.n_requests.load(Ordering::Acquire) {
            0 if self.has_head.load(Ordering::Acquire) => waited > head_time,
            // A connection that never sent anything is no better than a slow one.
            0 if self.since.load(Ordering::Acquire) == 0 => waited > head_time,
            0 => waited > idle_time,
            _ => false,
        };
        if is_stuck || is_late { Verdict::Close } else { Verdict::Fine }
    }

    fn has_read(&self) {
        if self.n_requests.load(Ordering::Acquire) == 0
            && !self.has_head.swap(true, Ordering::AcqRel)
        {
            self.since.store(self.now().max(1), Ordering::Release);
        }
    }

    fn has_written(&self, is_pending: bool) {
        match is_pending {
            false => self.blocked.store(0, Ordering::Release),
            true if self.blocked.load(Ordering::Acquire) == 0 => {
                self.blocked.store(self.now().max(1), Ordering::Release);
            }
            true => {}
        }
    }
}

/// A socket that tells its watch what it does.
pub struct Watched {
    stream: TcpStream,
    watch: Arc<Watch>,
}

impl Watched {
    /// A socket with its watch.
    pub fn new(stream: TcpStream, watch: Arc<Watch>) -> Watched {
        Watched { stream, watch }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.watch.has_read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch.has_written(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch.has_written(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
