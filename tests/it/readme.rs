//! The commands that the front page shows are commands that exist: verbs, options, scripts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const README: &str = include_str!("../../README.md");

/// Options in the page's text that are those of scripts or cargo, not of the program.
const OTHER_OPTIONS: &[&str] =
    &["--static", "--run", "--release", "--path", "--features", "--package"];

/// The help of every verb.
fn helps() -> BTreeMap<String, String> {
    let all = help(&["--help"]);
    let verbs = all.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = verbs.take_while(|line| line.starts_with("  "));
    let verbs = verbs.filter_map(|line| line.split_whitespace().next());
    verbs.filter(|verb| *verb != "help").map(|v| (v.to_owned(), help(&[v, "--help"]))).collect()
}

fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_teff")).args(args).output().expect("runs");
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Whether a help lists an option, as a word of its own.
fn lists(help: &str, option: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '-';
    help.match_indices(option).any(|(at, _)| {
        !help[..at].ends_with(is_part) && !help[at + option.len()..].starts_with(is_part)
    })
}

/// Lines of the page's shell blocks, without comments.
fn shell_lines(text: &str) -> Vec<&str> {
    let mut in_shell = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(language) => in_shell = language == "sh",
            None if in_shell => lines.push(line.split(" #").next().unwrap_or_default().trim()),
            None => {}
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// Words outside quotes; a quoted text is one word.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quote = !quote,
            ' ' if !quote => {
                words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()))
            }
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

/// What is wrong with a line of shell, if it is one of the program's or of a script.
fn problem(line: &str, helps: &BTreeMap<String, String>) -> Option<String> {
    let command = line.strip_prefix("cargo run --release -- ").or(line.strip_prefix("teff "));
    let Some(command) = command else {
        let script = line.split(' ').next().filter(|word| word.starts_with("scripts/"))?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        return (!path.is_file()).then(|| format!("no {script}"));
    };
    let words = words(command);
    let Some(help) = helps.get(&words[0]) else { return Some(format!("no verb {}", words[0])) };
    let mut options = words[1..].iter().filter(|word| word.starts_with('-') && word.len() > 1);
    options.find(|o| !lists(help, o)).map(|o| format!("{} has no {o}", words[0]))
}

#[test]
fn commands_of_the_front_page_exist() {
    let helps = helps();
    assert!(helps.contains_key("run") && helps.contains_key("inspect"), "{:?}", helps.keys());
    let lines = shell_lines(README);
    assert!(lines.len() >= 8, "{lines:?}");
    for line in lines {
        assert_eq!(problem(line, &helps), None, "{line}");
    }
    // In the text: `teff verb` and `--option`.
    for code in README.split('`').skip(1).step_by(2) {
        if let Some(command) = code.strip_prefix("teff ") {
            assert_eq!(problem(&format!("teff {command}"), &helps), None, "`{code}`");
        } else if code.starts_with("--") {
            let option = code.split([' ', '\n', '=']).next().unwrap_or_default();
            let known = OTHER_OPTIONS.contains(&option);
            assert!(known || helps.values().any(|help| lists(help, option)), "`{code}`");
        }
    }
}

#[test]
fn what_does_not_exist_is_found() {
    let helps = BTreeMap::from([("run".to_owned(), "  -m, --model <MODEL>\n".to_owned())]);
    for fine in
        ["teff run -m a < b", "cargo run --release -- run --model x", "scripts/check.sh", "ls"]
    {
        assert_eq!(problem(fine, &helps), None, "{fine}");
    }
    for bad in ["teff walk", "teff run --mode x", "teff run -p \"a b\"", "scripts/none.sh"] {
        assert!(problem(bad, &helps).is_some(), "{bad}");
    }
    assert_eq!(shell_lines("```sh\na # b\n```\nc\n```text\nd\n```"), ["a"]);
}
