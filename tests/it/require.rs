//! Things that some tests need and a clone cannot hold, and what happens where one is missing.
//!
//! A test that lacks something says so and passes, unless the environment variable `TEFF_REQUIRE`
//! lists its name: then the test fails and names the thing. `.ci/run` sets the variable, so that CI
//! cannot pass by skipping. `scripts/require.sh` is the same for shell scripts.

use std::path::PathBuf;

/// Environment variable: names of [`NAMES`] separated by commas, or `all`.
const REQUIRE: &str = "TEFF_REQUIRE";

/// Environment variable: a folder with more fixtures than `tests/golden` has, laid out alike.
const FIXTURES: &str = "TEFF_FIXTURES";

/// Names that `TEFF_REQUIRE` may list, with what each stands for.
const NAMES: &[(&str, &str)] = &[
    ("apple", "the standard library for Apple's CPUs (scripts/check_apple.sh)"),
    ("clients", "Python packages that pip fetches (scripts/clients/check.sh)"),
    ("cross", "compiler and standard library for another CPU (scripts/check_arm.sh)"),
    ("fixtures", "a folder of more vocabularies and chat templates, named by TEFF_FIXTURES"),
    ("gpu", "an adapter named by TEFF_GPU, or Mesa's software Vulkan (scripts/check_gpu.sh)"),
    ("models", "the models of `teff pull smollm2:135m` and `teff pull gemma3:270m`"),
    ("qemu", "QEMU's user-mode emulators (scripts/check_old_cpu.sh, scripts/check_arm.sh)"),
    ("sandbox", "a Linux kernel with Landlock"),
    ("spirv", "spirv-val of SPIRV-Tools (Debian: spirv-tools)"),
];

/// `found`, or `None` with a line on stderr that says `why` the rest of the test is left out.
///
/// # Panics
/// If `found` is `None` and `TEFF_REQUIRE` lists `name`.
pub fn require<T>(name: &str, found: Option<T>, why: &str) -> Option<T> {
    let wanted = std::env::var(REQUIRE).unwrap_or_default();
    if found.is_none() {
        assert!(!is_required(&wanted, name), "{REQUIRE}={wanted}, but {why}");
        eprintln!("skipped: {why} ({REQUIRE}={name} makes this a failure)");
    }
    found
}

/// The folder `subject` of the larger set of fixtures.
///
/// # Panics
/// If `TEFF_FIXTURES` names a folder that has no such subject, or if it is not set and `TEFF_REQUIRE`
/// lists `fixtures`.
pub fn fixtures(subject: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(FIXTURES).map(|folder| PathBuf::from(folder).join(subject));
    if let Some(folder) = &folder {
        assert!(folder.is_dir(), "{FIXTURES}: {} is no folder", folder.display());
    }
    require("fixtures", folder, "TEFF_FIXTURES names no folder of more fixtures")
}

/// # Panics
/// If `wanted` lists a name that is not known: a misspelled one would require nothing.
fn is_required(wanted: &str, name: &str) -> bool {
    let known = |name: &str| name == "all" || NAMES.iter().any(|(known, _)| *known == name);
    assert!(known(name), "`{name}` is not in NAMES");
    let mut required = false;
    for word in wanted.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        assert!(known(word), "{REQUIRE}: `{word}` is none of all, {}", list());
        required |= word == "all" || word == name;
    }
    required
}

fn list() -> String {
    NAMES.iter().map(|(name, what)| format!("{name} ({what})")).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_environment_asks_for_known_things() {
    is_required(&std::env::var(REQUIRE).unwrap_or_default(), "models");
}

#[test]
fn only_listed_things_are_required() {
    for (wanted, expected) in [
        ("", false),
        ("models", true),
        ("all", true),
        ("qemu,cross", false),
        ("qemu, models", true),
        ("qemu,all", true),
    ] {
        assert_eq!(is_required(wanted, "models"), expected, "{wanted:?}");
    }
    for wanted in ["model", "models,qemuu", "ALL"] {
        let misspelled = std::panic::catch_unwind(|| is_required(wanted, "models"));
        assert!(misspelled.is_err(), "{wanted:?}");
    }
}

/// `scripts/require.sh` in the place of [`require`].
#[cfg(unix)]
#[test]
fn scripts_know_the_same_names_and_fail_alike() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/require.sh");
    let run = |wanted: &str, name: &str| {
        let command =
            format!("set -euo pipefail; . {script}; missing {name} 'no such thing'; echo not here");
        let mut bash = std::process::Command::new("bash");
        let output = bash.args(["-c", &command]).env(REQUIRE, wanted).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains("not here"), "{said}");
        (output.status.code().unwrap(), said)
    };
    for (name, _) in NAMES {
        let (code, said) = run("", name);
        assert!(code == 0 && said.starts_with("skipped: no such thing"), "{code}: {said}");
        for wanted in [*name, "all", &*format!("fixtures,{name}")] {
            let (code, said) = run(wanted, name);
            assert!(code == 1 && said.contains("but no such thing"), "{code}: {said}");
        }
    }
    assert_eq!(run("cross,models", "qemu").0, 0);
    for (wanted, name) in [("models,qemuu", "models"), ("", "qemuu")] {
        let (code, said) = run(wanted, name);
        assert!(code == 1 && said.contains("`qemuu`"), "{code}: {said}");
    }
}
