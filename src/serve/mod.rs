//! The HTTP server: APIs that clients know, in front of an engine that answers many at a time.
//!
//! Connections live on two threads of their own, the engine on its; neither waits for the other. A request
//! goes through the gate (`gate`: ids, keys, hosts), a route (`routes`), an API's file, which makes a
//! `generate::Wish` of it, and from there on is the same for all APIs: `generate` makes it ready on a
//! thread that may block and follows its answers, `stream` tells them while they come. What is refused is
//! a `fault::Fault`, which the gate writes down in the API's shape.
//!
//! **Nothing waits for a client.** Answers that nobody reads are cancelled, and so is all that a client who
//! has left was waiting for: the answers are dropped with the connection.

mod anthropic;
mod app;
mod body;
mod connection;
mod encoder;
mod fault;
mod gate;
mod generate;
mod limits;
mod listen;
mod loaded;
mod metrics;
mod native;
mod ollama;
mod openai;
mod prefixes;
mod record;
mod reply;
mod responses;
mod routes;
mod stream;
mod translate;

pub use app::{Log, ServeOptions};
pub use listen::{Server, ServerHandle};
pub use loaded::{Loaded, ModelOptions};

use fault::Fault;

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

/// A number that differs from call to call.
fn fresh() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
