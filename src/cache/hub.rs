//! The Hugging Face hub over HTTPS: one listing call, then plain downloads that go on where they
//! broke off.
//!
//! Limits: every wait ends (connecting, the answer's head, each read), redirects and retries are
//! counted, answers have a largest size. A file may take as long as it keeps coming. The token
//! goes to the hub's own host alone, never to the storage that it redirects to, and appears in no
//! message. Without a network the first failure ends it, so that the next source gets its turn.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::error::CacheError;
use super::listing::{self, HubFile, LISTING_BYTES_MAX};
use super::partial::{CHUNK_BYTES, Partial};
use super::{Progress, Settings};

/// Most hops from the hub to the bytes; it takes one or two.
const REDIRECTS_MAX: u32 = 5;
/// Longest wait for a connection with TLS, and for the head of an answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Failures in a row before giving up on a source that has answered before.
const RETRIES_MAX: u32 = 5;
/// Bytes that a connection must bring for its failure to count as the first in a row.
const RETRY_EARNED_BYTES: u64 = 1 << 20;
/// Longest pause between two tries, also when the server asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Most pages of one listing, each of up to a thousand files.
const LISTING_PAGES_MAX: usize = 20;

/// A connection to the hub or to a mirror of it.
pub(super) struct Hub<'a> {
    agent: Agent,
    settings: &'a Settings,
    cancel: &'a AtomicBool,
}

/// Why one try failed.
enum Failure {
    /// Another try would fail the same way.
    Final(CacheError),
    /// Worth another try, after as long as the server asks for.
    Passing(CacheError, Option<Duration>),
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Failure {
        Failure::Final(error)
    }
}

impl<'a> Hub<'a> {
    pub fn new(settings: &'a Settings, cancel: &'a AtomicBool) -> Hub<'a> {
        let config = Agent::config_builder()
            .user_agent(concat!("teff/", env!("CARGO_PKG_VERSION")))
            .https_only(settings.hub_endpoint.starts_with("https://"))
            .http_status_as_error(false)
            .max_redirects(REDIRECTS_MAX)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_resolve(Some(ANSWER_WAIT_MAX))
            .timeout_connect(Some(ANSWER_WAIT_MAX))
            .timeout_recv_response(Some(ANSWER_WAIT_MAX))
            .timeout_per_read(Some(settings.stall_max))
            .build();
        Hub { agent: config.new_agent(), settings, cancel }
    }

    /// The files of use of a repository's main branch.
    pub fn list(&self, repo: &str) -> Result<Vec<HubFile>, CacheError> {
        let api = format!("{}/api/models/{repo}/tree/main?recursive=true", self.endpoint());
        let (mut files, mut url, mut retry) = (Vec::new(), api, Retry::new(self));
        for _ in 0..LISTING_PAGES_MAX {
            let (page, next) = loop {
                match self.listing_page(&url, &mut retry) {
                    Ok(page) => break page,
                    Err(failure) => retry.pause(failure)?,
                }
            };
            files.extend(listing::parse(repo, &page)?);
            match next {
                Some(next) => url = next,
                None => return Ok(files),
            }
        }
        let reason = format!("goes on after {LISTING_PAGES_MAX} pages");
        Err(CacheError::BadListing { repo: repo.to_owned(), reason })
    }

    /// Fetches what `partial` still lacks of a file.
    pub fn download(
        &self,
        repo: &str,
        revision: &str,
        file: &str,
        partial: &mut Partial,
        progress: &mut dyn Progress,
    ) -> Result<(), CacheError> {
        let url = format!("{}/{repo}/resolve/{revision}/{}", self.endpoint(), encode_path(file));
        let mut retry = Retry::new(self);
        loop {
            let before = partial.len();
            match self.transfer(&url, partial, progress, &mut retry) {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    if partial.len() >= before + RETRY_EARNED_BYTES {
                        retry.failures = 0;
                    }
                    retry.pause(failure)?;
                }
            }
        }
    }

    /// One page and the address of the next.
    fn listing_page(
        &self,
        url: &str,
        retry: &mut Retry<'_>,
    ) -> Result<(Vec<u8>, Option<String>), Failure> {
        let mut response = self.get(url, &[], retry)?;
        if response.status() != 200 {
            return Err(self.refused(url, &response));
        }
        // A page of another host would be another host's listing.
        let next = next_page(response.headers())
            .filter(|next| next.starts_with(&format!("{}/", self.endpoint())));
        let body = response.body_mut().with_config().limit(LISTING_BYTES_MAX).read_to_vec();
        Ok((body.map_err(|e| passing(url, &e.to_string()))?, next))
    }

    /// One connection: asks for the rest and takes what comes.
    fn transfer(
        &self,
        url: &str,
        partial: &mut Partial,
        progress: &mut dyn Progress,
        retry: &mut Retry<'_>,
    ) -> Result<(), Failure> {
        if partial.is_whole() {
            return Ok(());
        }
        let from = if partial.can_resume() { partial.len() } else { 0 };
        let range = format!("bytes={from}-");
        let headers: &[(&str, &str)] = match (from, partial.etag()) {
            (0, _) => &[],
            (_, None) => &[("Range", &range)],
            (_, Some(etag)) => &[("Range", &range), ("If-Range", etag)],
        };
        let response = self.get(url, headers, retry)?;
        let etag = strong_etag(response.headers());
        match response.status().as_u16() {
            // The whole file: nothing was asked, it has changed, or the server knows no ranges.
            200 => {
                let announced = header(response.headers(), "content-length");
                if let Some(got) = announced.and_then(|n| n.parse().ok())
                    && got != partial.total()
                {
                    let (what, expected) = (url.to_owned(), partial.total());
                    return Err(CacheError::WrongLength { what, expected, got }.into());
                }
                partial.restart(etag)?;
            }
            206 if is_rest(response.headers(), from, partial.total())
                && (etag.is_none() || partial.etag().is_none() || etag == partial.etag()) => {}
            206 | 416 => {
                partial.restart(None)?;
                return Err(passing(url, "answered another part of the file than asked for"));
            }
            _ => return Err(self.refused(url, &response)),
        }
        progress.advance(partial.len());
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(CacheError::Cancelled.into());
            }
            match body.read(&mut buffer) {
                Ok(0) if partial.is_whole() => return Ok(()),
                Ok(0) => return Err(passing(url, "the connection closed early")),
                Ok(n) => partial.append(&buffer[..n])?,
                Err(e) => return Err(passing(url, &e.to_string())),
            }
            progress.advance(partial.len());
        }
    }

    fn get(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        retry: &mut Retry<'_>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.settings.hub_token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match request.call() {
            Ok(response) => {
                retry.has_answered = true;
                Ok(response)
            }
            Err(e) if retry.has_answered => Err(passing(url, &e.to_string())),
            Err(e) => {
                Err(CacheError::Network { url: url.to_owned(), reason: e.to_string() }.into())
            }
        }
    }

    /// An answer that is not the file.
    fn refused(&self, url: &str, response: &Response<Body>) -> Failure {
        let code = response.status().as_u16();
        let has_token = self.settings.hub_token.is_some();
        let hint = match code {
            401 | 403 if has_token => {
                " (HF_TOKEN was sent: does it cover this repository, are its terms accepted?)"
            }
            401 | 403 => " (private, gated or absent: set HF_TOKEN after accepting its terms)",
            404 => " (no such repository or file)",
            429 => " (too many requests; HF_TOKEN raises the limit)",
            _ => "",
        };
        let error = CacheError::Status { url: url.to_owned(), code, hint };
        if !matches!(code, 408 | 429 | 500 | 502 | 503 | 504) {
            return Failure::Final(error);
        }
        let after = header(response.headers(), "retry-after").and_then(|s| s.parse().ok());
        Failure::Passing(error, after.map(Duration::from_secs))
    }

    fn endpoint(&self) -> &str {
        self.settings.hub_endpoint.trim_end_matches('/')
    }
}

/// Counts failures in a row and waits between them: 1, 2, 4, .. times the settings' pause.
struct Retry<'a> {
    failures: u32,
    /// Whether the server has ever answered; before that, trying again only delays bad news.
    has_answered: bool,
    pause: Duration,
    cancel: &'a AtomicBool,
}

impl<'a> Retry<'a> {
    fn new(hub: &Hub<'a>) -> Retry<'a> {
        let pause = hub.settings.retry_pause;
        Retry { failures: 0, has_answered: false, pause, cancel: hub.cancel }
    }

    /// Returns when it is time for another try.
    fn pause(&mut self, failure: Failure) -> Result<(), CacheError> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error, after) => (error, after),
        };
        self.failures += 1;
        if self.failures > RETRIES_MAX {
            return Err(error);
        }
        let pause = after.unwrap_or_else(|| self.pause * 2u32.pow(self.failures - 1));
        let until = Instant::now() + pause.min(PAUSE_MAX);
        while Instant::now() < until {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(CacheError::Cancelled);
            }
            thread::sleep(Duration::from_millis(20).min(until - Instant::now()));
        }
        Ok(())
    }
}

fn passing(url: &str, reason: &str) -> Failure {
    let (url, reason) = (url.to_owned(), reason.to_owned());
    Failure::Passing(CacheError::Network { url, reason }, None)
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The tag that stands for exactly these bytes; a weak one (`W/`) does not.
fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    header(headers, "etag").filter(|tag| tag.starts_with('"'))
}

/// Whether `Content-Range: bytes FROM-LAST/TOTAL` is the rest of the file.
fn is_rest(headers: &HeaderMap, from: u64, total: u64) -> bool {
    let parts = header(headers, "content-range")
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split_once('/'))
        .and_then(|(range, total)| Some((range.split_once('-')?, total)));
    parts.is_some_and(|((first, last), whole)| {
        first.parse() == Ok(from)
            && last.parse() == Ok(total - 1)
            && (whole == "*" || whole.parse() == Ok(total))
    })
}

/// The address in `Link: <ADDRESS>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = header(headers, "link")?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    Some(next.split_once('<')?.1.split_once('>')?.0.to_owned())
}

/// A repository path as part of a URL: everything but unreserved characters and `/` is escaped.
fn encode_path(path: &str) -> String {
    let mut url = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                url.push(char::from(byte));
            }
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        assert_eq!(encode_path("a b/ü#?%.gguf"), "a%20b/%C3%BC%23%3F%25.gguf");
    }

    #[test]
    fn only_the_rest_of_the_file_is_the_rest() {
        let is = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-range", value.parse().expect("ASCII"));
            is_rest(&headers, 5, 10)
        };
        assert!(is("bytes 5-9/10") && is("bytes 5-9/*"));
        for other in ["bytes 4-9/10", "bytes 5-8/10", "bytes 5-9/11", "bytes */10", "5-9/10", ""] {
            assert!(!is(other), "{other}");
        }
        assert!(!is_rest(&HeaderMap::new(), 5, 10));
    }

    #[test]
    fn next_pages_are_found() {
        let mut headers = HeaderMap::new();
        assert_eq!(next_page(&headers), None);
        let link = "<http://h/a?c=1>; rel=\"prev\", <http://h/b?c=2>; rel=\"next\"";
        headers.insert("link", link.parse().expect("ASCII"));
        assert_eq!(next_page(&headers).as_deref(), Some("http://h/b?c=2"));
    }
}
