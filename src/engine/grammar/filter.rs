//! A grammar as a filter of one sequence.

use super::first_lines;
use crate::sample::rng::Rng;
use crate::sample::{Candidates, Filter, SampleError};
use llguidance::Matcher;
use llguidance::toktrie::{TokEnv, TokTrie};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Likeliest tokens that are asked for one by one before all are, at most.
const ASKED_MAX: usize = 128;

/// Filter that knows where a sequence is in a grammar.
pub(super) struct GrammarFilter {
    /// Only ever used through `&mut`; the lock is for its caches, which are not shared between threads.
    matcher: Mutex<Matcher>,
    /// Tokens that end an answer.
    ends: Arc<[u32]>,
    /// Whether tokens are the answer's, no more the prompt's.
    is_in_answer: bool,
    /// How many of the likeliest tokens that it allows matter; `None` if all do.
    that_matter: Option<usize>,
    /// What went wrong when a token was taken.
    failure: Option<String>,
}

impl GrammarFilter {
    pub fn new(matcher: Matcher, ends: Arc<[u32]>) -> GrammarFilter {
        GrammarFilter {
            matcher: Mutex::new(matcher),
            ends,
            is_in_answer: false,
            that_matter: None,
            failure: None,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Matcher> {
        self.matcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first bytes of a text; whether a text of the grammar may begin so.
    fn begins_with(&mut self, bytes: &[u8], env: &TokEnv) -> bool {
        let tokens = env.tokenize_bytes(bytes);
        let mut matcher = self.locked();
        let fits = matcher.validate_tokens(&tokens).is_ok_and(|n| n == tokens.len());
        fits && matcher.consume_tokens(&tokens).is_ok()
    }

    /// The likeliest `k` candidates that the grammar allows, best first, if a look at a few more tells.
    /// One is asked for faster than all tokens are: 0.2 to 1 us, where a mask of 262,144 takes 10 to
    /// 1,000.
    fn likeliest_allowed(
        &self,
        candidates: &Candidates<'_>,
        k: usize,
    ) -> Result<Option<Vec<u32>>, String> {
        let mut allowed = Vec::with_capacity(k);
        let n = if k == 1 { 1 } else { ASKED_MAX };
        for (i, candidate) in candidates.likeliest(n).into_iter().enumerate() {
            if self.allows(candidate.id)? {
                allowed.push(candidate.id);
                if allowed.len() == k {
                    return Ok(Some(allowed));
                }
            } else if i >= ASKED_MAX / 8 && allowed.len() < i / 2 {
                break;
            }
        }
        Ok(None)
    }

    /// Whether the grammar goes on with a token, or may end where the token ends the answer.
    fn allows(&self, token: u32) -> Result<bool, String> {
        let mut matcher = self.locked();
        let allowed = match (self.ends.contains(&token), matcher.is_stopped()) {
            (true, true) => return Ok(true),
            (false, true) => return Ok(false),
            (true, false) => matcher.is_accepting(),
            (false, false) => matcher.validate_tokens(&[token]).map(|n| n == 1),
        };
        allowed.map_err(|error| first_lines(&error.to_string()))
    }
}

impl Clone for GrammarFilter {
    fn clone(&self) -> GrammarFilter {
        GrammarFilter {
            // Apart from this one's caches, too: forks run on other threads.
            matcher: Mutex::new(self.locked().deep_clone()),
            ends: self.ends.clone(),
            failure: self.failure.clone(),
            ..*self
        }
    }
}

impl fmt::Debug for GrammarFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarFilter").field("failure", &self.failure).finish_non_exhaustive()
    }
}

impl Filter for GrammarFilter {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        self.is_in_answer = true;
        let failed = |reason| SampleError::Filter { filter: "grammar", reason };
        if let Some(failure) = &self.failure {
            return Err(failed(failure.clone()));
        }
        if let Some(k) = self.that_matter.filter(|k| *k <= ASKED_MAX / 2)
            && let Some(allowed) = self.likeliest_allowed(candidates, k).map_err(failed)?
        {
            candidates.keep_only(&allowed);
            return Ok(());
        }
        let mask = self.locked().compute_mask_or_eos();
        candidates.mask(mask.map_err(|error| failed(first_lines(&error.to_string())))?.as_slice());
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        if self.is_in_answer && self.failure.is_none() && !self.ends.contains(&token) {
            let taken = self.locked().consume_token(token);
            self.failure = taken.err().map(|error| first_lines(&error.to_string()));
        }
    }

    fn only_best_matter(&mut self, k: usize) {
        self.that_matter = Some(k);
    }
}

/// Token behind which a lazy grammar begins, as a tool call's tag is.
pub type Trigger = u32;

/// A grammar that begins behind a trigger; until then the answer is free.
#[derive(Clone)]
pub(super) struct Lazy {
    grammar: GrammarFilter,
    triggers: Vec<Trigger>,
    /// Triggers that are texts, which may stand anywhere in tokens.
    texts: Vec<Box<[u8]>>,
    /// Bytes of tokens.
    env: TokEnv,
    /// The end of the answer, in which the begin of a trigger may stand.
    tail: Vec<u8>,
    is_in_answer: bool,
    is_on: bool,
}

impl Lazy {
    pub fn new(
        grammar: GrammarFilter,
        triggers: Vec<Trigger>,
        texts: &[&str],
        env: TokEnv,
    ) -> Lazy {
        let texts = texts.iter().filter(|text| !text.is_empty());
        let texts = texts.map(|text| text.as_bytes().into()).collect();
        let (tail, is_in_answer, is_on) = (Vec::new(), false, false);
        Lazy { grammar, triggers, texts, env, tail, is_in_answer, is_on }
    }

    /// Whether a trigger's text ends within a token. What the token says behind it is the grammar's: if it
    /// leads out of the grammar, the answer stays free.
    fn ends_text(&mut self, token: u32) -> bool {
        let n_before = self.tail.len();
        let bytes = self.env.tok_trie().token(token);
        match bytes.first() {
            // A control token is no text.
            Some(&TokTrie::SPECIAL_TOKEN_MARKER) | None => self.tail.clear(),
            Some(_) => self.tail.extend_from_slice(bytes),
        }
        let ends = |text: &[u8]| {
            let mut found = self.tail.windows(text.len()).enumerate();
            found.find_map(|(at, window)| {
                (window == text && at + text.len() > n_before).then_some(at + text.len())
            })
        };
        if let Some(end) = self.texts.iter().filter_map(|text| ends(text)).min() {
            return self.grammar.begins_with(&self.tail[end..], &self.env);
        }
        let longest = self.texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let n_old = self.tail.len().saturating_sub(longest.saturating_sub(1));
        self.tail.drain(..n_old);
        false
    }
}

impl fmt::Debug for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy").field("is_on", &self.is_on).finish_non_exhaustive()
    }
}

impl Filter for Lazy {
    fn apply(&mut self, candidates: &mut Candidates<'_>, rng: &mut Rng) -> Result<(), SampleError> {
        self.is_in_answer = true;
        if self.is_on { self.grammar.apply(candidates, rng) } else { Ok(()) }
    }

    fn accept(&mut self, token: u32) {
        match self.is_on {
            true => self.grammar.accept(token),
            false => {
                self.is_on =
                    self.is_in_answer && (self.triggers.contains(&token) || self.ends_text(token));
                self.grammar.is_in_answer = self.is_on;
            }
        }
    }

    fn only_best_matter(&mut self, k: usize) {
        self.grammar.only_best_matter(k);
    }
}
