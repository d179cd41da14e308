//! Arguments of a call to something built in, given by position or name.

use super::error::{JinjaError, Result};
use super::text::Text;
use super::value::Value;

/// The values of a call.
#[derive(Clone, Debug, Default)]
pub struct CallArgs {
    pub positional: Vec<Value>,
    pub keyword: Vec<(String, Value)>,
}

/// Values in the order of parameters; those that are not given are missing.
pub struct Bound {
    callee: String,
    values: Vec<Option<Value>>,
}

impl CallArgs {
    /// Assigns the arguments to `parameters`; more or others are an error.
    pub fn bind(self, callee: &str, parameters: &[&str]) -> Result<Bound> {
        let fail = |what: String| Err(JinjaError::operation(format!("`{callee}` takes no {what}")));
        if self.positional.len() > parameters.len() {
            return fail(format!("{} arguments", self.positional.len()));
        }
        let mut values: Vec<_> = self.positional.into_iter().map(Some).collect();
        values.resize(parameters.len(), None);
        for (name, value) in self.keyword {
            match parameters.iter().position(|p| *p == name).filter(|&at| values[at].is_none()) {
                Some(at) => values[at] = Some(value),
                None => return fail(format!("argument `{name}` here")),
            }
        }
        Ok(Bound { callee: callee.to_owned(), values })
    }
}

impl Bound {
    /// A value that may be missing.
    pub fn get(&self, at: usize) -> Option<&Value> {
        self.values[at].as_ref()
    }

    /// A value, none if it is missing.
    pub fn or_none(&self, at: usize) -> Value {
        self.values[at].clone().unwrap_or(Value::None)
    }

    /// A value that must be there.
    pub fn need(&self, at: usize) -> Result<&Value> {
        self.values[at].as_ref().ok_or_else(|| {
            JinjaError::operation(format!("`{}` wants {} arguments", self.callee, at + 1))
        })
    }

    fn wrong(&self, at: usize, need: &str) -> JinjaError {
        let found = self.values[at].as_ref().map_or("nothing", Value::type_name);
        JinjaError::operation(format!("`{}` wants {need}, not a {found}", self.callee))
    }

    /// A string that must be there.
    pub fn text(&self, at: usize) -> Result<&Text> {
        self.need(at)?.as_text().ok_or_else(|| self.wrong(at, "a string"))
    }

    /// A string; none or nothing is `None`.
    pub fn opt_text(&self, at: usize) -> Result<Option<&Text>> {
        match self.get(at) {
            None | Some(Value::None) => Ok(None),
            Some(value) => value.as_text().map(Some).ok_or_else(|| self.wrong(at, "a string")),
        }
    }

    /// A whole number; none or nothing is `None`.
    pub fn opt_int(&self, at: usize) -> Result<Option<i128>> {
        match self.get(at) {
            None | Some(Value::None) => Ok(None),
            Some(value) => value.as_int().map(Some).ok_or_else(|| self.wrong(at, "a whole number")),
        }
    }

    /// A whole number that is a size: not above 2^20, which no layout needs; negative ones are 0.
    pub fn size(&self, at: usize, default: usize) -> Result<usize> {
        const SIZE_MAX: i128 = 1 << 20;
        match self.opt_int(at)? {
            None => Ok(default),
            Some(n) if n > SIZE_MAX => Err(JinjaError::limit("width")),
            Some(n) => Ok(usize::try_from(n).unwrap_or(0)),
        }
    }

    /// The truth of a value.
    pub fn is_true(&self, at: usize) -> bool {
        self.get(at).is_some_and(Value::is_true)
    }
}
