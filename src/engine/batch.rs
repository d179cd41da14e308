//! Shares of the next step: how many tokens each request has in it.
//!
//! Requests that generate come first, with one token each; parts of prompts fill the rest. Beside
//! generating requests prompts get only so many tokens that answers do not stutter. In every other
//! step the shortest prompt comes first, so that a short question overtakes a long text; in the
//! steps between, the oldest one does, so that the long text comes to its end.
//!
//! The choice depends on numbers of tokens and steps alone, never on clocks: equal histories make
//! equal steps.

/// Tokens of prompts in a step with generating requests, at most: their answers stutter as long as
/// the step takes, and tokens of larger parts are hardly cheaper.
const PROMPT_TOKENS_BESIDE: usize = 128;

/// Tokens that a request has in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Index of the request.
    pub task: usize,
    /// Number of its tokens.
    pub n_tokens: usize,
    /// Whether the tokens are the last that are known, so that the next one is to be drawn.
    pub draws: bool,
}

/// Limits of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tokens, at most.
    pub max_batch: usize,
    /// Rows of logits, at most.
    pub max_outputs: usize,
}

/// Shares of a step for requests that have so many tokens left to be computed (at least 1), in the
/// order of arrival. `n_steps` is the number of steps made before.
pub(super) fn shares(left: &[usize], limits: Limits, n_steps: usize) -> Vec<Share> {
    let Limits { max_batch: mut room, max_outputs: mut outputs } = limits;
    let n = left.len();
    let mut shares = Vec::with_capacity(n);
    // More requests than a step holds take turns.
    let order = (0..n).map(|i| (i + n_steps) % n);
    for task in order.filter(|&task| left[task] == 1) {
        if room == 0 || outputs == 0 {
            break;
        }
        (room, outputs) = (room - 1, outputs - 1);
        shares.push(Share { task, n_tokens: 1, draws: true });
    }
    if !shares.is_empty() {
        room = room.min(PROMPT_TOKENS_BESIDE);
    }
    let mut prompts: Vec<usize> = (0..n).filter(|&task| left[task] > 1).collect();
    if n_steps % 2 == 1 {
        prompts.sort_by_key(|&task| left[task]);
    }
    for task in prompts {
        // A prompt that would end where no row of logits is left waits with its last token.
        let n_wanted = if outputs > 0 { left[task] } else { left[task] - 1 };
        let n_tokens = n_wanted.min(room);
        if n_tokens > 0 {
            let draws = n_tokens == left[task];
            (room, outputs) = (room - n_tokens, outputs - usize::from(draws));
            shares.push(Share { task, n_tokens, draws });
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_batch: 512, max_outputs: 4 };

    fn told(left: &[usize], limits: Limits, n_steps: usize) -> Vec<(usize, usize, bool)> {
        let shares = shares(left, limits, n_steps);
        shares.iter().map(|share| (share.task, share.n_tokens, share.draws)).collect()
    }

    #[test]
    fn generating_requests_come_first_and_prompts_fill_what_is_left() {
        assert_eq!(told(&[600], LIMITS, 0), [(0, 512, false)]);
        assert_eq!(told(&[88], LIMITS, 1), [(0, 88, true)]);
        assert_eq!(told(&[1, 200, 1], LIMITS, 0), [(0, 1, true), (2, 1, true), (1, 128, false)]);
        assert_eq!(told(&[300, 300], LIMITS, 0), [(0, 300, true), (1, 212, false)]);
        assert_eq!(told(&[], LIMITS, 0), []);
    }

    #[test]
    fn a_short_prompt_overtakes_a_long_one_in_every_other_step() {
        assert_eq!(told(&[5000, 10], LIMITS, 0), [(0, 512, false)]);
        assert_eq!(told(&[5000, 10], LIMITS, 1), [(1, 10, true), (0, 502, false)]);
    }

    #[test]
    fn requests_take_turns_where_a_step_has_no_room_for_all() {
        let narrow = Limits { max_batch: 2, max_outputs: 4 };
        let first = |n_steps| told(&[1, 1, 1], narrow, n_steps)[0].0;
        assert_eq!([0, 1, 2].map(first), [0, 1, 2]);
        let silent = Limits { max_batch: 512, max_outputs: 1 };
        assert_eq!(told(&[1, 40], silent, 0), [(0, 1, true), (1, 39, false)]);
        assert_eq!(told(&[2, 40], silent, 0), [(0, 2, true), (1, 39, false)]);
    }
}
