//! `GET /`: a chat page for people, one document with its script and style, and nothing from elsewhere.
//!
//! Its parts are files of `page`, put together by the compiler. The first request has it compressed and its
//! hashes computed, some milliseconds; later ones are given what is there. The page has no secret, so it needs
//! no key: it asks for one when the API does.

use super::openai::embeddings::base64;
use super::routes::{Answer, Call};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::LazyLock;

const STYLE: &str = include_str!("page/page.css");
const BODY: &str = include_str!("page/body.html");
/// The script, each file on what stands before it.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/inline.js"),
    include_str!("page/markdown.js"),
    include_str!("page/store.js"),
    include_str!("page/stream.js"),
    include_str!("page/view.js"),
    include_str!("page/answer.js"),
    include_str!("page/app.js"),
    include_str!("page/keys.js"),
);

/// The page as it is sent.
struct Page {
    plain: String,
    gzip: Vec<u8>,
    /// What the browser may load and run: this style, this script, this server.
    policy: HeaderValue,
    etag: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

impl Page {
    fn new() -> Page {
        // Browsers hash lines as they read them, which end in one character.
        let (style, script) = (STYLE.replace("\r\n", "\n"), SCRIPT.replace("\r\n", "\n"));
        let plain = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>teff</title>\n\
             <link rel=\"icon\" href=\"data:,\">\n<style>{style}</style>\n<script>{script}</script>\n\
             </head>\n<body>\n{BODY}</body>\n</html>\n"
        );
        let policy = format!(
            "default-src 'self'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; \
             font-src 'none'; media-src 'none'; object-src 'none'; frame-src 'none'; worker-src 'none'; \
             manifest-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            base64(&Sha256::digest(&script)),
            base64(&Sha256::digest(&style)),
        );
        let etag: String =
            Sha256::digest(&plain).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        Page {
            gzip: gzip(plain.as_bytes()),
            plain,
            policy: HeaderValue::try_from(policy)
                .unwrap_or(HeaderValue::from_static("default-src 'none'")),
            etag,
        }
    }
}

/// Compressed bytes; empty if that fails, which memory alone could bring about.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
}

/// `GET /`
///
/// # Errors
/// There are none.
pub async fn page(call: Call) -> Answer {
    let request = &call.headers;
    let page = &*PAGE;
    let is_packed = !page.gzip.is_empty() && takes_gzip(request);
    let etag = format!("\"{}{}\"", page.etag, if is_packed { "-gzip" } else { "" });
    let is_known = has_etag(request, &etag);
    let mut response = Response::new(match (is_known, is_packed) {
        (true, _) => Body::empty(),
        (false, true) => Body::from(&page.gzip[..]),
        (false, false) => Body::from(&page.plain[..]),
    });
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    if !is_known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    if is_packed && !is_known {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, page.policy.clone());
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Headers that are always the same; `nosniff` is on every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-cache"),
    (header::VARY, "accept-encoding"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), clipboard-write=(self)",
    ),
];

/// Whether the client reads gzip.
fn takes_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).iter();
    let names = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut takes = None;
    for name in names {
        let (name, weight) = name.split_once(';').unwrap_or((name, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        let is_wanted = weight.is_ok_and(|weight| weight > 0.0);
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => takes = Some(is_wanted),
            "*" => takes = takes.or(Some(is_wanted)),
            _ => {}
        }
    }
    takes.unwrap_or(false)
}

/// Whether the client has this version already.
fn has_etag(request: &HeaderMap, etag: &str) -> bool {
    let values = request.get_all(header::IF_NONE_MATCH).iter();
    let mut tags =
        values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    tags.any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_that_read_it() {
        for (accepts, expected) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("*", true),
            ("deflate", false),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("*, gzip;q=0", false),
            ("gzip;q=x", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepts));
            assert_eq!(takes_gzip(&headers), expected, "{accepts}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
