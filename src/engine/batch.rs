//! Shares of the next step: how many tokens each request has in it.
//!
//! Requests that generate come first, with one token each; parts of prompts fill the rest. Beside
//! generating requests prompts get only so many tokens that answers do not stutter. Of prompts those come
//! first that have waited for many steps, then short ones, the shortest before the others, so that a
//! question overtakes a long text; long ones take turns. So the long text comes to its end, too.
//!
//! The choice depends on numbers of tokens and steps alone, never on clocks: equal histories make
//! equal steps.

/// Tokens of prompts in a step with generating requests, at most, when nobody says.
pub const PROMPT_TOKENS_BESIDE: usize = 64;
/// Steps without a fair share behind which a prompt comes before all that have waited less.
const STEPS_PASSED_MAX: usize = 8;
/// A prompt is short if it ends within so many steps that it has for itself.
const STEPS_SHORT: usize = 4;

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

/// Part of a step that a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Tokens that are yet to be computed, at least 1.
    pub left: usize,
    /// Steps since it had a fair share.
    pub n_passed: usize,
}

/// Limits of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tokens, at most.
    pub max_batch: usize,
    /// Rows of logits, at most.
    pub max_outputs: usize,
    /// Tokens of prompts beside generating requests, at most.
    pub max_beside: usize,
    /// Tokens of prompts where nothing generates, at most.
    pub max_prompts: usize,
}

/// Shares of a step for requests in the order of arrival. `n_steps` is the number of steps made before.
pub(super) fn shares(wanted: &[Wanted], limits: Limits, n_steps: usize) -> Vec<Share> {
    let Limits { max_batch: mut room, max_outputs: mut outputs, max_beside, max_prompts } = limits;
    let n = wanted.len();
    let mut shares = Vec::with_capacity(n);
    // More requests than a step holds take turns.
    let order = (0..n).map(|i| (i + n_steps) % n);
    for task in order.filter(|&task| wanted[task].left == 1) {
        if room == 0 || outputs == 0 {
            break;
        }
        (room, outputs) = (room - 1, outputs - 1);
        shares.push(Share { task, n_tokens: 1, draws: true });
    }
    room = room.min(if shares.is_empty() { max_prompts } else { max_beside });
    let mut prompts: Vec<usize> = (0..n).filter(|&task| wanted[task].left > 1).collect();
    prompts.sort_by_key(|&task| rank(wanted[task], room));
    for task in prompts {
        let left = wanted[task].left;
        // A prompt that would end where no row of logits is left waits with its last token.
        let n_wanted = if outputs > 0 { left } else { left - 1 };
        let n_tokens = n_wanted.min(room);
        if n_tokens > 0 {
            let draws = n_tokens == left;
            (room, outputs) = (room - n_tokens, outputs - usize::from(draws));
            shares.push(Share { task, n_tokens, draws });
        }
    }
    shares
}

/// Place of a prompt among others, the least first; equal ones are in the order of arrival.
fn rank(wanted: Wanted, room: usize) -> (u8, usize) {
    let Wanted { left, n_passed } = wanted;
    match (n_passed >= STEPS_PASSED_MAX, left <= STEPS_SHORT * room) {
        (true, _) => (0, usize::MAX - n_passed),
        (false, true) => (1, left),
        (false, false) => (2, usize::MAX - n_passed),
    }
}

/// Whether a share counts as one for a request that waits for its turn: all that it wants, or a good part
/// of what the step has for prompts.
pub(super) fn is_fair(share: Share, n_prompt: usize) -> bool {
    const PART: usize = 4;
    share.draws || share.n_tokens * PART >= n_prompt
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { max_batch: 512, max_outputs: 4, max_beside: 128, max_prompts: 512 };

    fn told(left: &[usize], limits: Limits, n_steps: usize) -> Vec<(usize, usize, bool)> {
        let wanted: Vec<Wanted> = left.iter().map(|&left| Wanted { left, n_passed: 0 }).collect();
        let shares = shares(&wanted, limits, n_steps);
        shares.iter().map(|share| (share.task, share.n_tokens, share.draws)).collect()
    }

    #[test]
    fn generating_requests_come_first_and_prompts_fill_what_is_left() {
        assert_eq!(told(&[600], LIMITS, 0), [(0, 512, false)]);
        assert_eq!(told(&[88], LIMITS, 1), [(0, 88, true)]);
        let slow = Limits { max_prompts: 64, ..LIMITS };
        assert_eq!(told(&[600], slow, 0), [(0, 64, false)]);
        assert_eq!(told(&[1, 200], slow, 0), [(0, 1, true), (1, 128, false)]);
        assert_eq!(told(&[1, 200, 1], LIMITS, 0), [(0, 1, true), (2, 1, true), (1, 128, false)]);
        assert_eq!(told(&[300, 300], LIMITS, 0), [(0, 300, true), (1, 212, false)]);
        assert_eq!(told(&[], LIMITS, 0), []);
    }

    #[test]
    fn a_short_prompt_overtakes_a_long_one() {
        for n_steps in 0..3 {
            assert_eq!(told(&[5000, 10], LIMITS, n_steps), [(1, 10, true), (0, 502, false)]);
            assert_eq!(told(&[1, 600, 10], LIMITS, n_steps)[1], (2, 10, true));
        }
    }

    #[test]
    fn requests_take_turns_where_a_step_has_no_room_for_all() {
        let narrow = Limits { max_batch: 2, ..LIMITS };
        let first = |n_steps| told(&[1, 1, 1], narrow, n_steps)[0].0;
        assert_eq!([0, 1, 2].map(first), [0, 1, 2]);
        let silent = Limits { max_outputs: 1, ..LIMITS };
        assert_eq!(told(&[1, 40], silent, 0), [(0, 1, true), (1, 39, false)]);
        assert_eq!(told(&[2, 40], silent, 0), [(0, 2, true), (1, 39, false)]);
    }

    /// Steps until each of the prompts is computed, beside a request that generates and short prompts that
    /// never end to come.
    fn steps_to_end(prompts: &[usize], short: usize) -> Vec<usize> {
        let mut wanted = vec![Wanted { left: 1, n_passed: 0 }, Wanted { left: short, n_passed: 0 }];
        wanted.extend(prompts.iter().map(|&left| Wanted { left, n_passed: 0 }));
        let mut ends = vec![0; wanted.len()];
        for n_steps in 1..10_000 {
            let shares = shares(&wanted, LIMITS, n_steps);
            let n_prompt = shares.iter().filter(|share| share.task > 0).map(|s| s.n_tokens).sum();
            wanted.iter_mut().for_each(|one| one.n_passed += 1);
            for share in shares {
                let one = &mut wanted[share.task];
                if is_fair(share, n_prompt) {
                    one.n_passed = 0;
                }
                match (share.task, share.draws) {
                    (0, _) => {}
                    (1, true) => one.left = short,
                    (task, true) => (ends[task], one.left) = (n_steps, 1),
                    _ => one.left -= share.n_tokens,
                }
            }
            if ends[2..].iter().all(|&end| end > 0) {
                return ends.split_off(2);
            }
        }
        panic!("a prompt starves: {wanted:?}");
    }

    #[test]
    fn long_prompts_come_to_their_ends() {
        // All of the room is wanted by short prompts: every ninth step is a long one's.
        let ends = steps_to_end(&[3000], LIMITS.max_beside);
        assert!((200..230).contains(&ends[0]), "{ends:?}");
        // Those that leave something of it take nothing from it.
        assert!(steps_to_end(&[3000], 10)[0] <= 26);
        let ends = steps_to_end(&[3000, 3000], 10);
        assert!(ends[0].abs_diff(ends[1]) < 10, "they take turns: {ends:?}");
    }
}
