//! Defaults of sampling that a model's file brings along (`general.sampling.*`).

use gguf_rs_lite::GgufFile;

use super::{Param, SampleError, SampleParams, Value, params};

/// Keys of the file, and names of the parameters.
const KEYS: &[(&str, &str)] = &[
    ("general.sampling.sequence", "samplers"),
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.xtc_probability", "xtc_probability"),
    ("general.sampling.xtc_threshold", "xtc_threshold"),
    ("general.sampling.temp", "temperature"),
    ("general.sampling.penalty_last_n", "repeat_last_n"),
    ("general.sampling.penalty_repeat", "repeat_penalty"),
    ("general.sampling.mirostat", "mirostat"),
    ("general.sampling.mirostat_tau", "mirostat_tau"),
    ("general.sampling.mirostat_eta", "mirostat_eta"),
];

impl SampleParams {
    /// The defaults, with the file's in their place, but for parameters that a user has `given`.
    ///
    /// # Errors
    /// [`SampleError::File`] for a value that its parameter cannot have.
    pub fn of_file(file: &GgufFile, given: impl Fn(&Param) -> bool) -> Result<Self, SampleError> {
        let mut chosen = Self::default();
        for &(key, name) in KEYS {
            let Some(value) = file.get(key) else { continue };
            let param = params().find(|param| param.name == name && !given(param));
            let Some(param) = param else { continue };
            let (own, text) = match (value.as_i64(), value.as_f32(), value.as_str()) {
                (Some(n), ..) => (Some(Value::Integer(n)), n.to_string()),
                (_, Some(x), _) => (Some(Value::Number(f64::from(x))), x.to_string()),
                (.., Some(text)) => (param.parse(text).ok(), format!("{text:?}")),
                _ => (None, value.type_name().to_owned()),
            };
            own.and_then(|own| param.assign(&mut chosen, own).ok())
                .ok_or_else(|| SampleError::File { key, value: text, need: param.need() })?;
        }
        // An order that leaves a filter out, or names what there is not, is told by its key, too.
        chosen.forget_unused(given).map_err(|_| SampleError::File {
            key: KEYS[0].0,
            value: chosen.samplers.join(";"),
            need: super::params::SAMPLERS.need(),
        })?;
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gguf_rs_lite::GgufWriter;

    fn of(
        add: impl Fn(&mut GgufWriter<Vec<u8>>),
        given: &str,
    ) -> Result<SampleParams, SampleError> {
        let mut writer = GgufWriter::new(Vec::new());
        writer.add("general.architecture", "x").unwrap();
        add(&mut writer);
        let bytes = writer.write_header().unwrap().finish().unwrap();
        let file = GgufFile::from_bytes(bytes).unwrap();
        SampleParams::of_file(&file, |param| param.name == given)
    }

    #[test]
    fn the_files_values_are_defaults() {
        let chosen = of(
            |writer| {
                writer.add("general.sampling.top_k", 64i32).unwrap();
                writer.add("general.sampling.temp", 0.25f32).unwrap();
                writer.add("general.sampling.sequence", "top_k;temperature").unwrap();
                writer.add("general.sampling.min_p", 0.5f32).unwrap();
            },
            "top_k",
        );
        // What the order leaves out does nothing; what the user says is for the user to set.
        let expected = SampleParams {
            temperature: 0.25,
            samplers: ["top_k", "temperature"].map(String::from).to_vec(),
            ..SampleParams::default()
        };
        assert_eq!(chosen, Ok(expected));
        assert_eq!(of(|_| {}, ""), Ok(SampleParams::default()));
    }

    #[test]
    fn what_cannot_be_a_value_is_told_by_its_key() {
        let error = |add: &dyn Fn(&mut GgufWriter<Vec<u8>>)| of(add, "").unwrap_err().to_string();
        let text = error(&|w| w.add("general.sampling.temp", -1.0f32).unwrap());
        assert_eq!(text, "`general.sampling.temp` is -1: must be a number from 0 to 1000");
        let text = error(&|w| w.add("general.sampling.top_k", "many").unwrap());
        assert!(
            text.starts_with("`general.sampling.top_k` is \"many\": must be a whole"),
            "{text}"
        );
        let text = error(&|w| w.add("general.sampling.sequence", "top_q").unwrap());
        assert!(
            text.starts_with("`general.sampling.sequence` is top_q: must be some of"),
            "{text}"
        );
        assert!(of(|w| w.add("general.sampling.temp", -1.0f32).unwrap(), "temperature").is_ok());
    }
}
