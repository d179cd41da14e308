//! What receipts of files say beside hashes.

use super::CliError;
use crate::convert::SELF_CHECK_TEXTS;
use crate::quantize::receipt::{Request, TensorHash};
use crate::text::{EncodeOptions, Tokenizer};
use gguf_rs_lite::GgufFile;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// A request with the tokens that a file's vocabulary makes of some texts, if it has one.
pub fn request(file: &GgufFile) -> Request {
    let mut request = Request::default();
    if let Ok(tokenizer) = Tokenizer::from_gguf(file) {
        for text in SELF_CHECK_TEXTS {
            let ids = ids_of(&tokenizer, text);
            request.tokens.extend(ids.map(|ids| ((*text).to_owned(), ids)));
        }
    }
    request
}

/// The ids of a text in decimal, with spaces between; `None` if it cannot be cut.
pub fn ids_of(tokenizer: &Tokenizer, text: &str) -> Option<String> {
    let options = EncodeOptions { add_special: false, parse_special: true };
    let ids = tokenizer.encode(text, options).ok()?;
    Some(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

/// The sha256 of a file.
///
/// # Errors
/// It cannot be read.
pub fn hash_of(path: &Path) -> Result<String, CliError> {
    let mut file = File::open(path).map_err(CliError::at(path))?;
    let (mut hash, mut buffer) = (TensorHash::default(), vec![0; READ_BYTES]);
    loop {
        let n = file.read(&mut buffer).map_err(CliError::at(path))?;
        if n == 0 {
            return Ok(hash.finish());
        }
        hash.update(&buffer[..n]);
    }
}
