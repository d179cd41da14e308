//! `teff serve` as clients see it, over real sockets: the tiny model answers.

mod answers;
mod dashboard;
mod early;
mod ends;
mod fields;
mod foreign;
mod inner;
mod limits;
mod models;
mod page;
mod restarts;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "otlp")]
mod traces;

use crate::cli::{program, text};
use crate::folder::Folder;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A template whose roles are told apart.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:";
/// Longest wait for anything: a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of the tiny model, with a cache folder of its own.
pub struct Serving {
    folder: Folder,
    args: Vec<String>,
    child: Child,
    address: String,
}

impl Serving {
    /// A server of several models: copies of the tiny one, in a folder.
    pub fn of_folder(name: &str, models: &[&str], args: &[&str]) -> Serving {
        let folder = Folder::new(&format!("serve-{name}"));
        let models_folder = folder.0.join("models");
        std::fs::create_dir_all(&models_folder).unwrap();
        for model in models {
            let keys = vec![("tokenizer.chat_template", TEMPLATE.into())];
            let path = folder.tiny_with(model, keys);
            std::fs::rename(path, models_folder.join(format!("{model}.gguf"))).unwrap();
        }
        let fixed =
            ["serve", "--models", text(&models_folder), "--port", "0", "-t", "1", "--no-log"];
        let args: Vec<String> = fixed.iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        let (child, address) = Serving::spawn(&folder, &args);
        Serving { folder, args, child, address }
    }

    /// A server with more arguments.
    pub fn start(name: &str, args: &[&str]) -> Serving {
        let folder = Folder::new(&format!("serve-{name}"));
        let keys = vec![
            ("tokenizer.chat_template", TEMPLATE.into()),
            ("llama.context_length", 200_000_u32.into()),
        ];
        let model = folder.tiny_with("talker", keys);
        let mut all = vec!["serve", "-m", text(&model), "--port", "0", "-t", "1", "--no-log"];
        if !args.contains(&"--ctx") {
            all.extend(["--ctx", "512"]);
        }
        all.extend(args);
        let args: Vec<String> = all.into_iter().map(str::to_owned).collect();
        let (child, address) = Serving::spawn(&folder, &args);
        Serving { folder, args, child, address }
    }

    fn spawn(folder: &Folder, args: &[String]) -> (Child, String) {
        let mut command = program();
        command.args(args).env("TEFF_CACHE", folder.0.join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            Some(line.strip_prefix("listening at ")?.split_once("://")?.1.to_owned())
        });
        // Whoever does not read what is written blocks the writer.
        std::thread::spawn(move || lines.for_each(drop));
        (child, address.expect("the server listens"))
    }

    /// Kills the process, and starts another as it was started.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.address) = Serving::spawn(&self.folder, &self.args);
    }

    /// Kills the process without a word.
    pub fn kill(&self) {
        let id = self.child.id().to_string();
        let status = std::process::Command::new("kill").args(["-9", &id]).status();
        assert!(status.unwrap().success());
    }

    /// A chat completion of a server that may be gone.
    pub fn try_post(&self, body: &Value) {
        let Ok(mut stream) = TcpStream::connect(&self.address) else { return };
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
    }

    /// The folder of prefixes.
    pub fn prefixes(&self) -> PathBuf {
        self.folder.0.join("cache/prefixes")
    }

    /// The model's file.
    pub fn model(&self) -> PathBuf {
        self.folder.0.join("talker.gguf")
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes, and reads until the server closes the connection.
    pub fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(bytes);
        Reply::read(stream)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        for header in headers {
            head += &format!("{header}\r\n");
        }
        self.raw(&[head.as_bytes(), b"\r\n", body].concat())
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = ["Content-Type: application/json"];
        self.request("POST", path, &headers, body.to_string().as_bytes())
    }

    /// A chat completion of few greedy tokens.
    pub fn chat(&self, more: Value) -> Reply {
        let mut body = json!({
            "messages": [{ "role": "user", "content": "one" }], "temperature": 0, "max_tokens": 8,
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post("/v1/chat/completions", &body)
    }

    /// A figure of the metrics.
    pub fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(name)).expect("a figure");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until nothing runs and nothing waits.
    pub fn wait_idle(&self) {
        let start = std::time::Instant::now();
        let busy = || {
            self.figure("vllm:num_requests_running{") + self.figure("vllm:num_requests_waiting{")
        };
        while busy() > 0.0 {
            assert!(start.elapsed() < PATIENCE, "requests still run");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends the process a signal.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Exit code of the process, which ends.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// Reads until the end of the connection.
    pub fn read(mut stream: impl Read) -> Reply {
        let mut bytes = Vec::new();
        // A reset behind the answer, of a request that was not read to its end, is no failure.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = match head.contains("transfer-encoding: chunked") {
            true => unchunked(&bytes[end..]),
            false => bytes[end..].to_vec(),
        };
        Reply { status, head, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}: {}", self.head, self.text()))
    }

    /// The answer's text of a chat completion.
    pub fn content(&self) -> String {
        let json = self.json();
        let content = json["choices"][0]["message"]["content"].as_str();
        content.unwrap_or_else(|| panic!("{json}")).to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Data of a stream; the last is `None` if it was `[DONE]`.
    pub fn events(&self) -> Vec<Option<Value>> {
        let text = self.text();
        let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        events.map(|data| (data != "[DONE]").then(|| serde_json::from_str(data).unwrap())).collect()
    }

    /// The same of a stream that has comments, too.
    pub fn events_of_data(&self) -> Vec<Option<Value>> {
        let text = self.text();
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.map(|data| (data != "[DONE]").then(|| serde_json::from_str(data).unwrap())).collect()
    }

    /// The error's message, field and code.
    pub fn error(&self) -> (String, Value, Value) {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("{json}"));
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        let message = error["message"].as_str().unwrap().to_owned();
        (message, error["param"].clone(), error["code"].clone())
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..at]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size.filter(|&size| size > 0 && bytes.len() >= at + 2 + size) else {
            break;
        };
        body.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        bytes = bytes.get(at + 4 + size..).unwrap_or_default();
    }
    body
}

/// What `teff run` answers to a whole prompt.
pub fn run(model: &Path, prompt: &str, n: &str) -> String {
    let args =
        ["run", "-m", text(model), "--raw", "-p", prompt, "-n", n, "--temp", "0", "--ctx", "512"];
    let output = crate::cli::teff(&args, "");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
}
