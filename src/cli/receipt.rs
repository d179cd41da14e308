//! What receipts of files say beside hashes.

use super::CliError;
use crate::convert::SELF_CHECK_TEXTS;
use crate::receipt::{Request, hash_of_path};
use crate::text::{EncodeOptions, Tokenizer};
use gguf_rs_lite::GgufFile;
use std::path::Path;

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
    let hash = hash_of_path(path, &|| true).map_err(CliError::at(path))?;
    Ok(hash.expect("nobody stops it"))
}
