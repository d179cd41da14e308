//! The option `--qat`, and words about grids that floats lie on.

use crate::grid::{Found, Origin, Qat};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `--qat`
#[derive(clap::Args, Debug)]
pub struct QatArgs {
    /// Floats that lie on a grid, as those of models that were trained for a few bits do: auto has them
    /// keep their codes where the type is one that has such, whatever the method, and a size prefers that type;
    /// off rounds them like any other
    #[arg(long, value_name = "auto|off", default_value = "auto", value_parser = parse)]
    pub qat: Qat,
}

fn parse(text: &str) -> Result<Qat, String> {
    match text {
        "auto" => Ok(Qat::Auto),
        "off" => Ok(Qat::Off),
        _ => Err("neither auto nor off".into()),
    }
}

/// Elements that share a scale.
fn group(found: &Found) -> String {
    if found.group == found.cols { "each row".into() } else { format!("{} columns", found.group) }
}

/// A grid in words.
pub fn told(found: &Found) -> String {
    let [low, high] = found.range;
    let origin = if found.origin == Origin::Minimum { " above a minimum" } else { "" };
    let (group, back) = (group(found), back(found));
    format!("on a grid: codes {low} to {high}{origin}, a scale for {group}; {back}")
}

/// Words about how near the codes of a grid bring its values back.
fn back(found: &Found) -> String {
    match found.is_exact() {
        true => "every value comes back, rounded to the type it had".into(),
        false => format!(
            "codes come back, scales of {} of {} groups are up to {:.1e} off, as f16 has them",
            found.rounded, found.groups, found.distance
        ),
    }
}

/// A grid in JSON.
pub fn as_json(found: &Found) -> Value {
    json!({
        "codes": found.range,
        "minimum": found.origin == Origin::Minimum,
        "group": found.group,
        "groups": found.groups,
        "exact": found.is_exact(),
        "groups_rounded": found.rounded,
        "scale_distance": found.distance,
        "evidence_bits": found.evidence_bits,
    })
}

/// Lines about all grids of a file.
pub fn summary<'f>(all: impl Iterator<Item = &'f Found>) -> Vec<String> {
    /// Tensors, those whose values all come back, and the largest distance of a scale.
    type Count = (usize, usize, f64);
    let mut counts: BTreeMap<(String, String), Count> = BTreeMap::new();
    for found in all {
        let kind = (found.ty.name().to_owned(), group(found));
        let (n, exact, distance) = counts.entry(kind).or_default();
        *n += 1;
        *exact += usize::from(found.is_exact());
        *distance = distance.max(found.distance);
    }
    let line = |((ty, group), (n, exact, distance)): ((String, String), Count)| {
        let tensors = if n == 1 { "tensor lies" } else { "tensors lie" };
        let back = match n - exact {
            0 => "every value comes back, rounded to the type it had".to_owned(),
            n => format!("scales of {n} are up to {distance:.1e} off, as f16 has them"),
        };
        format!("{n} {tensors} on a grid of {ty}, a scale for {group}: the codes are kept, {back}")
    };
    counts.into_iter().map(line).collect()
}
