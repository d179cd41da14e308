//! DRY, don't repeat yourself (p-e-w 2024): a token that would go on with a repetition of what was
//! said before costs `multiplier * base^(length - allowed)`.
//!
//! No repetition goes across a sequence breaker, a text that some tokens of the history have or end
//! with, and tokens that have one cost nothing. Breakers are looked for in the bytes of the tokens,
//! however those cut them. Cost: two passes over the window by the Z-algorithm (Gusfield 1997).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::math::power;
use super::{
    Candidates, Field, Filter, FilterDef, Param, Place, REPEAT_LAST_N_MAX, Rng, SampleError,
    SampleParams, Vocabulary,
};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "dry",
    other_names: &[],
    place: Place::Listed,
    params: &[
        Param {
            name: "dry_multiplier",
            flag: "dry-multiplier",
            help: "Make what goes on with a repetition less likely, by so much; 0 is off",
            field: Field::Number {
                min: 0.0,
                max: 100.0,
                get: |p| f64::from(p.dry_multiplier),
                set: |p, value| p.dry_multiplier = value as f32,
            },
        },
        Param {
            name: "dry_base",
            flag: "dry-base",
            help: "Base of the power by which longer repetitions cost more",
            field: Field::Number {
                min: 1.0,
                max: 100.0,
                get: |p| f64::from(p.dry_base),
                set: |p, value| p.dry_base = value as f32,
            },
        },
        Param {
            name: "dry_allowed_length",
            flag: "dry-allowed-length",
            help: "Repetitions of this many tokens are the first that cost",
            field: Field::Integer {
                min: 0,
                max: REPEAT_LAST_N_MAX as i64,
                get: |p| p.dry_allowed_length as i64,
                set: |p, value| p.dry_allowed_length = value as usize,
            },
        },
        Param {
            name: "dry_penalty_last_n",
            flag: "dry-penalty-last-n",
            help: "How many tokens back repetitions are looked for; -1 is all, 0 is off",
            field: Field::Integer {
                min: -1,
                max: REPEAT_LAST_N_MAX as i64,
                get: |p| p.dry_penalty_last_n,
                set: |p, value| p.dry_penalty_last_n = value,
            },
        },
        Param {
            name: "dry_sequence_breakers",
            flag: "dry-sequence-breaker",
            help: "No repetition goes across this text; several times for more, none for none",
            field: Field::List {
                delimiter: None,
                get: |p| p.dry_sequence_breakers.clone(),
                set: |p, value| p.dry_sequence_breakers = value,
            },
        },
    ],
    build,
};

type Vocab<'v> = Option<&'v Arc<dyn Vocabulary>>;

fn build(params: &SampleParams, vocab: Vocab<'_>) -> Result<Option<Box<dyn Filter>>, SampleError> {
    let last_n = usize::try_from(params.dry_penalty_last_n).unwrap_or(REPEAT_LAST_N_MAX);
    if params.dry_multiplier == 0.0 || last_n == 0 {
        return Ok(None);
    }
    let breakers = params.dry_sequence_breakers.iter().filter(|text| *text != "none");
    let breakers: Vec<Vec<u8>> = breakers.map(|text| text.as_bytes().to_vec()).collect();
    if breakers.iter().any(|text| text.is_empty() || text.len() > BREAKER_BYTES_MAX) {
        let reason = format!("a sequence breaker has 1 to {BREAKER_BYTES_MAX} bytes");
        return Err(SampleError::Filter { filter: FILTER.name, reason });
    }
    let vocabulary = match breakers.is_empty() {
        true => None,
        false => Some(FILTER.need(vocab)?.clone()),
    };
    Ok(Some(Box::new(Dry {
        multiplier: f64::from(params.dry_multiplier),
        base: f64::from(params.dry_base),
        allowed: params.dry_allowed_length,
        last_n,
        breakers,
        vocabulary,
        window: VecDeque::new(),
        tail: Vec::new(),
        n_unbroken: 0,
    })))
}

/// Longest breaker.
const BREAKER_BYTES_MAX: usize = 256;

#[derive(Clone, Debug)]
struct Dry {
    multiplier: f64,
    base: f64,
    allowed: usize,
    last_n: usize,
    breakers: Vec<Vec<u8>>,
    /// Known if there are breakers.
    vocabulary: Option<Arc<dyn Vocabulary>>,
    /// The last tokens.
    window: VecDeque<u32>,
    /// The last bytes, as many as may begin a breaker.
    tail: Vec<u8>,
    /// Tokens since the one in which the last breaker ended.
    n_unbroken: usize,
}

impl Dry {
    /// Whether some bytes have a breaker.
    fn has_breaker(&self, bytes: &[u8]) -> bool {
        self.breakers.iter().any(|b| bytes.windows(b.len()).any(|part| part == b))
    }

    /// What each token would go on with: the length of the longest repetition before it.
    fn lengths(&self) -> BTreeMap<u32, usize> {
        let mut lengths = BTreeMap::new();
        let most = self.n_unbroken.min(self.window.len());
        if self.window.len() <= self.allowed || most < self.allowed {
            return lengths;
        }
        let reversed: Vec<u32> = self.window.iter().rev().copied().collect();
        for (at, &repeated) in prefix_lengths(&reversed).iter().enumerate().skip(1) {
            let length = repeated.min(most);
            if length >= self.allowed {
                let longest = lengths.entry(reversed[at - 1]).or_insert(length);
                *longest = length.max(*longest);
            }
        }
        lengths
    }
}

impl Filter for Dry {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        for (token, length) in self.lengths() {
            let breaks =
                self.vocabulary.as_ref().is_some_and(|v| self.has_breaker(&v.bytes(token)));
            if !breaks {
                let excess = (length - self.allowed).min(u32::MAX as usize) as u32;
                let penalty = self.multiplier * power(self.base, excess);
                // Finite stays finite: infinities mean "forbidden" or "broken model".
                let less = |logit: f32| (f64::from(logit) - penalty).max(f64::from(f32::MIN));
                candidates.change(token, |logit| less(logit) as f32);
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        if self.window.len() == self.last_n {
            self.window.pop_front();
        }
        self.window.push_back(token);
        self.n_unbroken += 1;
        let Some(vocabulary) = &self.vocabulary else { return };
        let n_before = self.tail.len();
        self.tail.extend(vocabulary.bytes(token));
        // A breaker that ended before is not found again.
        let ends_here = |b: &Vec<u8>| {
            let from = (n_before + 1).saturating_sub(b.len());
            self.tail[from..].windows(b.len()).any(|part| part == b)
        };
        if self.breakers.iter().any(ends_here) {
            self.n_unbroken = 0;
        }
        let kept = self.breakers.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1);
        self.tail.drain(..self.tail.len().saturating_sub(kept));
    }
}

/// For each position the number of elements from there on that are those from the start on.
fn prefix_lengths(x: &[u32]) -> Vec<usize> {
    let mut lengths = vec![0; x.len()];
    // The part that reaches farthest to the right of those found so far.
    let (mut start, mut end) = (0, 0);
    for at in 1..x.len() {
        let known = if at < end { lengths[at - start].min(end - at) } else { 0 };
        let more = x[at + known..].iter().zip(&x[known..]).take_while(|(a, b)| a == b).count();
        lengths[at] = known + more;
        if at + lengths[at] > end {
            (start, end) = (at, at + lengths[at]);
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Texts, left_by};
    use super::*;

    fn params(allowed: usize, breakers: &[&str]) -> SampleParams {
        SampleParams {
            dry_multiplier: 1.0,
            dry_base: 2.0,
            dry_allowed_length: allowed,
            dry_sequence_breakers: breakers.iter().map(|&text| text.into()).collect(),
            ..Default::default()
        }
    }

    /// What each of the tokens loses behind a text.
    fn losses(params: &SampleParams, texts: &[&'static str], said: &[u32]) -> Vec<f64> {
        let mut filter = build(params, Some(&Texts::of(texts))).unwrap().unwrap();
        said.iter().for_each(|&token| filter.accept(token));
        let left = left_by(&mut *filter, &vec![0.0; texts.len()], &mut Rng::new(0));
        let most = left.iter().map(|c| c.1).fold(0.0, f64::max);
        left.iter().map(|&(_, p)| (-(p / most).ln() * 1e6).round() / 1e6).collect()
    }

    const LETTERS: &[&str] = &["a", "b", "c", "d", "\n", "xy", "z"];

    #[test]
    fn longer_repetitions_cost_more() {
        let off = params(2, &[]);
        // a b c d a b c: d would go on with three, at 2^(3 - 2).
        assert_eq!(losses(&off, LETTERS, &[0, 1, 2, 3, 0, 1, 2]), [0., 0., 0., 2., 0., 0., 0.]);
        // Only b c is repeated: 2^0; of two that go on the longer one counts.
        assert_eq!(losses(&off, LETTERS, &[3, 1, 2, 0, 1, 2]), [1., 0., 0., 0., 0., 0., 0.]);
        let text = [0, 1, 2, 3, 6, 1, 2, 3, 5, 0, 1, 2];
        assert_eq!(losses(&off, LETTERS, &text), [0., 0., 0., 2., 0., 0., 0.]);
        assert_eq!(losses(&params(4, &[]), LETTERS, &text), [0.; 7]);
        let short = SampleParams { dry_penalty_last_n: 4, ..off };
        assert_eq!(losses(&short, LETTERS, &text), [0.; 7]);
    }

    #[test]
    fn no_repetition_goes_across_a_breaker_however_tokens_cut_it() {
        let text = [0, 1, 2, 3, 0, 1, 2];
        assert_eq!(losses(&params(2, &["b"]), LETTERS, &text), [0.; 7]);
        assert_eq!(losses(&params(1, &["b"]), LETTERS, &text), [0., 0., 0., 1., 0., 0., 0.]);
        // A breaker of two tokens: nothing repeated is left behind it.
        assert_eq!(losses(&params(1, &["bc"]), LETTERS, &text), [0.; 7]);
        assert_eq!(losses(&params(1, &["ab"]), LETTERS, &text), [0., 0., 0., 1., 0., 0., 0.]);
        // What has a breaker costs nothing itself.
        assert_eq!(losses(&params(2, &["d"]), LETTERS, &[0, 1, 2, 3, 0, 1, 2]), [0.; 7]);
        assert_eq!(losses(&params(2, &["none"]), LETTERS, &text)[3], 2.0);
    }

    #[test]
    fn repetitions_agree_with_plain_loops() {
        let mut rng = Rng::new(5);
        for round in 0..300 {
            let text: Vec<u32> =
                (0..1 + rng.next_u64() % 60).map(|_| (rng.next_u64() % 3) as u32).collect();
            let allowed = round % 4;
            let mut filter = build(&params(allowed, &[]), None).unwrap().unwrap();
            text.iter().for_each(|&token| filter.accept(token));
            let mut expected = [0.0; 3];
            if text.len() > allowed {
                for at in 0..text.len() - 1 {
                    // The text up to `at` ends as the whole text does.
                    let n =
                        (0..=at).take_while(|&i| text[at - i] == text[text.len() - 1 - i]).count();
                    if n >= allowed {
                        let loss = 2f64.powi((n - allowed) as i32);
                        let token = text[at + 1] as usize;
                        expected[token] = f64::max(expected[token], loss);
                    }
                }
            }
            let (mut logits, mut room, mut list) = ([0.0; 3], Vec::new(), Vec::new());
            let logits_of = teff_kernels::BlockMax::of(&mut logits, &mut room);
            let mut candidates = Candidates::new(logits_of, &mut list);
            filter.apply(&mut candidates, &mut rng).unwrap();
            assert_eq!(logits.map(|l| -f64::from(l)), expected, "{text:?}");
        }
    }

    #[test]
    fn breakers_need_texts_and_have_some() {
        assert!(build(&SampleParams::default(), None).unwrap().is_none());
        let error = build(&params(2, &["x"]), None).unwrap_err();
        assert_eq!(error, SampleError::NoVocabulary { filter: "dry" });
        assert!(build(&params(2, &[""]), Some(&Texts::of(LETTERS))).is_err());
    }
}
