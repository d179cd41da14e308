//! HTTPS: the same answers, certificates that are wrong, clients that speak something else.

use super::{Reply, Serving};
use crate::cli::{teff, text};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tls").join(name)
}

/// A client that trusts the server's certificate, and speaks one version.
fn client(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(golden("cert.pem")).unwrap();
    roots.add(certificate).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    builder.with_root_certificates(roots).with_no_client_auth().into()
}

/// A chat completion over TLS.
fn ask(serving: &Serving, version: &'static SupportedProtocolVersion) -> Reply {
    let name = "localhost".try_into().unwrap();
    let connection = ClientConnection::new(client(version), name).unwrap();
    let mut stream = StreamOwned::new(connection, serving.connect());
    let message = json!({ "role": "user", "content": "one" });
    let body = json!({ "messages": [message], "temperature": 0, "max_tokens": 8 }).to_string();
    let head = format!("Host: localhost\r\nConnection: close\r\nContent-Length: {}", body.len());
    let request = format!("POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    Reply::read(stream)
}

#[test]
fn answers_are_those_without_encryption() {
    let plain = Serving::start("tls-plain", &[]).chat(json!({})).content();
    let (cert, key) = (golden("cert.pem"), golden("key.pem"));
    let args = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let serving = Serving::start("tls", &args);
    for version in [&TLS12, &TLS13] {
        let reply = ask(&serving, version);
        assert_eq!((reply.status, reply.content()), (200, plain.clone()), "{version:?}");
        // Nothing is said to who speaks HTTP without TLS, and others are not disturbed.
        let reply = serving.get("/health");
        assert_eq!((reply.status, &reply.head[..]), (0, ""));
    }
}

#[test]
fn wrong_certificates_are_named() {
    let [cert, key, other] = ["cert.pem", "key.pem", "other-key.pem"].map(golden);
    let [cert, key, other] = [&cert, &key, &other].map(|path| text(path));
    for (args, code, expected) in [
        (vec!["--tls-cert", cert], 2, "--tls-key"),
        (vec!["--tls-key", key], 2, "--tls-cert"),
        (vec!["--tls-cert", key, "--tls-key", key], 1, "key.pem: has no certificate"),
        (vec!["--tls-cert", cert, "--tls-key", cert], 1, "cert.pem: has no private key"),
        (vec!["--tls-cert", cert, "--tls-key", other], 1, "cert.pem: certificate and key"),
        (vec!["--tls-cert", "none.pem", "--tls-key", key], 1, "none.pem"),
    ] {
        let output = teff(&[&["serve", "-m", "none.gguf"][..], &args].concat(), "");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(expected), "{args:?}: {told}");
    }
}
