//! `teff chat` and `teff run` as a person sees them at a terminal.

use crate::cli::{at_terminal, line_at_terminal, text};
use crate::folder::Folder;

/// Nothing of the tests' goes into the user's history.
fn at(folder: &Folder, keys: &str, args: &[&str]) -> (Option<i64>, String) {
    let model = folder.talker();
    let home = folder.0.join("data");
    let vars = [("XDG_DATA_HOME", text(&home)), ("TERM", "xterm-256color")];
    let args = [&["chat", "-m", text(&model), "-t", "1", "--temp", "0"], args].concat();
    at_terminal(keys, &args, &vars)
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let folder = Folder::new("chat-ctrl-c");
    let keys = r#"[b"on and on\r", (1.5, b"\x03"), b"/stats\r", b"\x04"]"#;
    let (code, shown) = at(&folder, keys, &["--ctx", "100000"]);
    assert_eq!(code, Some(0), "{shown:?}");
    let stats = shown.rsplit_once("cached), answer ").map(|(_, rest)| rest);
    let n: usize = stats.unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1..99_000).contains(&n), "stopped, and what came is kept: {shown:?}");
}

#[test]
fn two_ctrl_c_at_the_prompt_leave_as_ctrl_d_does() {
    let folder = Folder::new("chat-leave");
    for keys in [r#"[b"typed", (0.4, b"\x03"), (0.4, b"\x03")]"#, r#"[b"\x04"]"#] {
        let (code, shown) = at(&folder, keys, &["-n", "2"]);
        assert_eq!(code, Some(0), "{keys}: {shown:?}");
        assert!(!shown.contains("error"), "{shown:?}");
    }
}

#[test]
fn ctrl_c_that_clears_a_line_does_not_leave() {
    let folder = Folder::new("chat-clears");
    let keys = r#"[b"one", (0.4, b"\x03"), (0.4, b"two"), (0.4, b"\x03"), b"/tokens\r", b"\x04"]"#;
    let (code, shown) = at(&folder, keys, &["-n", "2"]);
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains(" 0 of yours"), "it goes on, with empty lines: {shown:?}");
}

#[test]
fn an_edit_that_is_left_changes_nothing() {
    let folder = Folder::new("chat-edit");
    let keys = r#"[b"first\r", b"/edit\r", b"\x03", b"/tokens\r", b"\x04"]"#;
    let (code, shown) = at(&folder, keys, &["-n", "2"]);
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains(" 6 of yours"), "{shown:?}");
}

#[test]
fn tab_shows_what_there_is_behind_the_same_prompt() {
    let folder = Folder::new("chat-tab");
    let keys = r#"[b"/s\t", b"\x03", b"/reg\t", b"\r", b"\x04"]"#;
    let (code, shown) = at(&folder, keys, &["-n", "2"]);
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains("Figures of the last answer") && !shown.contains("| "), "{shown:?}");
    assert!(shown.contains("there is nothing to answer"), "completed: {shown:?}");
}

#[test]
fn signals_that_end_the_program_leave_the_terminal_in_order() {
    let folder = Folder::new("chat-signals");
    for keys in ["[b'typed', (0.4, 15)]", "[b'typed', (0.4, 1)]"] {
        let (code, shown) = at(&folder, keys, &["-n", "2"]);
        assert_eq!(code, None, "the signal ended it: {shown:?}");
        assert!(shown.ends_with("\x1b[?25h\r\n"), "{shown:?}");
    }
}

#[test]
fn a_dumb_terminal_clears_the_line_at_ctrl_c_and_leaves_at_two() {
    let folder = Folder::new("chat-dumb");
    let model = folder.talker();
    let args = ["chat", "-m", text(&model), "-n", "2", "-t", "1"];
    let keys = r#"[b"gone", (0.4, b"\x03"), (2.5, b"kept\n"), b"/tokens\n", (0.5, b"\x03"), (0.4, b"\x03")]"#;
    let (code, shown) = at_terminal(keys, &args, &[("TERM", "dumb")]);
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains("Ctrl-C once more") && shown.contains(" 5 of yours"), "{shown:?}");
}

#[test]
fn what_is_typed_is_remembered_for_the_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("chat-history");
    let keys = r#"[b"remember me\r", b"/set save-history off\r", b"forget me\r", b"\x04"]"#;
    let (code, shown) = at(&folder, keys, &["-n", "2"]);
    assert_eq!(code, Some(0), "{shown:?}");
    let file = folder.0.join("data/teff/history");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("remember me") && !kept.contains("forget me"), "{kept}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // A signal leaves no time for it at the end, and a file that others could read is made private.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    at(&folder, r#"[b"last words\r", 15]"#, &["-n", "2"]);
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("last words\n"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&file, "remember me\n/set save-history off\n").unwrap();
    // The arrow brings it back.
    let (_, shown) =
        at(&folder, r#"[b"\x1b[A\x1b[A", b"\r", b"/tokens\r", b"\x04"]"#, &["-n", "2"]);
    assert!(shown.contains("12 of yours"), "{shown:?}");
}

#[test]
fn a_paste_is_one_message_and_alt_enter_a_line_break() {
    let folder = Folder::new("chat-paste");
    let keys = r#"[b"\x1b[200~ab\ncd\x1b[201~", b"\x1b\rxyz\r", b"/tokens\r", b"\x04"]"#;
    let (code, shown) = at(&folder, keys, &["-n", "2"]);
    assert_eq!(code, Some(0), "{shown:?}");
    // `ab`, `cd`, `xyz` and two line breaks.
    assert!(shown.contains(" 9 of yours"), "{shown:?}");
}

/// Answers by an expression, of a model that is asked once and ends.
const ASKED: &str = "--temp 0 -t 1 --ctx 200 --regex";

#[test]
fn what_would_act_on_a_terminal_is_shown_and_files_get_the_bytes() {
    let folder = Folder::new("shown");
    let model = folder.talker();
    let file = folder.0.join("answer");
    let run = format!("$TEFF run -m {} -p hi {ASKED} 'a\\x1b\\x07b'", text(&model));
    let piped = format!("echo hi | $TEFF chat -m {} {ASKED} 'a\\x1b\\x07b'", text(&model));
    for line in [&run, &piped] {
        let (code, shown) = line_at_terminal("[]", line, &[("TERM", "xterm")]);
        assert_eq!(code, Some(0), "{shown:?}");
        assert!(shown.contains("a\u{241b}\u{2407}b\r\n"), "{shown:?}");
        assert!(!shown.contains("a\x1b"), "{shown:?}");
        let line = format!("{line} > {}", file.display());
        line_at_terminal("[]", &line, &[("TERM", "xterm")]);
        assert_eq!(std::fs::read(&file).unwrap(), b"a\x1b\x07b\n");
    }
}

#[test]
fn a_dumb_terminal_gets_no_escape_sequences() {
    let folder = Folder::new("chat-no-escapes");
    let model = folder.talker();
    let long = "x".repeat(30_000);
    let args = ["-n", "4", "--ctx", "40000", "--cache-bytes", "0", "--system", &long];
    let args = [&["chat", "-m", text(&model)], &args[..]].concat();
    let (code, shown) = at_terminal(r#"[b"hello\n", b"\x04"]"#, &args, &[("TERM", "dumb")]);
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(!shown.contains('\x1b'), "{shown:?}");
}

#[test]
fn notes_of_a_chat_may_go_to_a_file() {
    let folder = Folder::new("chat-notes");
    let log = folder.0.join("log");
    let model = folder.talker();
    let line = format!("$TEFF chat -m {} -n 4 -t 1 2> {}", text(&model), log.display());
    let keys = r#"[(2, b"hello\n"), b"/tokens\n", (0.5, b"\x04")]"#;
    let (code, shown) = line_at_terminal(keys, &line, &[("TERM", "xterm")]);
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains("hello\r\n"), "what is typed is seen: {shown:?}");
    let notes = std::fs::read_to_string(&log).unwrap();
    assert!(notes.contains("5 of yours") && !notes.contains('\x1b'), "{notes:?}");
}

#[test]
fn hidden_reasoning_is_counted_behind_the_answer() {
    let folder = Folder::new("chat-thinking");
    let model = folder.talker();
    let template = folder.0.join("t.jinja");
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}{# <think></think> #}";
    std::fs::write(&template, source).unwrap();
    let line = format!(
        "echo hi | $TEFF chat -m {} --chat-template {} --reasoning hide {ASKED} \
         '<think>\nx\n</think>\n\nyes'",
        text(&model),
        template.display()
    );
    let (code, shown) = line_at_terminal("[]", &line, &[("TERM", "dumb")]);
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains("yes\r\nthinking: "), "{shown:?}");
}

#[test]
fn a_paste_does_not_act_on_the_terminal() {
    let folder = Folder::new("chat-paste-acts");
    let keys = r#"[b"\x1b[200~a\x1b]0;title\x07b\x1b[201~", b"\r", b"/tokens\r", b"\x04"]"#;
    let (code, shown) = at(&folder, keys, &["-n", "2"]);
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.contains("a?]0;title?b") && !shown.contains("\x1b]"), "{shown:?}");
    assert!(shown.contains("12 of yours"), "the message has it all: {shown:?}");
}
