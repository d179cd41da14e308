//! One thing that the user can set: its names, its kind and bounds, and the field that it sets.

use std::fmt;
use std::str::FromStr;

use super::params::SAMPLERS;
use super::{FILTERS, Place, SampleError, SampleParams};

/// One thing that the user can set: a CLI flag, a JSON field.
pub struct Param {
    /// JSON field and field of [`SampleParams`].
    pub name: &'static str,
    /// CLI flag, without the two dashes.
    pub flag: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Kind of its value, and where that is.
    pub field: Field,
}

/// Kind of a parameter: its bounds, and how its field of [`SampleParams`] is read and written.
/// `set` gets values that were checked against the bounds.
#[non_exhaustive]
pub enum Field {
    /// A number; none is NaN.
    Number {
        /// Smallest value that is accepted.
        min: f64,
        /// Largest value that is accepted.
        max: f64,
        /// Reads the field.
        get: fn(&SampleParams) -> f64,
        /// Writes the field.
        set: fn(&mut SampleParams, f64),
    },
    /// A whole number.
    Integer {
        /// Smallest value that is accepted.
        min: i64,
        /// Largest value that is accepted.
        max: i64,
        /// Reads the field.
        get: fn(&SampleParams) -> i64,
        /// Writes the field.
        set: fn(&mut SampleParams, i64),
    },
    /// Yes or no.
    Bool {
        /// Reads the field.
        get: fn(&SampleParams) -> bool,
        /// Writes the field.
        set: fn(&mut SampleParams, bool),
    },
    /// A text.
    Text {
        /// Reads the field.
        get: fn(&SampleParams) -> String,
        /// Writes the field.
        set: fn(&mut SampleParams, String),
    },
    /// Texts.
    List {
        /// What parts them in one argument; `None`: the flag is given once for each.
        delimiter: Option<char>,
        /// Reads the field.
        get: fn(&SampleParams) -> Vec<String>,
        /// Writes the field.
        set: fn(&mut SampleParams, Vec<String>),
    },
}

/// Value of a parameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A number.
    Number(f64),
    /// A whole number.
    Integer(i64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Texts.
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Fields are f32: in f64 0.8 has seventeen digits.
            Self::Number(x) if f64::from(*x as f32) == *x => write!(f, "{}", *x as f32),
            Self::Number(x) => write!(f, "{x}"),
            Self::Integer(n) => write!(f, "{n}"),
            Self::Bool(yes) => write!(f, "{yes}"),
            Self::Text(text) => f.write_str(text),
            Self::List(texts) => f.write_str(&texts.join(";").replace('\n', "\\n")),
        }
    }
}

impl Param {
    /// The field's value.
    pub fn get(&self, params: &SampleParams) -> Value {
        match &self.field {
            Field::Number { get, .. } => Value::Number(get(params)),
            Field::Integer { get, .. } => Value::Integer(get(params)),
            Field::Bool { get, .. } => Value::Bool(get(params)),
            Field::Text { get, .. } => Value::Text(get(params)),
            Field::List { get, .. } => Value::List(get(params)),
        }
    }

    /// Sets the field after checking kind and bounds. A whole number is a number.
    ///
    /// # Errors
    /// [`SampleError::Param`]; nothing is changed then.
    pub fn assign(&self, params: &mut SampleParams, value: Value) -> Result<(), SampleError> {
        let value = match (&self.field, value) {
            (Field::Number { .. }, Value::Integer(n)) => Value::Number(n as f64),
            // As JSON writes whole numbers now and then; 2^53 is the last one that is exact.
            (Field::Integer { .. }, Value::Number(x))
                if x.fract() == 0.0 && x.abs() <= (1i64 << 53) as f64 =>
            {
                Value::Integer(x as i64)
            }
            (_, value) => value,
        };
        self.check(&value)?;
        match (&self.field, value) {
            (Field::Number { set, .. }, Value::Number(x)) => set(params, x),
            (Field::Integer { set, .. }, Value::Integer(n)) => set(params, n),
            (Field::Bool { set, .. }, Value::Bool(yes)) => set(params, yes),
            (Field::Text { set, .. }, Value::Text(text)) => set(params, text),
            (Field::List { set, .. }, Value::List(texts)) => set(params, texts),
            (_, value) => return Err(self.refusal(&value)),
        }
        Ok(())
    }

    /// The value that a text spells, as an argument does. In a text of a list `\n` is a line break,
    /// `\t` a tab and `\\` a backslash.
    ///
    /// # Errors
    /// [`SampleError::Param`] if it spells none of this kind and within the bounds.
    pub fn parse(&self, text: &str) -> Result<Value, SampleError> {
        let refused = || self.refusal(&Value::Text(text.to_owned()));
        fn read<T: FromStr>(text: &str, kind: fn(T) -> Value) -> Option<Value> {
            text.trim().parse().ok().map(kind)
        }
        let value = match &self.field {
            Field::Number { .. } => read(text, Value::Number),
            Field::Integer { .. } => read(text, Value::Integer),
            Field::Bool { .. } => read(text, Value::Bool),
            Field::Text { .. } => Some(Value::Text(text.to_owned())),
            Field::List { delimiter: Some(delimiter), .. } => {
                Some(Value::List(text.split(*delimiter).map(str::to_owned).collect()))
            }
            Field::List { delimiter: None, .. } => Some(Value::List(vec![unescaped(text)])),
        };
        let value = value.ok_or_else(refused)?;
        self.check(&value).map_err(|_| refused())?;
        Ok(value)
    }

    /// What a value must be, as in "a number from 0 to 1".
    pub fn need(&self) -> String {
        match &self.field {
            Field::Number { min, max, .. } => {
                format!("a number from {} to {}", Value::Number(*min), Value::Number(*max))
            }
            Field::Integer { min, max, .. } => format!("a whole number from {min} to {max}"),
            Field::Bool { .. } => "true or false".to_owned(),
            Field::Text { .. } => "a text".to_owned(),
            Field::List { .. } if self.name == SAMPLERS.name => {
                let named = FILTERS.iter().filter(|filter| filter.place != Place::First);
                let names: Vec<_> = named.map(|filter| filter.name).collect();
                format!("some of {}, each once, dist last", names.join(", "))
            }
            Field::List { .. } => "a list of texts".to_owned(),
        }
    }

    pub(super) fn check(&self, value: &Value) -> Result<(), SampleError> {
        let fits = match (&self.field, value) {
            // A NaN is in no range.
            (Field::Number { min, max, .. }, Value::Number(x)) => (*min..=*max).contains(x),
            (Field::Integer { min, max, .. }, Value::Integer(n)) => (*min..=*max).contains(n),
            (Field::Bool { .. }, Value::Bool(_))
            | (Field::Text { .. }, Value::Text(_))
            | (Field::List { .. }, Value::List(_)) => true,
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.refusal(value)) }
    }

    pub(super) fn refusal(&self, value: &Value) -> SampleError {
        SampleError::Param { name: self.name, value: value.clone(), need: self.need() }
    }
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, chars.as_str().chars().next()) {
            ('\\', Some(escaped @ ('n' | 't' | '\\'))) => {
                chars.next();
                out.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    _ => '\\',
                });
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_line_breaks_tabs_and_backslashes() {
        assert_eq!(unescaped(r"a\\n\n\tb\x\"), "a\\n\n\tb\\x\\");
        assert_eq!(Value::List(vec!["\n".into(), ":".into()]).to_string(), r"\n;:");
    }
}
