//! The HTTP server: APIs that clients know, in front of an engine that answers many at a time.
//!
//! Connections live on two threads of their own, the engine on its; neither waits for the other. A request
//! goes through the gate (`gate`: ids, keys, hosts), a route (`routes`), an API's file, which makes a
//! `generate::Wish` of it, and from there on is the same for all APIs: `generate` makes it ready on a
//! thread that may block and follows its answers, `stream` tells them while they come. What is refused is
//! a `fault::Fault`, which the gate writes down in the API's shape.
//!
//! [`Local`] answers the same requests without a server, for bindings to other languages.
//!
//! **Nothing waits for a client.** Answers that nobody reads are cancelled, and so is all that a client who
//! has left was waiting for: the answers are dropped with the connection.

mod anthropic;
mod app;
mod body;
mod connection;
mod encoder;
mod fault;
mod fields;
mod gate;
mod generate;
mod limits;
mod listen;
mod loaded;
mod local;
mod metrics;
mod native;
mod ollama;
mod openai;
mod page;
mod prefixes;
mod record;
mod registry;
mod reply;
mod responses;
mod routes;
mod stream;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "otlp")]
mod traces;
mod translate;

pub use app::{Log, ServeOptions};
pub use limits::Limits;
pub use listen::{Server, ServerHandle};
pub use loaded::{Loaded, ModelOptions};
pub use local::{Local, LocalAnswer, LocalError, LocalEvent, LocalOptions};
pub use registry::{Loader, Offer};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError};
#[cfg(feature = "otlp")]
pub use traces::{Traces, TracesError};

use fault::Fault;
use record::Record;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Does work on a thread that may block.
///
/// # Errors
/// Those of the work; a panic is our own fault.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Fault::internal("the request panicked")),
    }
}

/// Bytes of a body whose texts are read beside others.
const BESIDE_BYTES: usize = 256 << 10;
/// Turn of a body that is longer: a word of megabytes takes a hundred times its length while it is cut.
static TURN: Semaphore = Semaphore::const_new(1);

/// Does [`blocking`] work that reads the texts of a request; of those with long ones one at a time.
///
/// # Errors
/// As there.
async fn reading<T: Send + 'static>(
    record: &Record,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let is_long = record.n_body.load(Ordering::Relaxed) > BESIDE_BYTES;
    // The semaphore is never closed.
    let turn = if is_long { TURN.acquire().await.ok() } else { None };
    blocking(move || {
        // Until the work ends, whether the client still waits for it or not.
        let _turn = turn;
        work()
    })
    .await
}

/// A time as people write it: `5m`, `1h30m`, `90s`, `500ms`, or a number of seconds.
pub fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut rest = text.trim();
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let n = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(n);
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let each = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let seconds = number.parse::<f64>().ok()? * each;
        all = all.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = behind;
    }
    (!text.trim().is_empty()).then_some(all)
}

/// A number that differs from call to call.
fn fresh() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_people_write_them() {
        for (text, millis) in [
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("90", 90_000),
            ("1.5s", 1500),
            ("20ms", 20),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "m", "5x", "-1", "1h-", "5 m", "inf"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
