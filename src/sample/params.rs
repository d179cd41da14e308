//! What the user can set: typed fields in [`SampleParams`], and rows that describe them, from which
//! the command line gets its flags and a server its JSON fields.

use std::fmt;
use std::str::FromStr;

use super::{FILTERS, FilterDef, SampleError};

/// Parameters of a sampler. The defaults are llama.cpp's; fields are set one by one:
///
/// ```
/// let mut params = teff::sample::SampleParams::default();
/// params.temperature = 1.2;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SampleParams {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens that hold this much probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted once per recent occurrence; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurred recently; 0 is off.
    pub presence_penalty: f32,
    /// How many tokens back the three penalties look; 0 turns them off.
    pub repeat_last_n: usize,
    /// Names of the filters in the order in which they run; others do not run.
    pub samplers: Vec<String>,
    /// Seed of the draw. Callers who want variety choose a fresh one.
    pub seed: u64,
}

impl Default for SampleParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            samplers: FILTERS.iter().map(|filter| filter.name.to_owned()).collect(),
            seed: 0,
        }
    }
}

impl SampleParams {
    /// The likeliest token always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every field against its row, and that a filter runs for each that is set.
    ///
    /// # Errors
    /// [`SampleError::Param`] and [`SampleError::Unused`].
    pub fn validate(&self) -> Result<(), SampleError> {
        params().try_for_each(|param| param.check(&param.get(self)))?;
        let chosen = self.filters()?;
        let default = Self::default();
        for filter in FILTERS.iter().filter(|row| !chosen.iter().any(|c| c.name == row.name)) {
            let set = |param: &&Param| param.get(self) != param.get(&default);
            if let Some(param) = filter.params.iter().find(set) {
                return Err(SampleError::Unused { name: param.name, filter: filter.name });
            }
        }
        Ok(())
    }

    /// The rows that `samplers` names, in its order.
    pub(super) fn filters(&self) -> Result<Vec<&'static FilterDef>, SampleError> {
        let mut chosen: Vec<&FilterDef> = Vec::new();
        for name in &self.samplers {
            let row = FILTERS.iter().find(|row| same_name(row.name, name));
            let row = row.filter(|row| !chosen.iter().any(|c| c.name == row.name));
            chosen.push(row.ok_or_else(|| SAMPLERS.refusal(&SAMPLERS.get(self)))?);
        }
        Ok(chosen)
    }
}

/// Whether two names of filters differ in `-`, `_` and case only: other programs' spellings count.
fn same_name(a: &str, b: &str) -> bool {
    let plain = |c: u8| if c == b'_' { b'-' } else { c.to_ascii_lowercase() };
    a.bytes().map(plain).eq(b.trim().bytes().map(plain))
}

/// The order of the filters, which belongs to no one of them.
const SAMPLERS: Param = Param {
    name: "samplers",
    flag: "samplers",
    help: "Which filters run, in this order",
    field: Field::List {
        delimiter: Some(';'),
        get: |p| p.samplers.clone(),
        set: |p, value| p.samplers = value,
    },
};

const CHAIN_PARAMS: &[Param] = &[SAMPLERS];

/// Every parameter: those of [`FILTERS`] in their order, then those of the whole chain.
pub fn params() -> impl Iterator<Item = &'static Param> {
    FILTERS.iter().flat_map(|filter| filter.params).chain(CHAIN_PARAMS)
}

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
            Self::List(texts) => f.write_str(&texts.join(";")),
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

    /// The value that a text spells, as an argument does.
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
            Field::List { delimiter: None, .. } => Some(Value::List(vec![text.to_owned()])),
        };
        let value = value.ok_or_else(refused)?;
        self.check(&value).map_err(|_| refused())?;
        Ok(value)
    }

    /// What a value must be, as in "a number from 0 to 1".
    pub fn need(&self) -> String {
        match &self.field {
            Field::Number { min, max, .. } => format!("a number from {min} to {max}"),
            Field::Integer { min, max, .. } => format!("a whole number from {min} to {max}"),
            Field::Bool { .. } => "true or false".to_owned(),
            Field::Text { .. } => "a text".to_owned(),
            Field::List { .. } if self.name == SAMPLERS.name => {
                let names: Vec<_> = FILTERS.iter().map(|filter| filter.name).collect();
                format!("some of {}, each once", names.join(", "))
            }
            Field::List { .. } => "a list of texts".to_owned(),
        }
    }

    fn check(&self, value: &Value) -> Result<(), SampleError> {
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

    fn refusal(&self, value: &Value) -> SampleError {
        SampleError::Param { name: self.name, value: value.clone(), need: self.need() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_parameters_are_valid() {
        SampleParams::default().validate().unwrap();
        SampleParams::greedy().validate().unwrap();
    }

    #[test]
    fn every_parameter_refuses_what_is_out_of_range_and_of_another_kind_by_name() {
        for param in params() {
            let list = Value::List(vec!["x".into()]);
            let bad = match &param.field {
                Field::Number { min, max, .. } => {
                    [f64::NAN, min - 1.0, max * 2.0 + 1.0, f64::INFINITY]
                        .map(Value::Number)
                        .into_iter()
                        .chain([list, Value::Text("1".into())])
                        .collect()
                }
                Field::Integer { min, max, .. } => {
                    vec![Value::Integer(min - 1), Value::Integer(max + 1), Value::Number(1.5), list]
                }
                Field::Bool { .. } | Field::Text { .. } => vec![list],
                Field::List { .. } => vec![Value::Number(1.0), Value::Text("x".into())],
            };
            for bad in bad {
                let mut chosen = SampleParams::default();
                let error = param.assign(&mut chosen, bad).unwrap_err();
                assert!(error.to_string().starts_with(&format!("`{}` is ", param.name)), "{error}");
                assert_eq!(chosen, SampleParams::default());
            }
        }
        let params = SampleParams { top_p: f32::NAN, ..SampleParams::default() };
        let error = params.validate().unwrap_err();
        assert_eq!(error.to_string(), "`top_p` is NaN: must be a number from 0 to 1");
    }

    #[test]
    fn rows_read_what_they_write_and_names_and_flags_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for param in params() {
            assert!(seen.insert(param.flag), "{} twice", param.flag);
            assert_eq!(seen.contains(param.name), param.name == param.flag, "{}", param.name);
            let mut chosen = SampleParams::default();
            let now = param.get(&chosen);
            let value = match &param.field {
                Field::Number { min, max, .. } if now == Value::Number(*max) => Value::Number(*min),
                Field::Number { max, .. } => Value::Number(*max),
                Field::Integer { min, max, .. } if now == Value::Integer(*max) => {
                    Value::Integer(*min)
                }
                Field::Integer { max, .. } => Value::Integer(*max),
                Field::Bool { .. } => Value::Bool(now == Value::Bool(false)),
                Field::Text { .. } => Value::Text("x".into()),
                Field::List { .. } => Value::List(vec!["x".into()]),
            };
            param.assign(&mut chosen, value.clone()).unwrap();
            assert_eq!(param.get(&chosen), value, "{}", param.name);
            assert_ne!(chosen, SampleParams::default(), "{}", param.name);
        }
    }

    #[test]
    fn texts_are_read_by_kind() {
        let param = |name| params().find(|param| param.name == name).unwrap();
        assert_eq!(param("top_p").parse(" 0.5"), Ok(Value::Number(0.5)));
        assert_eq!(param("top_k").parse("7"), Ok(Value::Integer(7)));
        let list = Value::List(vec!["top_k".into(), "temperature".into()]);
        assert_eq!(param("samplers").parse("top_k;temperature"), Ok(list));
        let error = param("top_k").parse("-1").unwrap_err();
        let expected = "`top_k` is -1: must be a whole number from 0 to 4294967295";
        assert_eq!(error.to_string(), expected);
        assert!(param("top_k").parse("1.5").is_err());
        assert!(param("temperature").parse("warm").is_err());
        let on = Param {
            name: "on",
            flag: "on",
            help: "",
            field: Field::Bool { get: |p| p.seed == 1, set: |p, yes| p.seed = yes.into() },
        };
        let mut chosen = SampleParams::default();
        on.assign(&mut chosen, on.parse("true").unwrap()).unwrap();
        assert_eq!((chosen.seed, on.get(&chosen)), (1, Value::Bool(true)));
    }

    #[test]
    fn whole_numbers_are_numbers_and_the_other_way_round() {
        let param = |name| params().find(|param| param.name == name).unwrap();
        let mut chosen = SampleParams::default();
        param("temperature").assign(&mut chosen, Value::Integer(2)).unwrap();
        param("top_k").assign(&mut chosen, Value::Number(3.0)).unwrap();
        assert_eq!((chosen.temperature, chosen.top_k), (2.0, 3));
    }

    #[test]
    fn the_order_names_filters_once_each_and_those_that_are_set() {
        let with = |names: &[&str]| SampleParams {
            samplers: names.iter().map(|&name| name.into()).collect(),
            ..SampleParams::default()
        };
        // Other programs' spelling.
        assert_eq!(with(&["top_k", " Temperature"]).validate(), Ok(()));
        assert_eq!(with(&[]).validate(), Ok(()));
        for names in [&["top-k", "top_k"][..], &["top-q"], &[""]] {
            let error = with(names).validate().unwrap_err().to_string();
            let value = names.join(";");
            assert!(
                error.starts_with(&format!("`samplers` is {value}: must be some of")),
                "{error}"
            );
        }
        let unused = SampleParams { temperature: 0.0, ..with(&["top-k"]) };
        let error = unused.validate().unwrap_err();
        assert_eq!(error, SampleError::Unused { name: "temperature", filter: "temperature" });
    }
}
