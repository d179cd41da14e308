//! Files of a checkpoint's folder, read whole within limits.

use super::ConvertError;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a JSON or protobuf file: the largest published vocabulary has 35 MB.
pub const FILE_BYTES_MAX: u64 = 512 << 20;

/// An error about a file.
pub fn malformed(path: &Path, problem: impl Into<String>) -> ConvertError {
    ConvertError::Malformed { path: path.to_owned(), problem: problem.into() }
}

/// The bytes of a file, `None` if there is none.
///
/// # Errors
/// It cannot be read, or is too large.
pub fn bytes(path: &Path) -> Result<Option<Vec<u8>>, ConvertError> {
    let io = |error| ConvertError::Io { path: path.to_owned(), error };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    if !file.metadata().map_err(io)?.is_file() {
        return Err(malformed(path, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(malformed(path, format!("more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Some(bytes))
}

/// The text of a file, `None` if there is none.
///
/// # Errors
/// It cannot be read, or is no UTF-8.
pub fn text(path: &Path) -> Result<Option<String>, ConvertError> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|_| malformed(path, "not UTF-8"))
}

/// The JSON object in a file, `None` if there is none; as Python writes it, with `NaN` and `Infinity`,
/// which become null.
///
/// # Errors
/// It cannot be read, or is no JSON object.
pub fn json(path: &Path) -> Result<Option<Value>, ConvertError> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    let strict = serde_json::from_slice(&bytes);
    let value: Value = strict
        .or_else(|error| serde_json::from_slice(&without_names(&bytes)).map_err(|_| error))
        .map_err(|error| malformed(path, error.to_string()))?;
    match value.is_object() {
        true => Ok(Some(value)),
        false => Err(malformed(path, "not a JSON object")),
    }
}

/// A text of JSON with null for each number that only has a name, and without a mark of byte order.
fn without_names(bytes: &[u8]) -> Vec<u8> {
    const NAMES: &[&[u8]] = &[b"-Infinity", b"Infinity", b"NaN"];
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let mut rest = bytes.strip_prefix(MARK).unwrap_or(bytes);
    let mut out = Vec::with_capacity(rest.len());
    let mut in_string = false;
    while let [byte, tail @ ..] = rest {
        let name = NAMES.iter().find(|name| !in_string && rest.starts_with(name));
        if let Some(name) = name {
            out.extend(b"null");
            rest = &rest[name.len()..];
            continue;
        }
        out.push(*byte);
        rest = tail;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                // What is escaped ends no string.
                let escaped = rest.len().min(1);
                out.extend(&rest[..escaped]);
                rest = &rest[escaped..];
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::without_names;

    #[test]
    fn numbers_that_only_have_names_are_null() {
        let text = r#"{"a": [0.0, Infinity, -Infinity, NaN], "Infinity \"NaN": "NaN\\", "b": NaN}"#;
        let found = String::from_utf8(without_names(text.as_bytes())).unwrap();
        let expected = r#"{"a": [0.0, null, null, null], "Infinity \"NaN": "NaN\\", "b": null}"#;
        assert_eq!(found, expected);
        assert_eq!(without_names(b"\xef\xbb\xbf{\"x\\"), b"{\"x\\");
    }
}
