//! HTTPS: a server's certificate and key, as PEM.

use super::connection::Watched;
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Certificate of a server with its key; connections speak TLS 1.2 or 1.3, and HTTP/1.1 within.
#[derive(Clone)]
pub struct Tls(tokio_rustls::TlsAcceptor);

/// Fault of a certificate or its key.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The text has no certificate, or a damaged one.
    Certificate,
    /// The text has no private key, or a damaged one.
    Key,
    /// The two do not belong together, or are of a kind that is not supported.
    Pair(Error),
}

impl Tls {
    /// TLS by a chain of certificates, the server's own first, and its private key (PKCS#8, PKCS#1 or
    /// SEC1), both PEM.
    ///
    /// # Errors
    /// A text is no PEM of its kind, or the key is not the certificate's.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Tls, TlsError> {
        let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| TlsError::Certificate)?;
        if chain.is_empty() {
            return Err(TlsError::Certificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Key)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls(Arc::new(config).into()))
    }

    /// Greets a client.
    pub(super) async fn accept(&self, stream: Watched) -> io::Result<TlsStream<Watched>> {
        self.0.accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is in it.
        f.write_str("Tls")
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Certificate => f.write_str("has no certificate in PEM form"),
            TlsError::Key => f.write_str("has no private key in PEM form"),
            TlsError::Pair(error) => write!(f, "certificate and key: {error}"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TlsError::Pair(error) => Some(error),
            _ => None,
        }
    }
}
