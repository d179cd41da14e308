//! Structured output: answers that follow a JSON schema, a regular expression or a grammar, by the
//! engine of the `llguidance` crate.
//!
//! [`Grammars`] is made once for a vocabulary, a [`Filter`] for each request: it forbids tokens whose
//! bytes lead out of the grammar, and what ends an answer before the grammar may end. Where the chain
//! takes a few of the likeliest tokens (greedy, top-k), they are asked for one by one, and all tokens only if
//! few of those are allowed.
//!
//! **Nothing is silently ignored**: a schema's keyword that is not enforced is refused with its place
//! (`schema`). **Bounded**: sizes, depths, the engine's limits, and a deadline for compiling, which
//! happens on a thread of its own as the engine may panic.

mod filter;
mod gbnf;
mod schema;
mod vocabulary;

pub use filter::Trigger;

use crate::sample::Filter;
use crate::text::Tokenizer;
use filter::{GrammarFilter, Lazy};
use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// Longest grammar: a schema of this size takes seconds.
pub const GRAMMAR_BYTES_MAX: usize = 1 << 20;
/// Compiled grammars that are kept for the next request with the same text.
const KEPT_MAX: usize = 32;
/// Time that compiling may take; the engine's limits end it earlier as a rule.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(10);
/// Waits that this time is made of.
const COMPILE_WAITS: u32 = 100;
/// Stack of the thread that compiles: the engine recurses some KiB for each level of a schema, and for each rule
/// that stands in another.
const COMPILE_STACK_BYTES: usize = 64 << 20;
/// Rules of a grammar and groups in groups of each, at most: what stands in each other so deeply fits the stack.
const NESTED_MAX: usize = 4096;

/// Form that an answer has to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grammar {
    /// A JSON schema (draft 2020-12), as text.
    JsonSchema(String),
    /// A regular expression for the whole answer, in the syntax of Rust's `regex` crate.
    Regex(String),
    /// A grammar in llama.cpp's notation.
    Gbnf(String),
    /// A grammar in `llguidance`'s variety of Lark.
    Lark(String),
}

impl Grammar {
    /// Checks what does not depend on a vocabulary: length, syntax of schemas and GBNF, keywords.
    ///
    /// # Errors
    /// The grammar is refused.
    pub fn check(&self) -> Result<(), GrammarError> {
        self.lowered().map(drop)
    }

    /// The grammar as the engine takes it.
    fn lowered(&self) -> Result<TopLevelGrammar, GrammarError> {
        let bytes = self.text().len();
        if bytes > GRAMMAR_BYTES_MAX {
            return Err(GrammarError::TooLong { bytes });
        }
        Ok(match self {
            Grammar::JsonSchema(text) => TopLevelGrammar::from_json_schema(schema::checked(text)?),
            Grammar::Regex(text) => TopLevelGrammar::from_regex(text),
            Grammar::Gbnf(text) => TopLevelGrammar::from_lark(gbnf::to_lark(text)?),
            Grammar::Lark(text) if lark_nesting(text) > NESTED_MAX => {
                return Err(GrammarError::Refused { reason: too_nested() });
            }
            Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        })
    }

    /// The text of the grammar.
    pub fn text(&self) -> &str {
        match self {
            Grammar::JsonSchema(text)
            | Grammar::Regex(text)
            | Grammar::Gbnf(text)
            | Grammar::Lark(text) => text,
        }
    }
}

/// Error of a grammar that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrammarError {
    /// A text is no grammar of its kind.
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// Why.
        reason: String,
    },
    /// A schema has a keyword that is not enforced, or cannot be.
    Keyword {
        /// JSON pointer to the schema that has it.
        pointer: String,
        /// The keyword.
        keyword: String,
        /// Why it is refused.
        reason: String,
    },
    /// The engine cannot make a matcher of the grammar.
    Refused {
        /// Why, in its words.
        reason: String,
    },
    /// A grammar is longer than [`GRAMMAR_BYTES_MAX`].
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Compiling took too long.
    Deadline,
    /// No grammar can be followed with this vocabulary.
    Vocabulary {
        /// Why.
        reason: &'static str,
    },
}

impl fmt::Display for GrammarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line, column, reason } => {
                write!(f, "line {line}, column {column}: {reason}")
            }
            Self::Keyword { pointer, keyword, reason } => {
                write!(f, "`{keyword}` at {pointer}: {reason}")
            }
            Self::Refused { reason } => f.write_str(reason),
            Self::TooLong { bytes } => {
                write!(f, "{bytes} bytes are more than the {GRAMMAR_BYTES_MAX} a grammar may have")
            }
            Self::Deadline => {
                write!(f, "not compiled within {} s: too complex", COMPILE_TIME_MAX.as_secs())
            }
            Self::Vocabulary { reason } => f.write_str(reason),
        }
    }
}

impl std::error::Error for GrammarError {}

/// Grammars for the vocabulary of one model.
pub struct Grammars {
    factory: Arc<ParserFactory>,
    ends: Arc<[u32]>,
    /// The latest ones, compiled, the newest at the end.
    kept: Mutex<VecDeque<(Grammar, Matcher)>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// Grammars for a tokenizer's tokens. Cost: a tree of all of them, some 0.1 s for 262,144.
    ///
    /// # Errors
    /// [`GrammarError::Vocabulary`]
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Result<Grammars, GrammarError> {
        let ends: Arc<[u32]> = tokenizer.end_of_generation().into();
        let env: TokEnv = Arc::new(vocabulary::Env::new(tokenizer)?);
        // Tokens that a grammar forces are masked for, not fed without sampling.
        let capabilities = InferenceCapabilities::default();
        let slices = SlicedBiasComputer::json_slices();
        let factory = compile_guarded(move || ParserFactory::new(&env, capabilities, &slices));
        let mut factory = factory?;
        factory.quiet();
        let limits = factory.limits_mut();
        // A fifth of a second, and some tens of megabytes.
        (limits.initial_lexer_fuel, limits.max_lexer_states) = (1_000_000, 50_000);
        limits.max_grammar_size = 200_000;
        limits.verbose_errors = false;
        Ok(Grammars { factory: Arc::new(factory), ends, kept: Mutex::default() })
    }

    /// A filter by which an answer follows a grammar from its first token on.
    ///
    /// # Errors
    /// The grammar is refused.
    pub fn filter(&self, grammar: &Grammar) -> Result<Box<dyn Filter>, GrammarError> {
        Ok(Box::new(self.matcher(grammar)?))
    }

    /// A filter by which an answer is free until a trigger comes, and follows a grammar from there on.
    ///
    /// # Errors
    /// The grammar is refused.
    pub fn lazy(
        &self,
        grammar: &Grammar,
        triggers: Vec<Trigger>,
    ) -> Result<Box<dyn Filter>, GrammarError> {
        Ok(Box::new(Lazy::new(
            self.matcher(grammar)?,
            triggers,
            &[],
            self.factory.tok_env().clone(),
        )))
    }

    /// [`Grammars::lazy`] for triggers that are texts, wherever they stand in tokens, as the marks of calls
    /// are in families that have no token for them. What a token says behind a trigger has to be the
    /// grammar's already; if it is not, the answer stays free up to the next trigger.
    ///
    /// # Errors
    /// The grammar is refused.
    pub fn lazy_text(
        &self,
        grammar: &Grammar,
        triggers: &[&str],
    ) -> Result<Box<dyn Filter>, GrammarError> {
        let (grammar, env) = (self.matcher(grammar)?, self.factory.tok_env().clone());
        Ok(Box::new(Lazy::new(grammar, Vec::new(), triggers, env)))
    }

    fn matcher(&self, grammar: &Grammar) -> Result<GrammarFilter, GrammarError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(other, _)| other == grammar);
        let entry = match known.and_then(|at| kept.remove(at)) {
            Some(entry) => entry,
            None => (grammar.clone(), self.compile(grammar)?),
        };
        let matcher = entry.1.deep_clone();
        kept.push_back(entry);
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        Ok(GrammarFilter::new(matcher, self.ends.clone()))
    }

    fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let top = grammar.lowered()?;
        let factory = self.factory.clone();
        let compiled = compile_guarded(move || {
            let mut matcher = Matcher::new(factory.create_parser(top));
            let warnings = matcher.grammar_warnings();
            match matcher.get_error().or_else(|| warnings.into_iter().next()) {
                Some(problem) => Err(problem),
                // Rules may have no text: that is told now, not when the first token is wanted.
                None => match matcher.compute_mask_or_eos() {
                    Ok(_) => Ok(matcher),
                    Err(error) => Err(error.to_string()),
                },
            }
        });
        compiled.map_err(|error| match (&error, grammar) {
            (GrammarError::Refused { reason }, Grammar::JsonSchema(text)) => {
                schema::placed(text, reason).unwrap_or(error)
            }
            _ => error,
        })
    }
}

fn too_nested() -> String {
    format!("more than {NESTED_MAX} rules and groups in groups")
}

/// Rules of a Lark grammar, each of which has a line of its own, and groups in groups of each line.
fn lark_nesting(text: &str) -> usize {
    let of_line = |line: &str| {
        let (mut depth, mut deepest) = (0usize, 0);
        for byte in line.bytes() {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        deepest + usize::from(line.contains(':'))
    };
    text.lines().map(of_line).sum()
}

/// Does the engine's work on a thread of its own, which is left alone if it takes too long.
fn compile_guarded<T: Send + 'static, E: fmt::Display>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, GrammarError> {
    let refused = |reason: String| GrammarError::Refused { reason };
    let (sender, receiver) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().stack_size(COMPILE_STACK_BYTES);
    let spawned = thread.spawn(move || {
        // The engine's own guard keeps a panic off the terminal.
        let guarded = std::panic::AssertUnwindSafe(|| Ok(work()));
        let done = match llguidance::panic_utils::catch_unwind(guarded) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(first_lines(&format!("{error:#}"))),
            Err(panic) => Err(first_lines(&panic.to_string())),
        };
        // Nobody listens after the deadline.
        let _ = sender.send(done);
    });
    spawned.map_err(|error| refused(error.to_string()))?;
    // In short waits, so that the time in which the whole process is stopped counts as one.
    for _ in 0..COMPILE_WAITS {
        match receiver.recv_timeout(COMPILE_TIME_MAX / COMPILE_WAITS) {
            Ok(done) => return done.map_err(refused),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(refused("the engine died".into()));
            }
        }
    }
    Err(GrammarError::Deadline)
}

/// The words of an error of the engine, without traces, and of a regular expression's, which is a picture,
/// the last line.
fn first_lines(text: &str) -> String {
    if text.starts_with("NoExtensionBias") {
        return "no token can follow: it has no text that the vocabulary can spell".into();
    }
    if let Some((_, why)) = text.split_once("regex parse error") {
        let why = why.lines().find_map(|line| line.trim().strip_prefix("error: "));
        return format!("the regular expression is wrong: {}", why.unwrap_or("it does not parse"));
    }
    let is_trace =
        |line: &str| ["<backtrace>", "<non-verbose/>"].iter().any(|t| line.starts_with(t));
    let lines = text.lines().take_while(|line| !is_trace(line));
    let words: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).take(4).collect();
    words.join("; ")
}
