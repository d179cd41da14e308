//! SHA-256, which is there with the feature `receipt`.

#[cfg(feature = "receipt")]
use sha2::{Digest, Sha256};

/// A hash on its way.
#[cfg(feature = "receipt")]
#[derive(Default)]
pub struct Hasher(Sha256);

#[cfg(feature = "receipt")]
impl Hasher {
    /// Goes on with bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash in hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Hasher without the feature, which hashes nothing.
#[cfg(not(feature = "receipt"))]
#[derive(Default)]
pub struct Hasher;

#[cfg(not(feature = "receipt"))]
impl Hasher {
    /// Nothing.
    pub fn update(&mut self, _: &[u8]) {}

    /// As many digits as a hash has.
    pub fn finish(self) -> String {
        "0".repeat(super::DIGITS)
    }
}
