//! The page at `/`.

use super::{Reply, Serving};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// Bytes of the page, most: it is read by phones, too.
const PAGE_BYTES: usize = 100_000;

fn get(serving: &Serving, headers: &[&str]) -> Reply {
    serving.request("GET", "/", headers, b"")
}

/// What stands between a tag and its end, which is there once.
fn inside<'a>(page: &'a str, tag: &str) -> &'a str {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut parts = page.splitn(2, &open);
    let (_, rest) = (parts.next(), parts.next().expect("the tag"));
    let end = rest.find(&close).expect("its end");
    assert!(!rest[end..].contains(&open), "a second {tag}");
    &rest[..end]
}

/// A sum as policies have it.
fn sum(text: &str) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits =
        Sha256::digest(text).iter().fold(String::new(), |bits, byte| bits + &format!("{byte:08b}"));
    while bits.len() % 6 > 0 {
        bits.push('0');
    }
    let six = bits.as_bytes().chunks(6).map(|six| std::str::from_utf8(six).unwrap());
    let signs = six.map(|six| SIGNS[usize::from_str_radix(six, 2).unwrap()] as char);
    format!("'sha256-{}='", signs.collect::<String>())
}

/// The page's policy by its directives, in its own letters: [`Reply::head`] has small ones only.
fn policy(serving: &Serving) -> BTreeMap<String, String> {
    let mut stream = serving.connect();
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", serving.address);
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
    let directives = line.split("; ").filter_map(|directive| directive.split_once(' '));
    directives.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_page_runs_its_own_script_and_nothing_else() {
    let serving = Serving::start("page", &[]);
    let reply = get(&serving, &[]);
    assert_eq!(reply.status, 200);
    let page = reply.text();
    assert!(
        page.starts_with("<!doctype html>") && page.len() <= PAGE_BYTES,
        "{} bytes",
        page.len()
    );
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
        ("vary", "accept-encoding"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    let policy = policy(&serving);
    assert_eq!(policy.get("script-src"), Some(&sum(inside(&page, "script"))));
    assert_eq!(policy.get("style-src"), Some(&sum(inside(&page, "style"))));
    assert_eq!(policy.get("default-src").map(String::as_str), Some("'self'"));
    for closed in ["object-src", "base-uri", "form-action", "frame-ancestors", "frame-src"] {
        assert_eq!(policy.get(closed).map(String::as_str), Some("'none'"), "{closed}");
    }
    // Nothing is fetched from elsewhere, and nothing runs that the sums do not cover.
    let html = page.replace(inside(&page, "script"), "").replace(inside(&page, "style"), "");
    for hole in
        [" src=", " srcset=", "style=", " onclick=", " onload=", "http:", "https:", "@import"]
    {
        assert!(!html.contains(hole), "{hole}");
    }
    let style = inside(&page, "style");
    assert!(!style.contains("url(") && !style.contains("@import"));
    // Texts of models are never read as markup.
    let script = inside(&page, "script");
    for sink in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
    {
        assert!(!script.contains(sink), "{sink}");
    }
}

#[test]
fn the_page_is_sent_once_and_small() {
    let serving = Serving::start("page-cache", &[]);
    let plain = get(&serving, &[]);
    let packed = get(&serving, &["Accept-Encoding: br, gzip"]);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(plain.header("content-encoding"), None);
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
    assert!(packed.body.len() * 2 < plain.body.len(), "{} bytes", packed.body.len());
    let tags = [plain.header("etag").unwrap(), packed.header("etag").unwrap()];
    assert_ne!(tags[0], tags[1]);
    for (tag, encoding, status) in [
        (tags[0], "identity", 304),
        (tags[1], "gzip", 304),
        (tags[0], "gzip", 200),
        ("\"other\"", "identity", 200),
        ("*", "identity", 304),
    ] {
        let headers = [format!("If-None-Match: {tag}"), format!("Accept-Encoding: {encoding}")];
        let reply = get(&serving, &[&headers[0], &headers[1]]);
        assert_eq!(reply.status, status, "{tag} {encoding}");
        assert_eq!(reply.body.is_empty(), status == 304);
        assert!(reply.header("content-security-policy").is_some());
    }
    let weak = format!("If-None-Match: \"x\", W/{}", tags[0]);
    assert_eq!(get(&serving, &[&weak]).status, 304);
    let head = serving.request("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("etag"), Some(tags[0]));
    assert_eq!(serving.request("POST", "/", &[], b"").status, 405);
}

#[test]
fn the_page_needs_no_key_but_a_right_host() {
    let keys = crate::folder::Folder::new("serve-page-keys");
    let file = keys.0.join("keys");
    std::fs::write(&file, "secret\n").unwrap();
    let serving = Serving::start("page-key", &["--api-key-file", crate::cli::text(&file)]);
    assert_eq!(get(&serving, &[]).status, 200);
    assert_eq!(serving.get("/v1/models").status, 401);
    assert_eq!(serving.get("//").status, 401);
    let foreign = serving.raw(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(foreign.status, 403);
}
