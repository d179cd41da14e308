//! A hub on the loopback interface, which does what a script says.

use crate::folder::Folder;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use teff::cache::Settings;

/// What the server does with a request for the model's bytes.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Statuses to answer with, one per request, before anything else.
    pub refusals: Vec<(u16, &'static str)>,
    /// After how many body bytes to close the connection, one per request.
    pub cuts: Vec<usize>,
    pub ignores_range: bool,
    /// Answers a range with another one.
    pub wrong_range: bool,
    /// Sends no `Content-Length` and never stops.
    pub endless: bool,
    /// Announces this many bytes instead of the true length.
    pub announces: Option<usize>,
    pub etag: Option<&'static str>,
    /// Hops before the bytes.
    pub redirects: usize,
    /// Stops sending, without closing, after so many bytes.
    pub stalls_after: Option<usize>,
    pub needs_token: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub headers: HashMap<String, String>,
}

impl Request {
    pub fn range(&self) -> Option<usize> {
        let range = self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?;
        range.parse().ok()
    }
}

pub struct Hub {
    pub endpoint: String,
    pub body: Vec<u8>,
    /// Bodies of other files, by their names.
    pub files: Mutex<HashMap<String, Vec<u8>>>,
    pub listing: Mutex<String>,
    pub script: Mutex<Script>,
    pub requests: Mutex<Vec<Request>>,
}

impl Hub {
    /// Serves `body` as `o/r:m-Q4_0.gguf` until the test process ends.
    pub fn start(body: Vec<u8>, script: Script) -> Arc<Hub> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let sha256 = hex(&body);
        let listing = format!(
            r#"[{{"type":"file","path":"README.md","size":1}},
                {{"type":"file","path":"m-Q4_0.gguf","size":{},"lfs":{{"oid":"{sha256}"}}}}]"#,
            body.len()
        );
        let hub = Arc::new(Hub {
            endpoint,
            body,
            files: Mutex::default(),
            listing: Mutex::new(listing),
            script: Mutex::new(script),
            requests: Mutex::default(),
        });
        let server = hub.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that has seen enough closes the connection: no failure.
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        hub
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = HashMap::new();
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let request = Request { path, headers };
        self.requests.lock().expect("no panic").push(request.clone());
        self.answer(&request, &mut stream)
    }

    fn answer(&self, request: &Request, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut script = self.script.lock().expect("no panic");
        if let Some(token) = script.needs_token
            && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
        {
            return head(stream, 401, "Content-Length: 0\r\n");
        }
        if request.path.starts_with("/api/") {
            let listing = self.listing.lock().expect("no panic").clone();
            head(stream, 200, &format!("Content-Length: {}\r\n", listing.len()))?;
            return stream.write_all(listing.as_bytes());
        }
        if !script.refusals.is_empty() {
            let (status, headers) = script.refusals.remove(0);
            return head(stream, status, &format!("Content-Length: 0\r\n{headers}"));
        }
        let hop: usize =
            request.path.split("?hop=").nth(1).map_or(0, |n| n.parse().expect("a number"));
        if hop < script.redirects {
            let to = format!("Location: /storage?hop={}\r\nContent-Length: 0\r\n", hop + 1);
            return head(stream, 302, &to);
        }
        let cut = if script.cuts.is_empty() { usize::MAX } else { script.cuts.remove(0) };
        let script = script.clone();
        self.send_body(request, &script, cut, stream)
    }

    fn send_body(
        &self,
        request: &Request,
        script: &Script,
        cut: usize,
        stream: &mut TcpStream,
    ) -> std::io::Result<()> {
        let name = request.path.split("/resolve/main/").nth(1).unwrap_or_default();
        let file = self.files.lock().expect("no panic").get(name).cloned();
        let body = file.as_ref().unwrap_or(&self.body);
        let is_same = match (request.headers.get("if-range"), script.etag) {
            (Some(theirs), ours) => Some(theirs.as_str()) == ours,
            (None, _) => true,
        };
        let from = request.range().filter(|_| is_same && !script.ignores_range).unwrap_or(0);
        let etag = script.etag.map_or(String::new(), |tag| format!("ETag: {tag}\r\n"));
        if script.endless {
            head(stream, 200, "Connection: close\r\n")?;
            loop {
                stream.write_all(body)?;
            }
        }
        let rest = &body[from..];
        let len = script.announces.unwrap_or(rest.len());
        let mut headers = format!("Content-Length: {len}\r\n{etag}");
        if from > 0 {
            let first = if script.wrong_range { from - 1 } else { from };
            let (last, total) = (body.len() - 1, body.len());
            headers += &format!("Content-Range: bytes {first}-{last}/{total}\r\n");
        }
        head(stream, if from > 0 { 206 } else { 200 }, &headers)?;
        if let Some(stall) = script.stalls_after {
            stream.write_all(&rest[..stall])?;
            thread::sleep(Duration::from_secs(20));
        }
        stream.write_all(&rest[..cut.min(rest.len())])
    }

    pub fn settings(&self, dir: &Folder) -> Settings {
        Settings {
            hub_endpoint: self.endpoint.clone(),
            retry_pause: Duration::from_millis(1),
            stall_max: Duration::from_secs(5),
            python: Some(dir.0.join("no-python-here")),
            ..Settings::in_dir(&dir.0)
        }
    }

    /// Requests for the model's bytes so far.
    pub fn transfers(&self) -> Vec<Request> {
        let all = self.requests.lock().expect("no panic").clone();
        all.into_iter().filter(|r| !r.path.starts_with("/api/")).collect()
    }
}

fn head(stream: &mut TcpStream, status: u16, headers: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\n{headers}Connection: close\r\n\r\n")
}

/// The sha256 of bytes, in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
