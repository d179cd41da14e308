//! Ids of tool calls, for models that write none.

use crate::random::SplitMix64;

/// Forms of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdForm {
    /// `call_` and 24 letters and digits.
    Call24,
    /// 9 letters and digits, which Mistral's templates insist on.
    Plain9,
}

/// Generator of ids: the same from the same seed.
#[derive(Clone, Debug)]
pub struct Ids(SplitMix64);

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Ids {
    /// The ids of a seed.
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    /// The next id.
    pub fn next(&mut self, form: IdForm) -> String {
        let (start, n) = match form {
            IdForm::Call24 => ("call_", 24),
            IdForm::Plain9 => ("", 9),
        };
        let letters = (0..n).map(|_| char::from(LETTERS[(self.0.next_u64() % 62) as usize]));
        start.chars().chain(letters).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_form_and_come_again_from_their_seed() {
        let ids = |seed| {
            let mut ids = Ids::new(seed);
            [IdForm::Call24, IdForm::Plain9, IdForm::Call24].map(|form| ids.next(form))
        };
        let [a, b, c] = ids(7);
        assert_eq!(ids(7), [a.clone(), b.clone(), c.clone()]);
        assert_ne!(ids(8)[0], a);
        assert_ne!(a, c);
        let letters = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
        assert!(a.len() == 29 && a.strip_prefix("call_").is_some_and(letters), "{a}");
        assert!(b.len() == 9 && letters(&b), "{b}");
    }
}
