//! Logit bias: what a user adds to the logits of single tokens, before all else. Minus infinity forbids
//! a token. A text means the tokens whose bytes it is, of which most vocabularies have one or none.

use std::sync::Arc;

use super::{
    Candidates, Field, Filter, FilterDef, Param, Place, Rng, SampleError, SampleParams, Value,
    Vocabulary,
};

pub(super) const FILTER: FilterDef = FilterDef {
    name: "logit-bias",
    other_names: &[],
    place: Place::First,
    params: &[Param {
        name: "logit_bias",
        flag: "logit-bias",
        help: "Add to the logit of a token, as 15-2.5, or \" text\"+1; -inf forbids it. Several times for more",
        field: Field::List {
            delimiter: None,
            get: |p| p.logit_bias.clone(),
            set: |p, value| p.logit_bias = value,
        },
    }],
    build,
};

/// Largest bias: far beyond any difference of logits.
const BIAS_MAX: f32 = 1e6;

type Vocab<'v> = Option<&'v Arc<dyn Vocabulary>>;

fn build(params: &SampleParams, vocab: Vocab<'_>) -> Result<Option<Box<dyn Filter>>, SampleError> {
    let mut biases = Vec::new();
    for text in &params.logit_bias {
        let (token, bias) = parse(text)?;
        let refuse = |reason: String| {
            let reason = format!("{text}: {reason}");
            Err(SampleError::Filter { filter: FILTER.name, reason })
        };
        let ids = match token {
            Token::Id(id) => vec![id],
            Token::Text(token) => {
                let vocabulary = FILTER.need(vocab)?;
                let is_it = |&id: &u32| vocabulary.bytes(id) == token.as_bytes();
                (0..vocabulary.len() as u32).filter(is_it).collect()
            }
        };
        if ids.is_empty() {
            return refuse("no token is this text".into());
        }
        if let Some(n) = vocab.map(|v| v.len()).filter(|&n| ids[0] as usize >= n) {
            return refuse(format!("the vocabulary has {n} tokens"));
        }
        biases.extend(ids.into_iter().map(|id| (id, bias)));
    }
    Ok((!biases.is_empty()).then(|| Box::new(LogitBias { biases }) as Box<dyn Filter>))
}

/// Token of a bias, by its number or its text.
#[derive(Debug, PartialEq)]
pub(super) enum Token {
    Id(u32),
    Text(String),
}

/// Reads `ID±B` or `"text"±B`.
pub(super) fn parse(text: &str) -> Result<(Token, f32), SampleError> {
    let refusal = || SampleError::Param {
        name: "logit_bias",
        value: Value::Text(text.to_owned()),
        need: format!(
            "a token's number or its text in double quotes, + or -, and a number up to {BIAS_MAX} or inf"
        ),
    };
    let quoted = text.strip_prefix('"').and_then(|rest| rest.rsplit_once('"'));
    let (token, bias) = match quoted {
        Some((token, bias)) if !token.is_empty() => (Token::Text(token.to_owned()), bias),
        _ => {
            let end = text.find(['+', '-']).ok_or_else(refusal)?;
            (Token::Id(text[..end].trim().parse().map_err(|_| refusal())?), &text[end..])
        }
    };
    let signed = bias.starts_with(['+', '-']);
    let bias: f32 = bias.parse().map_err(|_| refusal())?;
    match signed && (bias == f32::NEG_INFINITY || bias.abs() <= BIAS_MAX) {
        true => Ok((token, bias)),
        false => Err(refusal()),
    }
}

#[derive(Clone, Debug)]
struct LogitBias {
    biases: Vec<(u32, f32)>,
}

impl Filter for LogitBias {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        for &(token, bias) in &self.biases {
            match bias == f32::NEG_INFINITY {
                true => candidates.forbid(&[token]),
                // Finite stays finite.
                false => candidates.change(token, |l| (l + bias).clamp(f32::MIN, f32::MAX)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Texts, assert_distribution, filtered};
    use super::*;

    fn with(biases: &[&str]) -> Result<Option<Box<dyn Filter>>, SampleError> {
        let logit_bias = biases.iter().map(|&text| text.into()).collect();
        let params = SampleParams { logit_bias, ..SampleParams::default() };
        params.validate()?;
        build(&params, Some(&Texts::of(&["a", " b", "c\"-d", "e"])))
    }

    #[test]
    fn biases_are_added_and_forbid() {
        let left = |biases: &[&str]| filtered(with(biases).unwrap().unwrap(), &[0.0; 4]);
        // e of e + 3.
        let first = [(0, 0.47537), (1, 0.17488), (2, 0.17488), (3, 0.17488)];
        assert_distribution(&left(&["0+1"]), &first);
        assert_distribution(&left(&["0-inf", "3-inf"]), &[(1, 0.5), (2, 0.5)]);
        assert_distribution(
            &left(&["\" b\"-inf", "\"c\"-d\"-1e6", "0-1e6"]),
            &[(0, 0.0), (2, 0.0), (3, 1.0)],
        );
        // The same token twice: both count.
        let twice = [(0, 0.71123), (1, 0.09626), (2, 0.09626), (3, 0.09626)];
        assert_distribution(&left(&["0+1", "0+1"]), &twice);
        assert!(with(&[]).unwrap().is_none());
    }

    #[test]
    fn what_is_no_bias_is_refused() {
        for text in
            ["", "5", "+1", "x+1", "1+", "1+nan", "1+inf", "\"a\"2", "\"\"+1", "1+2e6", "-1+2"]
        {
            let error = with(&[text]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`logit_bias` is {text}: must be")), "{error}");
        }
        let error = with(&["4+1"]).unwrap_err().to_string();
        assert_eq!(error, "logit-bias: 4+1: the vocabulary has 4 tokens");
        let error = with(&["\"zz\"+1"]).unwrap_err().to_string();
        assert_eq!(error, "logit-bias: \"zz\"+1: no token is this text");
    }
}
