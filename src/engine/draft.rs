//! Drafts: tokens that may come next, so that one step checks several.
//!
//! A draft is what followed the last time the same few tokens stood in the prompt or the answer
//! (prompt lookup), or what a small model says (`draft_model`). A step computes it behind the last token, and the sampler draws from each row of
//! logits as if it had come alone; the first token that is not the draft's ends the check, and the
//! rest is taken back. As logits have the same bits however tokens are cut into steps, and every
//! token is the sampler's own, with its own random number, the answer is the one without drafts, bit
//! by bit, at any temperature.
//!
//! Cost: a step of several tokens takes longer than a step of one, how much longer depends on model and
//! machine. So the gain is measured ([`Speculation::Auto`]): drafts begin short, grow when they come
//! true, and stop for a while when they do not pay. What drafts of the text so far have cost in vain stays
//! below a share of the answer's time ([`LOSS_MAX`]). A draft model's drafts stop when a dozen of them have not paid
//! together, its own time included, and are tried again later; what they cost on balance stays below a share,
//! too ([`MODEL_LOSS_MAX`]). One that is nearly as large as the model ([`SIZE_SHARE_MAX`]) cannot pay: it is not
//! asked, and drafts are made of the text.

use super::draft_model::{DraftModel, Proposal};
use std::collections::HashMap;
use std::time::Duration;

/// Tokens of a draft, most.
pub const DRAFT_MAX: usize = 8;
/// Tokens of a draft that nothing speaks for yet: the cheapest try.
const DRAFT_FIRST: usize = 1;
/// Tokens without a draft, after drafts did not pay: twice as many each time in a row.
const PAUSE_TOKENS: usize = 64;
/// Tokens without a draft, most.
const PAUSE_TOKENS_MAX: usize = 512;
/// Least gain for which drafts go on.
const GAIN_MIN: f64 = 1.03;
/// Share of the newest step in moving averages.
const NEWEST: f64 = 0.25;
/// Tokens that have to be the same, for a first draft and behind one that came true.
const SAME: [usize; 2] = [4, 2];
/// Tokens that are the same where a text is being repeated, rather than a phrase.
const SAME_SURE: usize = 8;
/// Drafts of a model before they are judged.
const MODEL_DRAFTS_MIN: usize = 12;
/// Steps without a draft before the first draft of a model, which tell what a step takes.
const PLAIN_STEPS_MIN: usize = 3;
/// Share of what is known of a model's drafts that stays with each new one.
const MODEL_KEPT: f64 = 0.9;
/// Share of the answer's time that drafts may have cost in vain before there is another one, unless the
/// text is being repeated.
const LOSS_MAX: f64 = 0.01;

/// Whether a request checks drafts. It never changes the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Speculation {
    /// No drafts.
    #[default]
    Off,
    /// Drafts as long as they make the answer faster, by the clock.
    Auto,
    /// Drafts wherever there is one.
    Always,
}

/// Share of the answer's time that a model's drafts may have cost on balance before there is another one.
const MODEL_LOSS_MAX: f64 = 0.02;
/// Largest share of the model's size that a draft model may have. Drafting eight tokens with three quarters of it
/// takes six steps, and checking them one or two more: hardly less than the nine that come of it at best.
pub(super) const SIZE_SHARE_MAX: f64 = 0.75;

/// Drafts of one request.
#[derive(Debug)]
pub(super) struct Drafter {
    speculation: Speculation,
    /// Positions behind the last places of tokens that stand together, for each of [`SAME`].
    places: [HashMap<[u32; 4], u32>; 2],
    /// Positions that `places` knows.
    n_known: usize,
    /// Tokens of the next draft, most.
    len: usize,
    /// Whether the last draft came true at least in part.
    came_true: bool,
    /// Tokens until the next draft.
    pause: usize,
    /// Tokens of the next pause.
    next_pause: usize,
    /// Moving averages in seconds: of steps without a draft, and of steps with one for each token that
    /// they led to.
    plain: Option<f64>,
    drafted: Option<f64>,
    /// Steps without a draft since drafts stopped, or from the start.
    n_plain: usize,
    /// What a model's drafts have cost and led to, if a model drafts.
    of_model: Option<OfModel>,
    /// Seconds of all steps, and those that drafts have cost more than they saved.
    total: f64,
    loss: f64,
}

/// Account of a model's drafts.
#[derive(Debug, Default)]
struct OfModel {
    /// Seconds that the model took for the draft under way.
    newest: f64,
    /// Drafts since they were last judged to pay for nothing; in the next two what is old counts less.
    n: usize,
    /// Seconds of drafts and of the steps that checked them.
    seconds: f64,
    /// Tokens that they led to.
    n_new: f64,
    /// Seconds that all drafts have cost, less what they saved. Reading the prompt is no part of it.
    loss: f64,
    /// Seconds for reading a token, and whether the prompt has been read.
    reading: f64,
    has_read: bool,
}

impl OfModel {
    /// Takes note of what the model did.
    fn add_proposal(&mut self, proposal: &Proposal) {
        if proposal.n_read > 0 {
            self.reading = proposal.reading.as_secs_f64() / proposal.n_read as f64;
        }
        let reading = if self.has_read { proposal.reading } else { Duration::ZERO };
        self.has_read |= !proposal.tokens.is_empty();
        let seconds = (reading + proposal.drafting).as_secs_f64();
        self.newest += seconds;
        self.loss += seconds;
    }

    /// Takes note of a draft whose step took so long, where one without takes `plain` seconds.
    fn add(&mut self, seconds: f64, n_new: usize, plain: f64) {
        self.n += 1;
        self.seconds = MODEL_KEPT * self.seconds + seconds + self.newest;
        self.n_new = MODEL_KEPT * self.n_new + n_new as f64;
        self.loss += seconds - n_new as f64 * plain;
        self.newest = 0.0;
    }

    /// Times that drafts are faster than steps without, of which each takes `plain` seconds.
    fn gain(&self, plain: f64) -> Option<f64> {
        (self.n >= MODEL_DRAFTS_MIN).then(|| plain * self.n_new / self.seconds)
    }

    /// Whether there may be a draft, after `total` seconds of steps, where the model has `n_unread` tokens to
    /// read first.
    fn may_cost(&self, total: f64, n_unread: usize) -> bool {
        let reading = if self.has_read { n_unread as f64 * self.reading } else { 0.0 };
        self.loss + reading <= MODEL_LOSS_MAX * total
    }

    /// Begins to judge anew.
    fn pause(&mut self) {
        (self.n, self.seconds, self.n_new) = (0, 0.0, 0.0);
    }
}

impl Drafter {
    pub fn new(speculation: Speculation) -> Drafter {
        Drafter {
            speculation,
            places: [HashMap::new(), HashMap::new()],
            n_known: 0,
            len: DRAFT_FIRST,
            came_true: false,
            pause: 0,
            next_pause: PAUSE_TOKENS,
            plain: None,
            drafted: None,
            n_plain: 0,
            of_model: None,
            total: 0.0,
            loss: 0.0,
        }
    }

    /// A draft of at most `n_max` tokens that may follow `tokens`; empty if there is none.
    pub fn draft(&mut self, tokens: &[u32], n_max: usize) -> Vec<u32> {
        if self.speculation == Speculation::Off {
            return Vec::new();
        }
        self.learn_places(tokens);
        let n_max = match self.speculation {
            Speculation::Always => n_max.min(DRAFT_MAX),
            _ if self.pause > 0 => 0,
            // The gain is measured against steps without a draft.
            _ if self.plain.is_none() => 0,
            _ => n_max.min(self.len),
        };
        let place = self.last_place(tokens).filter(|&at| n_max > 0 && self.may_cost(tokens, at));
        let Some(from) = place else { return Vec::new() };
        let mut draft = Vec::with_capacity(n_max);
        for at in from..from + n_max {
            // What repeats itself is drafted beyond the end.
            let token = tokens.get(at).or_else(|| draft.get(at - tokens.len())).copied();
            draft.extend(token);
        }
        draft
    }

    /// A draft of at most `n_max` tokens below `n_vocab` by a model; empty if there is to be none.
    pub fn ask(
        &mut self,
        model: &mut DraftModel,
        tokens: &[u32],
        n_max: usize,
        n_vocab: usize,
    ) -> Vec<u32> {
        if self.speculation == Speculation::Auto && !model.is_small() {
            return self.draft(tokens, n_max);
        }
        let of_model = self.of_model.get_or_insert_default();
        let n_max = match self.speculation {
            Speculation::Off => 0,
            Speculation::Always => n_max.min(DRAFT_MAX),
            Speculation::Auto if self.pause > 0 || self.n_plain < PLAIN_STEPS_MIN => 0,
            Speculation::Auto if !of_model.may_cost(self.total, model.n_unread(tokens)) => 0,
            Speculation::Auto => n_max.min(self.len),
        };
        if n_max == 0 {
            return Vec::new();
        }
        let proposal = model.propose(tokens, n_max, n_vocab);
        of_model.add_proposal(&proposal);
        proposal.tokens
    }

    /// Takes note of a step that led to `n_new` tokens, behind a draft of `n_draft`.
    pub fn learn(&mut self, n_draft: usize, n_new: usize, time: Duration) {
        let moved = |average: Option<f64>, newest: f64| {
            Some(average.map_or(newest, |average| average + NEWEST * (newest - average)))
        };
        let seconds = time.as_secs_f64();
        self.total += seconds;
        self.pause = self.pause.saturating_sub(n_new);
        if n_draft == 0 {
            self.plain = moved(self.plain, seconds);
            self.n_plain += 1;
            return;
        }
        if let Some(plain) = self.plain {
            // What was saved before does not make up for it.
            self.loss = (self.loss + seconds - n_new as f64 * plain).max(0.0);
        }
        self.came_true = n_new > 1;
        self.len = match n_new > n_draft {
            true => (2 * self.len).min(DRAFT_MAX),
            false => n_new.clamp(DRAFT_FIRST, DRAFT_MAX),
        };
        self.drafted = moved(self.drafted, seconds / n_new.max(1) as f64);
        let gain = match &mut self.of_model {
            None => self.plain.zip(self.drafted).map(|(plain, drafted)| plain / drafted),
            Some(of_model) => {
                let plain = self.plain.unwrap_or(seconds);
                of_model.add(seconds, n_new, plain);
                of_model.gain(plain)
            }
        };
        if gain.is_some_and(|gain| gain < GAIN_MIN) {
            (self.pause, self.drafted, self.len) = (self.next_pause, None, DRAFT_FIRST);
            self.n_plain = 0;
            self.of_model.iter_mut().for_each(OfModel::pause);
            self.next_pause = (2 * self.next_pause).min(PAUSE_TOKENS_MAX);
        } else if self.came_true {
            self.next_pause = PAUSE_TOKENS;
        }
    }

    /// Learns where tokens stand together, but for those at the end.
    fn learn_places(&mut self, tokens: &[u32]) {
        for end in self.n_known.max(1)..tokens.len() {
            for (places, n) in self.places.iter_mut().zip(SAME) {
                if let Some(key) = key(&tokens[..end], n) {
                    places.insert(key, end as u32);
                }
            }
        }
        self.n_known = self.n_known.max(tokens.len());
    }

    /// Whether a draft of what stands at `at` may be in vain.
    fn may_cost(&self, tokens: &[u32], at: usize) -> bool {
        let same = tokens[..at].iter().rev().zip(tokens.iter().rev());
        self.speculation == Speculation::Always
            || self.loss <= LOSS_MAX * self.total
            || same.take_while(|(a, b)| a == b).take(SAME_SURE).count() == SAME_SURE
    }

    /// Position behind the last place where the tokens stood that are at the end now.
    fn last_place(&self, tokens: &[u32]) -> Option<usize> {
        let any = self.came_true || self.speculation == Speculation::Always;
        let n_kinds = if any { SAME.len() } else { 1 };
        let mut kinds = self.places.iter().zip(SAME).take(n_kinds);
        kinds.find_map(|(places, n)| places.get(&key(tokens, n)?).map(|&at| at as usize))
    }
}

/// The last `n` tokens.
fn key(tokens: &[u32], n: usize) -> Option<[u32; 4]> {
    let last = tokens.get(tokens.len().checked_sub(n)?..)?;
    let mut key = [u32::MAX; 4];
    key[..n].copy_from_slice(last);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    fn draft(speculation: Speculation, tokens: &[u32], n_max: usize) -> Vec<u32> {
        let mut drafter = Drafter::new(speculation);
        drafter.learn(0, 1, STEP);
        drafter.draft(tokens, n_max)
    }

    #[test]
    fn drafts_are_what_followed_the_same_tokens_last_time() {
        let tokens = [1, 2, 3, 4, 5, 9, 1, 2, 3, 4, 7, 8, 1, 2, 3, 4];
        assert_eq!(draft(Speculation::Always, &tokens, 3), [7, 8, 1]);
        assert_eq!(draft(Speculation::Auto, &tokens, 8), [7], "short at first");
        assert!(draft(Speculation::Off, &tokens, 3).is_empty());
        assert!(draft(Speculation::Always, &[1, 2, 3, 4], 3).is_empty());
        assert!(draft(Speculation::Always, &[1], 3).is_empty());
        // Two tokens do for those who always draft.
        assert_eq!(draft(Speculation::Always, &[1, 2, 5, 6, 1, 2], 2), [5, 6]);
        assert!(draft(Speculation::Auto, &[1, 2, 3, 5, 6, 1, 2, 3], 2).is_empty());
        // A loop goes on.
        assert_eq!(draft(Speculation::Always, &[4, 5, 4, 5, 4, 5], 5), [4, 5, 4, 5, 4]);
        assert_eq!(draft(Speculation::Always, &[7, 7, 7, 7], 4), [7; 4]);
    }

    #[test]
    fn drafts_grow_when_they_come_true_and_stop_when_they_do_not_pay() {
        let tokens: Vec<u32> = (0..50).chain(0..9).collect();
        let mut drafter = Drafter::new(Speculation::Auto);
        assert!(drafter.draft(&tokens, 8).is_empty(), "the gain cannot be known yet");
        drafter.learn(0, 1, STEP);
        for n in [1, 2, 4, 8, 8] {
            assert_eq!(drafter.draft(&tokens, 8).len(), n);
            drafter.learn(n, n + 1, STEP + STEP / 2);
        }
        // Nothing comes true any more, at three times the cost.
        for _ in 0..20 {
            let n = drafter.draft(&tokens, 8).len();
            drafter.learn(n, 1, if n > 0 { 3 * STEP } else { STEP });
        }
        assert!(drafter.pause > 0 && drafter.draft(&tokens, 8).is_empty());
        for _ in 0..PAUSE_TOKENS {
            drafter.learn(0, 1, STEP);
        }
        assert_eq!(drafter.draft(&tokens, 8).len(), DRAFT_FIRST, "another try");
        // One try that fails is enough, and the next one comes later.
        drafter.learn(DRAFT_FIRST, 1, 2 * STEP);
        assert!(drafter.draft(&tokens, 8).is_empty());
        assert_eq!(drafter.pause, 2 * PAUSE_TOKENS);
    }

    /// A model as fast as the one that it drafts for loses a little and no more; one that is right for little goes on.
    #[test]
    fn what_a_draft_model_costs_on_balance_stays_a_small_share() {
        let run = |draft_token: Duration, is_right: bool| {
            let (mut drafter, mut n_tokens, mut n_drafts) = (Drafter::new(Speculation::Auto), 0, 0);
            let mut time = Duration::ZERO;
            let tokens = [7; DRAFT_MAX];
            while n_tokens < 1000 {
                let of_model = drafter.of_model.get_or_insert_default();
                let may = drafter.n_plain >= PLAIN_STEPS_MIN && drafter.pause == 0;
                if !(may && of_model.may_cost(drafter.total, 0)) {
                    drafter.learn(0, 1, STEP);
                    (n_tokens, time) = (n_tokens + 1, time + STEP);
                    continue;
                }
                let n = drafter.len;
                let drafting = draft_token * n as u32;
                let proposal =
                    Proposal { tokens: tokens[..n].to_vec(), drafting, ..Proposal::default() };
                of_model.add_proposal(&proposal);
                let (n_new, step) = (if is_right { n + 1 } else { 1 }, STEP + STEP / 4 * n as u32);
                drafter.learn(n, n_new, step);
                (n_tokens, n_drafts) = (n_tokens + n_new, n_drafts + 1);
                time += drafting + step;
            }
            (time.as_secs_f64() / (STEP * n_tokens as u32).as_secs_f64(), n_drafts)
        };
        for (draft_token, is_right) in [(STEP, true), (STEP, false), (STEP / 10, false)] {
            let (share, n_drafts) = run(draft_token, is_right);
            assert!(
                share < 1.03 && n_drafts > 2,
                "{draft_token:?} {is_right}: {share} by {n_drafts}"
            );
        }
        let (share, n_drafts) = run(STEP / 10, true);
        assert!(share < 0.6 && n_drafts > 100, "{share} by {n_drafts}");
        // What is to be read first counts, but for the prompt.
        let mut of_model = OfModel::default();
        let read = Proposal { n_read: 100, reading: 10 * STEP, ..Proposal::default() };
        of_model.add_proposal(&read);
        assert!(of_model.loss == 0.0 && of_model.may_cost(0.0, 64));
        of_model.add_proposal(&Proposal { tokens: vec![7], ..read });
        assert!(of_model.has_read && of_model.may_cost(0.0, 0));
        assert!(!of_model.may_cost(2.0, 64) && of_model.may_cost(4.0, 64));
    }

    #[test]
    fn what_is_lost_stays_a_small_share_unless_a_text_is_repeated() {
        let phrase: Vec<u32> = (0..50).chain([99]).chain(0..4).collect();
        let text: Vec<u32> = (0..50).chain([99]).chain(0..9).collect();
        let failed = || {
            let mut drafter = Drafter::new(Speculation::Auto);
            drafter.learn(0, 1, STEP);
            drafter.learn(1, 1, 2 * STEP);
            drafter.pause = 0;
            drafter
        };
        assert_eq!(failed().draft(&text, 8), [9]);
        let mut drafter = failed();
        assert!(drafter.draft(&phrase, 8).is_empty(), "one step of three was lost");
        (0..100).for_each(|_| drafter.learn(0, 1, STEP));
        assert_eq!(drafter.draft(&phrase, 8), [4]);
    }
}
