//! Banned texts: an answer never has one. A token that would complete one is forbidden.
//!
//! The answer is the bytes of its tokens, so no cut of a text into tokens gets around it, and no token
//! is taken back: the answer goes on from the part of the text that it has. Prompts may have the texts.
//!
//! Cost: a pass over the vocabulary when a request begins, and a list of the tokens that complete a
//! text from where the answer is at each step.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams, Vocabulary,
};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "ban",
    other_names: &[],
    place: Place::First,
    params: &[Param {
        name: "ban",
        flag: "ban",
        help: "Never say this text. Several times for more",
        field: Field::List {
            delimiter: None,
            get: |p| p.ban.clone(),
            set: |p, value| p.ban = value,
        },
    }],
    build,
};

/// Most texts, and bytes of one: the tables grow with both.
const TEXTS_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 256;

type Vocab<'v> = Option<&'v Arc<dyn Vocabulary>>;

fn build(params: &SampleParams, vocab: Vocab<'_>) -> Result<Option<Box<dyn Filter>>, SampleError> {
    if params.ban.is_empty() {
        return Ok(None);
    }
    let vocabulary = FILTER.need(vocab)?;
    let refuse = |reason: String| Err(SampleError::Filter { filter: FILTER.name, reason });
    if params.ban.len() > TEXTS_MAX {
        return refuse(format!("{} texts are more than {TEXTS_MAX}", params.ban.len()));
    }
    for text in &params.ban {
        // What is no UTF-8 is shown as the replacement character, which the bytes do not have.
        let is_shown = !text.contains(char::REPLACEMENT_CHARACTER);
        if text.is_empty() || text.len() > TEXT_BYTES_MAX || !is_shown {
            let need = format!("1 to {TEXT_BYTES_MAX} bytes and no U+FFFD");
            return refuse(format!("{text:?}: a banned text has {need}"));
        }
    }
    let texts = Arc::new(Texts::of(&params.ban, &**vocabulary));
    let vocabulary = vocabulary.clone();
    Ok(Some(Box::new(Ban { texts, vocabulary, answer: None })))
}

/// Banned texts, and the tokens that complete them.
#[derive(Debug)]
struct Texts {
    texts: Vec<Vec<u8>>,
    /// Tokens that have a text in themselves.
    whole: Vec<u32>,
    /// Tokens that begin with the rest of a text, by its number and the bytes before the rest.
    rest: BTreeMap<(usize, usize), Vec<u32>>,
}

impl Texts {
    fn of(texts: &[String], vocabulary: &dyn Vocabulary) -> Texts {
        let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        let (mut whole, mut rest) = (Vec::new(), BTreeMap::<_, Vec<u32>>::new());
        for id in 0..vocabulary.len() as u32 {
            let bytes = vocabulary.bytes(id);
            if texts.iter().any(|text| bytes.windows(text.len()).any(|part| part == text)) {
                whole.push(id);
                continue;
            }
            for (number, text) in texts.iter().enumerate() {
                for n_before in 1..text.len() {
                    if bytes.starts_with(&text[n_before..]) {
                        rest.entry((number, n_before)).or_default().push(id);
                    }
                }
            }
        }
        Texts { texts, whole, rest }
    }

    /// Bytes of an answer that matter: as many as may begin a text.
    fn n_tail(&self) -> usize {
        self.texts.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1)
    }
}

#[derive(Clone, Debug)]
struct Ban {
    texts: Arc<Texts>,
    vocabulary: Arc<dyn Vocabulary>,
    /// End of the answer; `None` as long as the tokens are the prompt's.
    answer: Option<Vec<u8>>,
}

impl Filter for Ban {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        let answer = self.answer.get_or_insert_default();
        candidates.forbid(&self.texts.whole);
        for (&(number, n_before), tokens) in &self.texts.rest {
            if answer.ends_with(&self.texts.texts[number][..n_before]) {
                candidates.forbid(tokens);
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) {
        if let Some(answer) = &mut self.answer {
            answer.extend(self.vocabulary.bytes(token));
            answer.drain(..answer.len().saturating_sub(self.texts.n_tail()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Texts, left_by};
    use super::*;

    const TOKENS: &[&str] = &["a", "b", "ab", "ba", "bab", "", "aa", "c", "."];

    fn filter(ban: &[&str]) -> Result<Option<Box<dyn Filter>>, SampleError> {
        let ban = ban.iter().map(|&text| text.into()).collect();
        build(&SampleParams { ban, ..Default::default() }, Some(&Texts::of(TOKENS)))
    }

    #[test]
    fn no_answer_has_a_text_and_nothing_else_is_lost() {
        let mut rng = Rng::new(2);
        for ban in [&["ab"][..], &["aba", "bb"], &["c", "a"], &["bab"], &["aaaa", "ab.a"]] {
            let mut filter = filter(ban).unwrap().unwrap();
            // A prompt may have all of them.
            [2, 3, 4, 0, 7].iter().for_each(|&token| filter.accept(token));
            let mut answer = String::new();
            for _ in 0..300 {
                let left = left_by(&mut *filter, &[0.0; TOKENS.len()], &mut rng);
                for (id, text) in (0..).zip(TOKENS) {
                    let is_left = left.iter().any(|c| c.0 == id);
                    let next = format!("{answer}{text}");
                    let is_fine = !ban.iter().any(|banned| next.contains(banned));
                    assert_eq!(is_left, is_fine, "{text:?} behind {answer:?} without {ban:?}");
                }
                let (token, _) = left[rng.next_u64() as usize % left.len()];
                filter.accept(token);
                answer += TOKENS[token as usize];
            }
        }
    }

    #[test]
    fn texts_need_a_vocabulary_and_bytes() {
        assert!(filter(&[]).unwrap().is_none());
        for bad in ["", "\u{fffd}x"] {
            let error = filter(&[bad]).unwrap_err().to_string();
            assert!(error.contains("a banned text has 1 to 256 bytes"), "{error}");
        }
        let params = SampleParams { ban: vec!["x".into()], ..Default::default() };
        assert_eq!(build(&params, None).unwrap_err(), SampleError::NoVocabulary { filter: "ban" });
    }
}
