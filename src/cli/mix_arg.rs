//! Types of a file by the name of a mix, or of none.

use crate::quantize::mix::Mix;

/// A mix, or types as they are, those of grids aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A mix.
    Mix(Mix),
    /// All as they are.
    Copy,
    /// All as they are but for those of grids.
    Auto,
}

impl Named {
    /// The mix.
    pub fn mix(self) -> Option<Mix> {
        match self {
            Named::Mix(mix) => Some(mix),
            Named::Copy | Named::Auto => None,
        }
    }

    /// The name that users give.
    pub fn name(self) -> &'static str {
        match self {
            Named::Mix(mix) => mix.name(),
            Named::Copy => "COPY",
            Named::Auto => "AUTO",
        }
    }
}

/// Reads a name.
///
/// # Errors
/// There is no such mix.
pub fn parse(text: &str) -> Result<Named, String> {
    let others = [Named::Copy, Named::Auto];
    if let Some(named) = others.into_iter().find(|named| text.eq_ignore_ascii_case(named.name())) {
        return Ok(named);
    }
    let names = || Mix::ALL.iter().map(|mix| mix.name()).collect::<Vec<_>>().join(", ");
    let mix = Mix::from_name(text);
    mix.map(Named::Mix).ok_or_else(|| format!("none of {}, COPY, AUTO", names()))
}
