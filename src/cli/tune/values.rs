//! Values of the options of `teff tune`.

/// Parameters that `--train` names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Trained {
    pub scales: bool,
    pub norms: bool,
    pub lora: bool,
}

pub(super) fn parse_what(text: &str) -> Result<Trained, String> {
    let mut what = Trained::default();
    for part in text.split(',').map(str::trim) {
        match part {
            "scales" => what.scales = true,
            "norms" => what.norms = true,
            "lora" => what.lora = true,
            _ => return Err("must be scales, norms, scales,norms or lora".into()),
        }
    }
    match what.lora && (what.scales || what.norms) {
        true => Err("an adapter leaves the model as it is: lora stands alone".into()),
        false => Ok(what),
    }
}

fn parse_number(text: &str, min: f64, problem: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|x: &f64| x.is_finite() && *x >= min);
    number.ok_or_else(|| problem.to_string())
}

pub(super) fn parse_positive(text: &str) -> Result<f64, String> {
    parse_number(text, f64::MIN_POSITIVE, "must be a number above 0")
}

pub(super) fn parse_decay(text: &str) -> Result<f64, String> {
    parse_number(text, 0.0, "must be a number, 0 at least")
}
