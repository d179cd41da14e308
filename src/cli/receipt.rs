//! What receipts of files say beside hashes.

use super::CliError;
use crate::convert::SELF_CHECK_TEXTS;
use crate::receipt::{Request, hash_of_path, unstopped};
use crate::text::{EncodeOptions, Tokenizer};
use gguf_rs_lite::GgufFile;
use std::path::Path;

/// A request with the method, and the tokens that a file's vocabulary makes of some texts, if it has one.
pub fn request(file: &GgufFile, method: &str) -> Request {
    let mut request = Request::default();
    if let Ok(tokenizer) = Tokenizer::from_gguf(file) {
        for text in SELF_CHECK_TEXTS {
            let ids = ids_of(&tokenizer, text);
            request.tokens.extend(ids.map(|ids| ((*text).to_owned(), ids)));
        }
    }
    request.add("method", method);
    request
}

/// Adds the sha256 of files, each under its name; those that are `None` are passed over.
///
/// # Errors
/// One cannot be read.
pub fn add_files<'a>(
    request: &mut Request,
    files: impl IntoIterator<Item = (&'a str, Option<&'a Path>)>,
) -> Result<(), CliError> {
    for (name, path) in files {
        let Some(path) = path else { continue };
        let hash = unstopped(|goes_on| hash_of_path(path, goes_on)).map_err(CliError::at(path))?;
        request.add(&format!("{name}.sha256"), hash);
    }
    Ok(())
}

/// The ids of a text in decimal, with spaces between; `None` if it cannot be cut.
pub fn ids_of(tokenizer: &Tokenizer, text: &str) -> Option<String> {
    let options = EncodeOptions { add_special: false, parse_special: true };
    let ids = tokenizer.encode(text, options).ok()?;
    Some(ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}
