//! Parameters of the sampler from the fields of a request, by the rows of its table.

use crate::sample::{Field, Param, SampleError, SampleParams, Value, params};
use crate::serve::body::Fields;
use crate::serve::fault::Fault;
use crate::serve::fields::SAMPLER_NAMES;
use crate::serve::limits::BIASES;
use crate::serve::loaded::Loaded;
use serde_json::Value as Json;

/// The model's parameters with those of a request in their place.
///
/// # Errors
/// A field has a value that it cannot have, or one that has no effect.
pub fn sampling(fields: &Fields, loaded: &Loaded) -> Result<SampleParams, Fault> {
    let mut chosen = loaded.options.sampling.clone();
    let mut given = Vec::new();
    let own = params().map(|param| (param.name, param));
    let others = SAMPLER_NAMES.iter().filter_map(|(theirs, ours)| {
        params().find(|param| param.name == *ours).map(|param| (*theirs, param))
    });
    for (name, param) in own.chain(others) {
        let Some(value) = fields.get(name).filter(|value| !value.is_null()) else { continue };
        let value = match param.name {
            "logit_bias" => Some(Value::List(biases(value)?)),
            // As llama.cpp's clients say that there is no limit.
            "top_k" if value == -1 => Some(Value::Integer(0)),
            "repeat_last_n" if value == -1 => Some(Value::Integer(loaded.n_ctx as i64)),
            _ => value_of(param, value),
        };
        let value = value.ok_or_else(|| Fault::field(name, format!("must be {}", param.need())))?;
        param.assign(&mut chosen, value).map_err(|error| Fault::field(name, error))?;
        given.push(param.name);
    }
    let is_given = |param: &Param| given.contains(&param.name);
    chosen.forget_unused(is_given).map_err(refused)?;
    chosen.validate().map_err(refused)?;
    chosen.seed = match fields.get("seed").filter(|seed| !seed.is_null()) {
        Some(seed) => match (seed.as_u64(), seed.as_i64()) {
            (Some(seed), _) => seed,
            // As llama.cpp's clients ask for a new one.
            (_, Some(-1)) => crate::serve::fresh(),
            (_, Some(seed)) => seed as u64,
            _ => return Err(Fault::field("seed", "must be a whole number")),
        },
        None if loaded.options.fixed_seed => chosen.seed,
        None => crate::serve::fresh(),
    };
    Ok(chosen)
}

fn refused(error: SampleError) -> Fault {
    match &error {
        SampleError::Param { name, .. } | SampleError::Unused { name, .. } => {
            Fault::field(*name, &error)
        }
        _ => Fault::bad(error.to_string()),
    }
}

/// The value of a field; `None` if it is of another kind.
fn value_of(param: &Param, value: &Json) -> Option<Value> {
    Some(match (&param.field, value) {
        (Field::List { .. }, Json::Array(texts)) => {
            let texts: Option<Vec<String>> =
                texts.iter().map(|text| text.as_str().map(str::to_owned)).collect();
            Value::List(texts?)
        }
        (Field::List { delimiter: Some(_), .. }, Json::String(text)) => param.parse(text).ok()?,
        (Field::List { .. }, Json::String(text)) => Value::List(vec![text.clone()]),
        (_, Json::Number(number)) => match number.as_i64() {
            Some(n) => Value::Integer(n),
            None => Value::Number(number.as_f64()?),
        },
        (_, Json::Bool(yes)) => Value::Bool(*yes),
        (_, Json::String(text)) => Value::Text(text.clone()),
        _ => return None,
    })
}

/// Biases, as `{"15": -2.5}` or `[[15, -2.5], [" text", 1], [7, false]]`.
fn biases(value: &Json) -> Result<Vec<String>, Fault> {
    let wrong = || {
        Fault::field("logit_bias", "must map token ids to numbers, each from -1000000 to 1000000")
    };
    let pairs: Vec<(String, &Json)> = match value {
        Json::Object(map) => map.iter().map(|(token, bias)| (token.clone(), bias)).collect(),
        Json::Array(list) => list
            .iter()
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([Json::Number(id), bias]) => Ok((id.to_string(), bias)),
                Some([Json::String(text), bias]) => Ok((format!("\"{text}\""), bias)),
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(wrong()),
    };
    if pairs.len() > BIASES {
        return Err(Fault::field("logit_bias", format!("has more than {BIASES} entries")));
    }
    let text = |(token, bias): (String, &Json)| match bias {
        Json::Bool(false) => Ok(format!("{token}-inf")),
        bias => bias.as_f64().map(|bias| format!("{token}{:+}", bias as f32)).ok_or_else(wrong),
    };
    pairs.into_iter().map(text).collect()
}
