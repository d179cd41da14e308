//! Values of metadata as they are given and told on a command line.

use gguf_rs_lite::{OwnedArray, OwnedValue};
use serde_json::Value as Json;

/// Types of `--set`, for messages.
const TYPES: &str = "u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool and str, and lists of these, \
                     [u32] for example";
/// Bytes of a text that are shown, at most.
const TEXT_SHOWN: usize = 60;
/// Elements of a list that are shown, at most.
const ELEMENTS_SHOWN: usize = 6;

/// A key and its new value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// The value.
    pub value: OwnedValue,
}

/// Parses `key=type:value`; the value of a list is `a,b,c` or a JSON array.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn parse_setting(text: &str) -> Result<Setting, String> {
    let parts = text.split_once('=').and_then(|(key, typed)| Some((key, typed.split_once(':')?)));
    let (key, (ty, value)) =
        parts.ok_or_else(|| format!("must be KEY=TYPE:VALUE, TYPE being one of {TYPES}"))?;
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    let unknown = || format!("key `{key}`: type `{ty}` is none of {TYPES}");
    let value = match ty.strip_prefix('[').and_then(|ty| ty.strip_suffix(']')) {
        Some(ty) => {
            let elements = elements(value).map_err(|what| format!("key `{key}`: {what}"))?;
            let array = list(ty, &elements).ok_or_else(unknown)?;
            OwnedValue::Array(
                array.map_err(|element| format!("key `{key}`: `{element}` is no {ty}"))?,
            )
        }
        None => {
            let value = one(ty, value).ok_or_else(unknown)?;
            value.map_err(|value| format!("key `{key}`: `{value}` is no {ty}"))?
        }
    };
    Ok(Setting { key: key.into(), value })
}

/// Texts of a list's elements.
fn elements(text: &str) -> Result<Vec<String>, String> {
    if text.trim_start().starts_with('[') {
        let list: Vec<Json> = serde_json::from_str(text)
            .map_err(|error| format!("the value begins as a JSON array and is none: {error}"))?;
        return Ok(list
            .into_iter()
            .map(|element| match element {
                Json::String(text) => text,
                other => other.to_string(),
            })
            .collect());
    }
    match text {
        "" => Ok(Vec::new()),
        text => Ok(text.split(',').map(str::to_owned).collect()),
    }
}

/// The elements of a list; `None` if there is no such type, the wrong element if one is.
fn list(ty: &str, elements: &[String]) -> Option<Result<OwnedArray, String>> {
    fn all<T: std::str::FromStr>(
        elements: &[String],
        array: fn(Vec<T>) -> OwnedArray,
    ) -> Option<Result<OwnedArray, String>> {
        let parsed = elements.iter().map(|text| text.trim().parse().map_err(|_| text.clone()));
        Some(parsed.collect::<Result<_, _>>().map(array))
    }
    match ty {
        "u8" => all(elements, OwnedArray::U8),
        "i8" => all(elements, OwnedArray::I8),
        "u16" => all(elements, OwnedArray::U16),
        "i16" => all(elements, OwnedArray::I16),
        "u32" => all(elements, OwnedArray::U32),
        "i32" => all(elements, OwnedArray::I32),
        "u64" => all(elements, OwnedArray::U64),
        "i64" => all(elements, OwnedArray::I64),
        "f32" => all(elements, OwnedArray::F32),
        "f64" => all(elements, OwnedArray::F64),
        "bool" => all(elements, OwnedArray::Bool),
        "str" => Some(Ok(OwnedArray::Str(elements.to_vec()))),
        _ => None,
    }
}

/// A single value; `None` if there is no such type, the text if it is none of the type.
fn one(ty: &str, text: &str) -> Option<Result<OwnedValue, String>> {
    fn number<T: std::str::FromStr>(
        text: &str,
        value: fn(T) -> OwnedValue,
    ) -> Option<Result<OwnedValue, String>> {
        Some(text.parse().map(value).map_err(|_| text.to_owned()))
    }
    match ty {
        "u8" => number(text, OwnedValue::U8),
        "i8" => number(text, OwnedValue::I8),
        "u16" => number(text, OwnedValue::U16),
        "i16" => number(text, OwnedValue::I16),
        "u32" => number(text, OwnedValue::U32),
        "i32" => number(text, OwnedValue::I32),
        "u64" => number(text, OwnedValue::U64),
        "i64" => number(text, OwnedValue::I64),
        "f32" => number(text, OwnedValue::F32),
        "f64" => number(text, OwnedValue::F64),
        "bool" => number(text, OwnedValue::Bool),
        "str" => Some(Ok(OwnedValue::Str(text.into()))),
        _ => None,
    }
}

/// Name of a value's type, as `--set` has it.
pub fn type_name(value: &OwnedValue) -> &'static str {
    use OwnedArray as A;
    use OwnedValue as V;
    match value {
        V::U8(_) => "u8",
        V::I8(_) => "i8",
        V::U16(_) => "u16",
        V::I16(_) => "i16",
        V::U32(_) => "u32",
        V::I32(_) => "i32",
        V::U64(_) => "u64",
        V::I64(_) => "i64",
        V::F32(_) => "f32",
        V::F64(_) => "f64",
        V::Bool(_) => "bool",
        V::Str(_) | V::Bytes(_) => "str",
        V::Array(A::U8(_)) => "[u8]",
        V::Array(A::I8(_)) => "[i8]",
        V::Array(A::U16(_)) => "[u16]",
        V::Array(A::I16(_)) => "[i16]",
        V::Array(A::U32(_)) => "[u32]",
        V::Array(A::I32(_)) => "[i32]",
        V::Array(A::U64(_)) => "[u64]",
        V::Array(A::I64(_)) => "[i64]",
        V::Array(A::F32(_)) => "[f32]",
        V::Array(A::F64(_)) => "[f64]",
        V::Array(A::Bool(_)) => "[bool]",
        V::Array(A::Str(_) | A::Bytes(_)) => "[str]",
        V::Array(A::Array(_)) => "[[]]",
    }
}

/// A value in words, on one line.
pub fn told(value: &OwnedValue) -> String {
    match value {
        OwnedValue::Str(text) => told_text(text),
        OwnedValue::Bytes(bytes) => told_text(&String::from_utf8_lossy(bytes)),
        OwnedValue::Array(array) => told_list(array),
        OwnedValue::Bool(value) => value.to_string(),
        OwnedValue::U8(value) => value.to_string(),
        OwnedValue::I8(value) => value.to_string(),
        OwnedValue::U16(value) => value.to_string(),
        OwnedValue::I16(value) => value.to_string(),
        OwnedValue::U32(value) => value.to_string(),
        OwnedValue::I32(value) => value.to_string(),
        OwnedValue::U64(value) => value.to_string(),
        OwnedValue::I64(value) => value.to_string(),
        OwnedValue::F32(value) => value.to_string(),
        OwnedValue::F64(value) => value.to_string(),
    }
}

/// `"the text"`, or `"its beginning"... (123 bytes)`.
fn told_text(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_SHOWN);
    match end == text.len() {
        true => format!("{text:?}"),
        false => format!("{:?}... ({} bytes)", &text[..end], text.len()),
    }
}

/// `[1, 2]`, or `[1, 2, 3, 4, 5, 6, ...] (123 elements)`.
fn told_list(array: &OwnedArray) -> String {
    fn some<T>(list: &[T], told: impl Fn(&T) -> String) -> Vec<String> {
        list.iter().take(ELEMENTS_SHOWN).map(told).collect()
    }
    let mut shown = match array {
        OwnedArray::U8(list) => some(list, u8::to_string),
        OwnedArray::I8(list) => some(list, i8::to_string),
        OwnedArray::U16(list) => some(list, u16::to_string),
        OwnedArray::I16(list) => some(list, i16::to_string),
        OwnedArray::U32(list) => some(list, u32::to_string),
        OwnedArray::I32(list) => some(list, i32::to_string),
        OwnedArray::U64(list) => some(list, u64::to_string),
        OwnedArray::I64(list) => some(list, i64::to_string),
        OwnedArray::F32(list) => some(list, f32::to_string),
        OwnedArray::F64(list) => some(list, f64::to_string),
        OwnedArray::Bool(list) => some(list, bool::to_string),
        OwnedArray::Str(list) => some(list, |text| told_text(text)),
        OwnedArray::Bytes(list) => some(list, |bytes| told_text(&String::from_utf8_lossy(bytes))),
        OwnedArray::Array(list) => some(list, told_list),
    };
    let n = array.len();
    let count = match n > ELEMENTS_SHOWN {
        true => format!(" ({n} elements)"),
        false => String::new(),
    };
    if n > ELEMENTS_SHOWN {
        shown.push("...".into());
    }
    format!("[{}]{count}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<OwnedValue, String> {
        parse_setting(text).map(|setting| setting.value)
    }

    #[test]
    fn settings_are_typed() {
        assert_eq!(parse_setting("a=u8:7").unwrap().key, "a");
        assert_eq!(value("a=u8:7"), Ok(OwnedValue::U8(7)));
        assert_eq!(value("a=f32:-1e4"), Ok(OwnedValue::F32(-1e4)));
        assert_eq!(value("a=str:b=c:d"), Ok(OwnedValue::Str("b=c:d".into())));
        assert_eq!(value("a=bool:true"), Ok(OwnedValue::Bool(true)));
        for (text, problem) in [
            ("a", "must be KEY=TYPE:VALUE, TYPE being one of u8, i8"),
            ("=u8:1", "the key is empty"),
            ("a=u8:256", "key `a`: `256` is no u8"),
            ("a=x:1", "key `a`: type `x` is none of u8, i8"),
            ("a=[x]:1", "key `a`: type `[x]` is none of u8, i8"),
            ("a=[u8]:1,b", "key `a`: `b` is no u8"),
            ("a=[u8]:1,", "key `a`: `` is no u8"),
            ("a=[u8]:[1", "begins as a JSON array"),
        ] {
            let told = value(text).unwrap_err();
            assert!(told.contains(problem), "{text}: {told}");
        }
    }

    #[test]
    fn lists_are_separated_by_commas_or_json() {
        let list = |array| Ok(OwnedValue::Array(array));
        assert_eq!(value("a=[u32]:1,2, 3"), list(OwnedArray::U32(vec![1, 2, 3])));
        assert_eq!(value("a=[f32]:[1, -0.5]"), list(OwnedArray::F32(vec![1.0, -0.5])));
        assert_eq!(value("a=[bool]:true,false"), list(OwnedArray::Bool(vec![true, false])));
        assert_eq!(value("a=[i64]:"), list(OwnedArray::I64(Vec::new())));
        let texts = |texts: [&str; 2]| list(OwnedArray::Str(texts.map(str::to_owned).to_vec()));
        assert_eq!(value("a=[str]:b, c"), texts(["b", " c"]));
        assert_eq!(value(r#"a=[str]:["b, c", "d"]"#), texts(["b, c", "d"]));
    }

    #[test]
    fn values_are_told_on_a_line() {
        assert_eq!(told(&"short".into()), "\"short\"");
        assert_eq!(told(&"é".repeat(50).into()), format!("{:?}... (100 bytes)", "é".repeat(30)));
        assert_eq!(told(&vec![1u32, 2].into()), "[1, 2]");
        assert_eq!(
            told(&vec![0.5f32; 9].into()),
            "[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...] (9 elements)"
        );
    }
}
