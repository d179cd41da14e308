//! Names of models: a path, an alias, or a repository of the Hugging Face hub.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::aliases::{Alias, DEFAULT};
use super::error::CacheError;
use super::store;

/// A model as the user names it.
#[derive(Clone, Debug)]
pub enum ModelRef {
    /// A file, used where it is. Anything that is neither of the other two.
    Path(PathBuf),
    /// An entry of [`ALIASES`](super::ALIASES).
    Alias(&'static Alias),
    /// `hf:owner/repo[:file or quant]`.
    Hub {
        /// `owner/repo`, both safe as folder names.
        repo: String,
        /// Choice among its files.
        select: Select,
    },
}

/// Choice among the models of a hub repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// Nothing said: the only one there is, or the most usual quantization.
    Any,
    /// A file by its path or its bare name, ending in `.gguf`; any shard of a split model will do.
    File(String),
    /// A quantization, such as `Q4_K_M`, in any case.
    Quant(String),
}

impl Default for ModelRef {
    fn default() -> ModelRef {
        DEFAULT.parse().expect("the default is in the table, a test says")
    }
}

impl FromStr for ModelRef {
    type Err = CacheError;

    fn from_str(given: &str) -> Result<ModelRef, CacheError> {
        let bad = |reason| CacheError::BadRef { given: given.to_owned(), reason };
        let Some(hub) = given.strip_prefix("hf:") else {
            return match (Alias::find(given), given) {
                (Some(alias), _) => Ok(ModelRef::Alias(alias)),
                (None, "") => Err(bad("is empty")),
                (None, path) => Ok(ModelRef::Path(path.into())),
            };
        };
        let (repo, select) = match hub.split_once(':') {
            None => (hub, Select::Any),
            Some((_, "")) => return Err(bad("has nothing after the last colon")),
            Some((repo, file)) if file.to_ascii_lowercase().ends_with(".gguf") => {
                (repo, Select::File(file.to_owned()))
            }
            Some((repo, quant)) => (repo, Select::Quant(quant.to_owned())),
        };
        match repo.split_once('/') {
            Some((owner, name)) if store::is_repo_part(owner) && store::is_repo_part(name) => {
                Ok(ModelRef::Hub { repo: repo.to_owned(), select })
            }
            _ => Err(bad("is not of the form hf:owner/repo[:file or quant]")),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelRef::Path(path) => path.display().fmt(f),
            ModelRef::Alias(alias) => f.write_str(alias.name),
            ModelRef::Hub { repo, select: Select::Any } => write!(f, "hf:{repo}"),
            ModelRef::Hub { repo, select: Select::File(s) | Select::Quant(s) } => {
                write!(f, "hf:{repo}:{s}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_the_command_line_promises() {
        for given in [
            "smollm2:135m",
            "models/a.gguf",
            "hf:o/r",
            "hf:o/r-GGUF:Q4_K_M",
            "hf:o/r:sub/a-00001-of-00002.gguf",
        ] {
            let parsed: ModelRef = given.parse().expect(given);
            assert_eq!(parsed.to_string(), given);
        }
        assert!(matches!("smollm2:135m".parse(), Ok(ModelRef::Alias(_))));
        assert!(matches!("gemma9:1t".parse(), Ok(ModelRef::Path(_))));
        assert!(matches!(ModelRef::default(), ModelRef::Alias(a) if a.name == DEFAULT));
    }

    #[test]
    fn refuses_what_is_no_reference() {
        for given in [
            "",
            "hf:",
            "hf:x",
            "hf:o/",
            "hf:/r",
            "hf:o/r/s",
            "hf:../r",
            "hf:o/..",
            "hf:o/r:",
            "hf:o/r s",
            "hf:o/.r",
            "hf:o\\p/r",
        ] {
            let error = given.parse::<ModelRef>().expect_err(given).to_string();
            assert!(error.contains(&format!("`{given}`")), "{error}");
        }
    }
}
