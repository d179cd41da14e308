//! `POST /v1/embeddings`, and `/v1/rerank` as Jina's API has it.

use super::chat_request::MODEL;
use crate::serve::body::{self, texts, typed};
use crate::serve::encoder::{LeftFlag, vectors};
use crate::serve::fault::Fault;
use crate::serve::fields::{Body, Field, Kind, field};
use crate::serve::limits::TEXTS;
use crate::serve::loaded::Loaded;
use crate::serve::routes::Call;
use crate::serve::{blocking, reading, reply};
use crate::text::EncodeOptions;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value as Json, json};
const TEXTS_FIELDS: &[Field] = &[
    field("input", Kind::Either(&[Kind::Text, Kind::List(&Kind::Any)]), "Texts or tokens")
        .required(),
    field("encoding_format", Kind::Word(&["float", "base64"]), ""),
    field("dimensions", Kind::Whole(1, i64::MAX), "Elements of a vector, which are the model's"),
];
const PAIRS_FIELDS: &[Field] = &[
    field("query", Kind::Text, "").required(),
    field("documents", Kind::List(&Kind::Either(&[Kind::Text, Kind::Object(DOCUMENT)])), ""),
    field("texts", Kind::List(&Kind::Text), "Another name of documents"),
    field("top_n", Kind::Whole(1, i64::MAX), "Documents to tell, most"),
    field("return_documents", Kind::Bool, "Tell the documents, too"),
];
const DOCUMENT: &[Field] = &[field("text", Kind::Text, "").required()];

/// The body of a request for vectors.
pub const EMBEDDINGS: Body = Body { tables: &[MODEL, TEXTS_FIELDS], samples: false };
/// The body of a request for scores.
pub const RERANK: Body = Body { tables: &[MODEL, PAIRS_FIELDS], samples: false };

#[derive(Debug, Deserialize)]
struct Embeddings {
    model: Option<String>,
    input: Option<Json>,
    encoding_format: Option<String>,
    dimensions: Option<u64>,
}

/// Turns texts into vectors.
///
/// # Errors
/// The request is wrong, or a text is too long.
pub async fn embeddings(call: Call) -> Result<Response, Fault> {
    let asked: Embeddings = typed(&call.fields)?;
    let loaded = call.app.model(asked.model.as_deref()).await?;
    let is_base64 = asked.encoding_format.as_deref() == Some("base64");
    let input = asked.input.unwrap_or_default();
    let reader = loaded.clone();
    let tokens = reading(&call.record, move || tokens(&reader, &input)).await?;
    let n_tokens: usize = tokens.iter().map(Vec::len).sum();
    let vectors = vectors(&loaded, tokens, asked.dimensions, "input").await?;
    let data: Vec<Json> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = match is_base64 {
                true => {
                    base64(&vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).into()
                }
                false => json!(vector),
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let answer = json!({
        "object": "list",
        "model": loaded.id,
        "data": data,
        "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
    });
    Ok(reply::json(StatusCode::OK, &answer))
}

/// The tokens of a text, several texts, token ids, or several lists of such.
///
/// # Errors
/// It is something else, there are too many, or one is empty.
pub fn tokens(loaded: &Loaded, input: &Json) -> Result<Vec<Vec<u32>>, Fault> {
    let encode = |text: &str| {
        let options = EncodeOptions { add_special: true, parse_special: false };
        Ok::<_, Fault>(loaded.tokenizer.encode(text, options)?)
    };
    let ids = |list: &Json| body::ids("input", list, loaded.n_vocab());
    let wrong =
        || Fault::field("input", "must be a text, a list of texts, token ids, or a list of such");
    let all: Vec<Vec<u32>> = match input {
        Json::String(text) => vec![encode(text)?],
        Json::Array(list) if list.is_empty() => return Err(wrong()),
        Json::Array(list) if list.len() > TEXTS && !list[0].is_number() => {
            return Err(Fault::field("input", format!("has more than {TEXTS} texts")));
        }
        Json::Array(list) if list.iter().all(Json::is_number) => vec![ids(input)?],
        Json::Array(list) => list
            .iter()
            .map(|one| match one {
                Json::String(text) => encode(text),
                Json::Array(_) => ids(one),
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(wrong()),
    };
    match all.iter().position(Vec::is_empty) {
        Some(i) => Err(Fault::field(format!("input[{i}]"), "is empty")),
        None => Ok(all),
    }
}

#[derive(Debug, Deserialize)]
struct Rerank {
    model: Option<String>,
    query: String,
    documents: Option<Vec<Json>>,
    texts: Option<Vec<String>>,
    top_n: Option<usize>,
    return_documents: Option<bool>,
}

/// Scores documents by a query.
///
/// # Errors
/// The request is wrong, or the model is no reranker.
pub async fn rerank(call: Call) -> Result<Response, Fault> {
    let asked: Rerank = typed(&call.fields)?;
    let loaded = call.app.model(asked.model.as_deref()).await?;
    let documents = match (asked.documents, asked.texts) {
        (Some(documents), _) => documents
            .iter()
            .map(|document| document.get("text").unwrap_or(document).clone())
            .collect::<Json>(),
        (None, Some(texts)) => json!(texts),
        (None, None) => return Err(Fault::field("documents", "is missing")),
    };
    let documents = texts("documents", &documents)?;
    if documents.is_empty() || documents.len() > TEXTS {
        let problem = format!("must have 1 to {TEXTS} documents");
        return Err(Fault::field("documents", problem));
    }
    let left = LeftFlag::new();
    let (has_left, model, query) = (left.flag(), loaded.clone(), asked.query);
    let reader = loaded.clone();
    let (pairs, documents) = reading(&call.record, move || {
        let pair = |document: &String| Ok(reader.tokenizer.encode_pair(&query, document)?);
        let pairs = documents.iter().map(pair).collect::<Result<Vec<_>, Fault>>()?;
        Ok((pairs, documents))
    })
    .await?;
    let n_tokens: usize = pairs.iter().map(Vec::len).sum();
    let scores = blocking(move || model.encoder()?.scores(&pairs, &has_left)).await?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Of equals the first come first.
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(asked.top_n.unwrap_or(usize::MAX));
    let tells = asked.return_documents.unwrap_or(false);
    let results = order.into_iter().map(|index| {
        let mut result = json!({ "index": index, "relevance_score": scores[index] });
        if tells {
            result["document"] = json!({ "text": documents[index] });
        }
        result
    });
    let answer = json!({
        "object": "list",
        "model": loaded.id,
        "results": results.collect::<Vec<Json>>(),
        "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
    });
    Ok(reply::json(StatusCode::OK, &answer))
}

/// Bytes as text of 64 characters.
pub fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let sign = SIGNS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i > group.len() { '=' } else { sign.into() });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_signs() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
