//! What the user can set: typed fields in [`SampleParams`], and rows that describe them, from which
//! the command line gets its flags and a server its JSON fields.

use super::{FILTERS, Field, FilterDef, Param, Place, SampleError, logit_bias, mirostat};

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
    /// How far the temperature goes up and down with the entropy; 0 keeps it as it is.
    pub dynatemp_range: f32,
    /// Power of the entropy's share that the temperature follows.
    pub dynatemp_exponent: f32,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens that hold this much probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Keeps the most typical tokens that hold this much probability; 1 keeps all.
    pub typical_p: f32,
    /// Keeps tokens within this many standard deviations of the best logit; 0 or less keeps all.
    pub top_n_sigma: f32,
    /// Chance that the likely tokens but the least of them are left out; 0 is off.
    pub xtc_probability: f32,
    /// Probability from which on a token is likely for that.
    pub xtc_threshold: f32,
    /// Version of mirostat, which replaces top-k, typical, top-p and min-p; 0 is off.
    pub mirostat: u8,
    /// Surprise of a token, in bits, that mirostat keeps to.
    pub mirostat_tau: f32,
    /// Rate at which mirostat learns.
    pub mirostat_eta: f32,
    /// Probability near which tokens are chosen; negative is off.
    pub adaptive_target: f32,
    /// Weight of earlier tokens in the mean that the target follows.
    pub adaptive_decay: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted once per recent occurrence; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurred recently; 0 is off.
    pub presence_penalty: f32,
    /// How many tokens back the three penalties look; 0 turns them off.
    pub repeat_last_n: usize,
    /// Subtracted, times a power, from a token that would go on with a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// Base of that power.
    pub dry_base: f32,
    /// Length of a repetition from which on it costs.
    pub dry_allowed_length: usize,
    /// How many tokens back repetitions are looked for; -1 is all of them, 0 none.
    pub dry_penalty_last_n: i64,
    /// Texts across which no repetition goes.
    pub dry_sequence_breakers: Vec<String>,
    /// Tokens and what is added to their logits, each as `15-2.5` or `" text"+1`.
    pub logit_bias: Vec<String>,
    /// Texts that the answer never has.
    pub ban: Vec<String>,
    /// Names of the filters in the order in which they run; others do not run.
    pub samplers: Vec<String>,
    /// Seed of the draw. Callers who want variety choose a fresh one.
    pub seed: u64,
}

impl Default for SampleParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            adaptive_target: -1.0,
            adaptive_decay: 0.9,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: -1,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            logit_bias: Vec::new(),
            ban: Vec::new(),
            samplers: at(Place::Listed).map(|filter| filter.name.to_owned()).collect(),
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
    /// [`SampleError::Param`], [`SampleError::Unused`] and [`SampleError::Together`].
    pub fn validate(&self) -> Result<(), SampleError> {
        params().try_for_each(|param| param.check(&param.get(self)))?;
        let default = Self::default();
        for filter in self.left_out()? {
            let set = |param: &&Param| param.get(self) != param.get(&default);
            if let Some(param) = filter.params.iter().find(set) {
                return Err(SampleError::Unused { name: param.name, filter: filter.name });
            }
        }
        if self.mirostat > 0 && self.adaptive_target >= 0.0 {
            let names = ["mirostat", "adaptive_target"];
            return Err(SampleError::Together { names });
        }
        self.logit_bias.iter().try_for_each(|text| logit_bias::parse(text).map(drop))?;
        Ok(())
    }

    /// Gives parameters of filters that `samplers` leaves out their defaults again, but for those
    /// that a user has `given`, which [`validate`](Self::validate) refuses.
    ///
    /// # Errors
    /// [`SampleError::Param`] for `samplers` itself.
    pub fn forget_unused(&mut self, given: impl Fn(&Param) -> bool) -> Result<(), SampleError> {
        let default = Self::default();
        let left_out: Vec<&FilterDef> = self.left_out()?.collect();
        let idle = left_out.into_iter().flat_map(|filter| filter.params);
        for param in idle.filter(|param| !given(param)) {
            param.assign(self, param.get(&default))?;
        }
        Ok(())
    }

    /// The rows of the filters that run, in their order.
    pub(super) fn filters(&self) -> Result<Vec<&'static FilterDef>, SampleError> {
        let is_replaced =
            |row: &&FilterDef| self.mirostat > 0 && mirostat::REPLACED.contains(&row.name);
        let named = self.named()?.into_iter().filter(|row| row.place != Place::Last);
        let named = named.filter(|row| !is_replaced(row));
        Ok(at(Place::First).chain(named).chain(at(Place::Last)).collect())
    }

    /// The rows that `samplers` names, in its order.
    fn named(&self) -> Result<Vec<&'static FilterDef>, SampleError> {
        let refusal = || SAMPLERS.refusal(&SAMPLERS.get(self));
        let mut named: Vec<&FilterDef> = Vec::new();
        for name in &self.samplers {
            let row = FILTERS.iter().find(|row| row.place != Place::First && row.has_name(name));
            let row = row.filter(|row| !named.iter().any(|other| other.name == row.name));
            named.push(row.ok_or_else(refusal)?);
        }
        let draw = named.iter().position(|row| row.name == DIST.name);
        match draw.is_none_or(|at| at + 1 == named.len()) {
            true => Ok(named),
            false => Err(refusal()),
        }
    }

    /// The rows that run only if they are named, and are not.
    fn left_out(&self) -> Result<impl Iterator<Item = &'static FilterDef> + use<>, SampleError> {
        let named = self.named()?;
        let is_named = move |row: &FilterDef| named.iter().any(|other| other.name == row.name);
        Ok(FILTERS
            .iter()
            .filter(move |row| matches!(row.place, Place::Listed | Place::Named) && !is_named(row)))
    }
}

/// The rows that have this place.
fn at(place: Place) -> impl Iterator<Item = &'static FilterDef> {
    FILTERS.iter().filter(move |row| row.place == place)
}

/// The draw that ends every chain, which other programs name among the filters.
pub(super) const DIST: FilterDef = FilterDef {
    name: "dist",
    other_names: &[],
    place: Place::Listed,
    params: &[],
    build: |_, _| Ok(None),
};

/// The order of the filters, which belongs to no one of them.
pub(super) const SAMPLERS: Param = Param {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Value;
    use std::collections::BTreeSet;

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
        let (mut flags, mut names) = (BTreeSet::new(), BTreeSet::new());
        for param in params() {
            assert!(flags.insert(param.flag), "{} twice", param.flag);
            assert!(names.insert(param.name), "{} twice", param.name);
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
        assert_eq!(
            with(&["top_n_sigma", "typ_p", "temp", "adaptive_p", "dist"]).validate(),
            Ok(())
        );
        assert_eq!(with(&[]).validate(), Ok(()));
        for names in [&["top-k", "top_k"][..], &["top-q"], &[""], &["dist", "top-k"], &["ban"]] {
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
        let mut forgotten = unused.clone();
        forgotten.forget_unused(|_| false).unwrap();
        assert_eq!(forgotten, with(&["top-k"]));
        let mut given = unused.clone();
        given.forget_unused(|param| param.name == "temperature").unwrap();
        assert_eq!(given, unused);
        let both = SampleParams { mirostat: 2, adaptive_target: 0.5, ..SampleParams::default() };
        let text = both.validate().unwrap_err().to_string();
        assert_eq!(text, "`mirostat` and `adaptive_target` exclude each other");
    }
}
