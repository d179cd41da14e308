//! The flags of the sampler: one for every row of its table of parameters, and the seed.

use super::CliError;
use super::options::whole_number;
use crate::sample::{self, Field, SampleError, SampleParams, Value};
use clap::{Arg, ArgAction, ArgMatches, Command};
use gguf_rs_lite::GgufFile;

/// Parameters of sampling: a flag for every row of the sampler's table.
#[derive(Clone, Debug)]
pub struct SamplingArgs {
    /// In the order of [`sample::params`]; `None`: the default.
    values: Vec<Option<Value>>,
    seed: Option<u64>,
}

const SEED: &str = "seed";
const HEADING: &str = "Sampling";

impl clap::Args for SamplingArgs {
    fn augment_args(mut command: Command) -> Command {
        let defaults = SampleParams::default();
        for param in sample::params() {
            let arg = Arg::new(param.name)
                .long(param.flag)
                .help(format!("{} [default: {}]", param.help, param.get(&defaults)))
                .value_parser(|text: &str| {
                    param.parse(text).map_err(|_| format!("must be {}", param.need()))
                })
                .help_heading(HEADING);
            // Bounds say whether a number may be negative; clap's own refusal would not.
            command = command.arg(match &param.field {
                Field::Number { .. } => arg.value_name("X").allow_negative_numbers(true),
                Field::Integer { .. } => arg.value_name("N").allow_negative_numbers(true),
                Field::Bool { .. } => {
                    arg.value_name("BOOL").num_args(0..=1).default_missing_value("true")
                }
                Field::Text { .. } => arg.value_name("TEXT").allow_hyphen_values(true),
                Field::List { delimiter: Some(_), .. } => arg.value_name("LIST"),
                Field::List { delimiter: None, .. } => {
                    arg.value_name("TEXT").allow_hyphen_values(true).action(ArgAction::Append)
                }
            });
        }
        let seed = Arg::new(SEED)
            .long(SEED)
            .value_name("N")
            .help("The same seed gives the same text [default: a new one each time]")
            .value_parser(whole_number(0..=u64::MAX))
            .help_heading(HEADING);
        command.arg(seed)
    }

    fn augment_args_for_update(command: Command) -> Command {
        SamplingArgs::augment_args(command)
    }
}

impl clap::FromArgMatches for SamplingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SamplingArgs, clap::Error> {
        let value = |param: &sample::Param| {
            let values = matches.get_many::<Value>(param.name)?.cloned();
            values.reduce(|all, next| match (all, next) {
                (Value::List(all), Value::List(next)) => Value::List([all, next].concat()),
                (_, next) => next,
            })
        };
        let values = sample::params().map(value).collect();
        Ok(SamplingArgs { values, seed: matches.get_one(SEED).copied() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SamplingArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

impl SamplingArgs {
    /// The parameters that the flags set; where there is no seed, one that differs from run to run.
    ///
    /// # Errors
    /// Values that do not go together are wrong usage, told with the flags' names.
    pub fn params(&self) -> Result<SampleParams, CliError> {
        self.over(fresh(SampleParams::default()))
    }

    /// The parameters that the flags set, and otherwise the model's file.
    ///
    /// # Errors
    /// As [`params`](Self::params), and values of the file that are none.
    pub fn params_of(&self, file: &GgufFile) -> Result<SampleParams, CliError> {
        let base = SampleParams::of_file(file, |param| self.has(param.name));
        let hint = |error: SampleError| match &error {
            SampleError::File { .. } => {
                let hint = "pass its flag to have another value, or change the key by `teff edit`";
                CliError::failed(format!("{error}; {hint}",))
            }
            _ => with_flag(error),
        };
        self.over(fresh(base.map_err(hint)?))
    }

    /// Whether the flags say nothing of a seed.
    pub fn draws_seed(&self) -> bool {
        self.seed.is_none()
    }

    /// Parameters with what the flags set in the place of theirs.
    ///
    /// # Errors
    /// As [`params`](Self::params).
    pub fn over(&self, base: SampleParams) -> Result<SampleParams, CliError> {
        let seed = self.seed.unwrap_or(base.seed);
        let mut params = SampleParams { seed, ..base };
        for (param, value) in sample::params().zip(&self.values) {
            if let Some(value) = value {
                param.assign(&mut params, value.clone()).map_err(with_flag)?;
            }
        }
        params.forget_unused(|param| self.has(param.name)).map_err(with_flag)?;
        let replaced = ["top_k", "typical_p", "top_p", "min_p"];
        if params.mirostat > 0
            && let Some(name) = replaced.into_iter().find(|name| self.has(name))
        {
            let problem = format!("--{} has no effect: mirostat replaces it", flag_of(name));
            return Err(CliError::usage(problem));
        }
        params.validate().map_err(with_flag)?;
        Ok(params)
    }

    /// Whether a parameter's flag is given.
    fn has(&self, name: &str) -> bool {
        sample::params()
            .zip(&self.values)
            .any(|(param, value)| param.name == name && value.is_some())
    }
}

/// The flag of a parameter.
fn flag_of(name: &'static str) -> &'static str {
    sample::params().find(|param| param.name == name).map_or(name, |param| param.flag)
}

/// An error of the sampler in the words of the command line.
fn with_flag(error: SampleError) -> CliError {
    let flag = flag_of;
    CliError::usage(match &error {
        SampleError::Param { name, value, need } => {
            format!("--{} {value}: must be {need}", flag(name))
        }
        SampleError::Unused { name, filter } => {
            format!("--{} has no effect: --samplers does not name `{filter}`", flag(name))
        }
        SampleError::Together { names: [a, b] } => {
            format!("--{} and --{} exclude each other", flag(a), flag(b))
        }
        _ => error.to_string(),
    })
}

/// Parameters with a seed of their own.
fn fresh(base: SampleParams) -> SampleParams {
    SampleParams { seed: random_seed(), ..base }
}

/// A seed that differs from run to run.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    /// `--sampling` for the parser.
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    #[test]
    fn help_tells_the_defaults_of_the_sampler() {
        let command = Flags::command();
        let help = |flag: &str| {
            let is_it = |arg: &&Arg| arg.get_long() == Some(flag);
            command.get_arguments().find(is_it).unwrap().get_help().unwrap().to_string()
        };
        for (flag, default) in [("temp", "0.8"), ("top-k", "40"), ("repeat-penalty", "1")] {
            assert!(help(flag).ends_with(&format!("[default: {default}]")), "{}", help(flag));
        }
        let order = SampleParams::default().samplers.join(";");
        let expected = "penalties;dry;top-nsigma;top-k;typical;top-p;min-p;xtc;temperature;dist";
        assert_eq!(order, expected);
        assert!(help("dry-sequence-breaker").ends_with("[default: \\n;:;\";*]"));
        let told = format!("[default: {order}]");
        assert!(help("samplers").ends_with(&told), "{}", help("samplers"));
    }

    #[test]
    fn flags_set_their_fields_and_refuse_by_name() {
        let params = |args: &[&str]| {
            let flags = Flags::try_parse_from([&["teff"], args].concat());
            flags.map_err(|error| error.to_string())?.sampling.params().map_err(|e| e.to_string())
        };
        let set = params(&["--top-k", "7", "--presence-penalty", "-1.5", "--seed", "3"]).unwrap();
        let expected =
            SampleParams { top_k: 7, presence_penalty: -1.5, seed: 3, ..SampleParams::default() };
        assert_eq!(set, expected);
        let order = params(&["--samplers", "top_k;temperature", "--seed", "0"]).unwrap();
        assert_eq!(order.samplers, ["top_k", "temperature"]);
        for (args, problem) in [
            (&["--top-k", "-1"][..], "must be a whole number from 0 to 4294967295"),
            (&["--top-k", "x"], "must be a whole number from 0 to 4294967295"),
            (&["--top-p", "1.5"], "must be a number from 0 to 1"),
            (&["--temp", "nan"], "must be a number from 0 to 1000"),
            (&["--samplers", "top-q"], "--samplers top-q: must be some of penalties, dry"),
            (&["--logit-bias", "5"], "--logit-bias 5: must be a token's number"),
            (&["--min-p", "0.1", "--mirostat", "2"], "--min-p has no effect: mirostat replaces it"),
            (
                &["--adaptive-target", "0.5", "--mirostat", "1"],
                "--mirostat and --adaptive-target exclude each other",
            ),
            (&["--samplers", "top-k;top-k"], "each once"),
            (&["--samplers", "top-k", "--temp", "0"], "--temp has no effect: --samplers does not"),
        ] {
            let error = params(args).unwrap_err();
            assert!(error.contains(problem) && error.contains(args[0]), "{args:?}: {error}");
        }
    }
}
