//! Limits of what a client may ask for, each with its reason.

use std::time::Duration;

/// Bytes of a request's body, most: a full context of text, several times over.
pub const BODY_BYTES: usize = 8 << 20;
/// Bytes of a request's head, most.
pub const HEAD_BYTES: usize = 32 << 10;
/// Connections at a time; more wait in the system's queue.
pub const CONNECTIONS: usize = 512;
/// Messages of a conversation.
pub const MESSAGES: usize = 10_000;
/// Tools of a request.
pub const TOOLS: usize = 128;
/// Texts that end an answer.
pub const STOPS: usize = 16;
/// Bytes of each.
pub const STOP_BYTES: usize = 256;
/// Biases of tokens.
pub const BIASES: usize = 1_000;
/// Bytes of a schema or grammar.
pub const GRAMMAR_BYTES: usize = 256 << 10;
/// Texts of a request for vectors or scores.
pub const TEXTS: usize = 2_048;
/// Prompts of a request for completions.
pub const PROMPTS: usize = 64;

/// How long and how much a client, or the engine, may hold others up.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Time in which a request's head has to come: who trickles it holds a connection.
    pub head_time: Duration,
    /// Time without a byte of a request's body.
    pub body_time: Duration,
    /// Time that a connection may stay open without a request.
    pub idle_time: Duration,
    /// Time in which a client takes no byte of its answer.
    pub write_time: Duration,
    /// Bytes of news of an answer that its client has not read.
    pub unread_bytes: usize,
    /// Time that a request may wait for its first step.
    pub queue_time: Duration,
    /// Time that a stream waits for its first token before its head is sent: till then an error is a status.
    pub head_wait: Duration,
    /// Silence of a stream, behind which a comment keeps proxies from closing it.
    pub keep_alive: Duration,
    /// Time without a step while there is work, behind which the engine counts as stuck.
    pub stuck_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(20),
            idle_time: Duration::from_secs(75),
            write_time: Duration::from_secs(30),
            unread_bytes: 1 << 20,
            queue_time: Duration::from_secs(120),
            head_wait: Duration::from_secs(5),
            keep_alive: Duration::from_secs(10),
            stuck_time: Duration::from_secs(60),
        }
    }
}
