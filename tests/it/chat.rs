//! `teff chat` as scripts and people see it.

use crate::cli::{error_of, teff, text};
use crate::folder::Folder;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A template whose roles are told apart.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:";
/// Context that the model says it was trained with, longer than that of any test.
const N_CTX_TRAIN: u32 = 200_000;
/// Short answers of a model that babbles, where a test says nothing else.
const SHORT: [[&str; 2]; 4] = [["-n", "4"], ["--temp", "0"], ["--ctx", "200"], ["-t", "1"]];

impl Folder {
    /// The tiny model with a chat template.
    pub fn talker(&self) -> PathBuf {
        let keys = vec![
            ("tokenizer.chat_template", TEMPLATE.into()),
            ("llama.context_length", N_CTX_TRAIN.into()),
        ];
        self.tiny_with("talker", keys)
    }
}

fn chat(model: &Path, args: &[&str], lines: &str) -> Output {
    let short = SHORT.iter().filter(|[flag, _]| !args.contains(flag)).flatten();
    let args: Vec<&str> =
        ["chat", "-m", text(model)].iter().chain(short).chain(args).copied().collect();
    teff(&args, lines)
}

/// What was answered and what was told, of a chat that ended well.
fn told(output: Output) -> (String, String) {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), stderr)
}

/// The answer that the model gives to a whole prompt.
fn answer_to(model: &Path, prompt: &str) -> String {
    let args = [&["run", "-m", text(model), "--raw", "-p", prompt], SHORT.as_flattened()].concat();
    let output = teff(&args, "");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
}

#[test]
fn each_line_is_a_turn_and_answers_are_separated_by_a_blank_line() {
    let folder = Folder::new("chat-lines");
    let model = folder.talker();
    let first = answer_to(&model, "u:one\na:");
    let second = answer_to(&model, &format!("u:one\na:{first}\nu:two\n\"three\"\na:"));
    let lines = "one\n\n\"\"\"\ntwo\n\"three\"\n\"\"\"\n";
    let (answers, notes) = told(chat(&model, &[], lines));
    assert_eq!(answers, format!("{first}\n\n{second}\n"));
    assert_eq!(notes, "", "nothing but answers");
}

#[test]
fn a_model_without_a_template_is_no_chat_model() {
    let folder = Folder::new("chat-base");
    let keys = vec![("llama.context_length", N_CTX_TRAIN.into())];
    let model = folder.tiny_with("base", keys);
    let error = error_of(&chat(&model, &[], "hello\n"), 1);
    assert!(error.contains("base.gguf") && error.contains("no chat template"), "{error}");
}

#[test]
fn commands_are_done_or_named() {
    let folder = Folder::new("chat-commands");
    let model = folder.talker();
    for (lines, expected) in [
        ("/regnerate\n", "there is no command /regnerate: did you mean /regenerate?"),
        ("/set temp 5000\n", "/set: temp 5000: must be a number from 0 to 1000"),
        ("/set top_k 7\n", "top-k 7"),
        ("/set tmp 1\n", "there is no setting `tmp`: did you mean `temp`?"),
        ("/set context-full never\n", "must be stop or shift"),
        ("/set save-history on\n", "only an editor on a terminal has a history"),
        ("/set\n", "min-p"),
        ("/undo\n", "/undo: there is no turn to take back"),
        ("a\nb\nc\n/undo 2\n", "2 turns are taken back"),
        ("/undo 0\n", "/undo: must be a whole number from 1"),
        ("/stats\n", "/stats: there was no answer yet"),
        ("one\n/stats\n", "context 14 of 200, KV "),
        ("one\n/tokens\n", "4 of yours"),
        ("/system\n", "there are no instructions"),
        ("/system be brief\n/system\n", "be brief"),
        ("/regen\n", "did you mean /regenerate?"),
        ("/image cat.png\n", "images are not supported"),
        ("/model\n", "talker.gguf"),
        ("/model no/such.gguf\n", "no/such.gguf"),
        ("/load no/such.chat\n", "/load: no/such.chat: there is no such file"),
        ("/load .\n", "/load: .: is a folder; name a file in it"),
        ("/save\n", "needs a FILE"),
        ("/export notes.txt\n", "ends in .md or .json"),
        ("/help\n", "/regenerate"),
        ("/clear all\n", "/clear takes nothing behind it"),
        ("/set temp=0.5\n", "temp 0.5"),
        ("/SET TEMP 1\n", "temp 1"),
        ("/set TMP 1\n", "did you mean `temp`?"),
    ] {
        let (_, notes) = told(chat(&model, &[], lines));
        assert!(notes.contains(expected), "{lines}: {notes}");
    }
    let (answers, _) = told(chat(&model, &[], "/exit\nnever\n"));
    assert_eq!(answers, "");
}

#[test]
fn turns_can_be_changed() {
    let folder = Folder::new("chat-changes");
    let model = folder.talker();
    let plain = answer_to(&model, "u:one\na:");
    let with_system = answer_to(&model, "s:be brief\nu:one\na:");
    let edited = answer_to(&model, "s:be brief\nu:two\na:");
    let slash = answer_to(&model, "s:be brief\nu:/three\na:");
    let lines = "one\n/clear\n/system be brief\none\n/regenerate\n/edit two\n/undo\n//three\n";
    let (answers, _) = told(chat(&model, &[], lines));
    let expected = [&plain, &with_system, &with_system, &edited, &slash];
    assert_eq!(answers.trim_end_matches('\n'), expected.map(String::as_str).join("\n\n"));
}

#[test]
fn a_saved_conversation_goes_on_as_if_nothing_had_happened() {
    let folder = Folder::new("chat-saved");
    let model = folder.talker();
    let session = folder.0.join("s.chat");
    let hot = ["--temp", "3", "--seed", "7", "--system", "be brief"];
    let (whole, _) = told(chat(&model, &hot, "one\ntwo\nthree\n"));
    let args = [&hot[..], &["--session", text(&session)]].concat();
    let (first, _) = told(chat(&model, &args, "one\ntwo\n"));
    // What is given counts more than what was saved.
    let args = ["--session", text(&session), "--temp", "3"];
    let (rest, notes) = told(chat(&model, &args, "three\n/stats\n"));
    let stats = notes.lines().last().unwrap();
    assert!(!stats.contains("(0 cached)"), "the prompt is not computed again: {stats}");
    assert_eq!(format!("{first}\n{rest}"), whole);
    assert!(notes.contains("4 messages from "), "{notes}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&session).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let whole = std::fs::read(&session).unwrap();
    let cut = &whole[..whole.len() - 9];
    for bytes in [&b"{}"[..], b"", &whole[..40], cut] {
        std::fs::write(&session, bytes).unwrap();
        let error = error_of(&chat(&model, &args, "x\n"), 1);
        assert!(error.contains("s.chat"), "{error}");
        assert_eq!(std::fs::read(&session).unwrap(), bytes, "what cannot be read stays");
    }
    std::fs::write(&session, &whole).unwrap();
    let keys = vec![
        ("tokenizer.chat_template", TEMPLATE.into()),
        ("llama.context_length", N_CTX_TRAIN.into()),
        ("general.name", "other".into()),
    ];
    let other = folder.tiny_with("other", keys);
    let error = error_of(&chat(&other, &args, "x\n"), 1);
    assert!(error.contains("s.chat") && error.contains("model"), "{error}");
}

#[test]
fn files_of_others_are_not_written_over() {
    let folder = Folder::new("chat-others");
    let model = folder.talker();
    let notes = folder.0.join("notes.txt");
    std::fs::write(&notes, "important").unwrap();
    let error = error_of(&chat(&model, &["--session", text(&notes)], "x\n"), 1);
    assert!(error.contains("notes.txt"), "{error}");
    let nowhere = folder.0.join("no/such/s.chat");
    let error = error_of(&chat(&model, &["--session", text(&nowhere)], "x\n"), 1);
    assert!(error.contains("there is no folder"), "{error}");
    let lines = format!("one\n/save {}\n/export {0}\n", notes.display());
    told(chat(&model, &[], &lines));
    assert_eq!(std::fs::read(&notes).unwrap(), b"important");
}

#[test]
fn exports_are_for_people_and_programs() {
    let folder = Folder::new("chat-export");
    let model = folder.talker();
    let first = answer_to(&model, "s:be brief\nu:one\na:");
    let path = |name: &str| folder.0.join(name);
    let (md, json) = (path("c.md"), path("c.json"));
    let lines = format!("one\n/export {}\n/export {}\n", md.display(), json.display());
    told(chat(&model, &["--system", "be brief"], &lines));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let expected =
        format!("## Instructions\n\nbe brief\n\n## You\n\none\n\n## Answer\n\n{}\n", first.trim());
    assert_eq!(read(&md), expected);
    let value: serde_json::Value = serde_json::from_str(&read(&json)).unwrap();
    assert_eq!(value["messages"][2]["role"], "assistant");
    assert_eq!(value["messages"][2]["content"], first.as_str());
}

#[test]
fn a_full_context_stops_the_turn_or_drops_the_oldest() {
    let folder = Folder::new("chat-full");
    let model = folder.talker();
    let long = "x".repeat(40);
    let lines = format!("{long}\n{long}\n{long}\nlast\n");
    let small = ["--ctx", "100", "-n", "8", "--system", "brief"];
    let output = chat(&model, &small, &lines);
    let notes = String::from_utf8(output.stderr).unwrap();
    let answers = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "a script is told: {notes}");
    assert!(notes.contains("/set context-full shift"), "{notes}");
    assert!(notes.contains("your message is taken back"), "{notes}");
    assert!(notes.contains("the context is nearly full"), "{notes}");
    assert!(!answers.is_empty());

    let args = [&small[..], &["--context-full", "shift"]].concat();
    let (answers, notes) = told(chat(&model, &args, &lines));
    assert!(notes.contains("left out from now on"), "{notes}");
    assert!(!notes.contains("taken back"), "{notes}");
    // The last turn is answered as in a conversation that begins with what was kept.
    let last = answers.trim_end_matches('\n').rsplit("\n\n").next().unwrap().to_owned();
    assert!(!last.is_empty());
    let too_long = format!("{}\nshort\n", "y".repeat(300));
    let output = chat(&model, &args, &too_long);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("taken back"), "{notes}");
    assert!(notes.contains("error: 1 of the messages was not answered"), "{notes}");
    assert!(!notes.contains("/set context-full shift"), "that is set: {notes}");
    assert!(!String::from_utf8_lossy(&output.stdout).trim().is_empty(), "the next one is answered");

    let (_, notes) = told(chat(&model, &["--ctx", "100", "-n", "1000"], "fill\n/stats\n"));
    assert!(notes.contains("context 100 of 100"), "{notes}");
}

#[test]
fn a_session_is_kept_as_commands_leave_it() {
    let folder = Folder::new("chat-kept");
    let model = folder.talker();
    let session = folder.0.join("s.chat");
    let kept = ["--session", text(&session)];
    told(chat(&model, &kept, "/set temp 0\n"));
    assert!(!session.exists(), "there is none before the first answer");
    told(chat(&model, &kept, "one\ntwo\n"));
    let before = std::fs::read(&session).unwrap();
    told(chat(&model, &[&kept[..], &["-n", "5", "--temp", "2"]].concat(), "/stats\n"));
    assert_eq!(std::fs::read(&session).unwrap(), before, "nothing was changed");
    told(chat(&model, &kept, "/undo\n/system be brief\n"));
    let (_, notes) = told(chat(&model, &kept, "/system\n"));
    assert!(notes.contains("2 messages from ") && notes.ends_with("be brief\n"), "{notes}");
    // `/save` is no other program.
    let lines = format!("/save\nthree\n/save {}\nfour\n", session.display());
    let (_, notes) = told(chat(&model, &kept, &lines));
    assert!(!notes.contains("not saved"), "{notes}");
}

#[test]
fn what_another_program_saved_meanwhile_is_not_lost() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::Stdio;
    let folder = Folder::new("chat-two");
    let model = folder.talker();
    let session = folder.0.join("s.chat");
    let kept = ["--session", text(&session)];
    told(chat(&model, &kept, "one\n"));
    let mut first = crate::cli::program();
    first.args(["chat", "-m", text(&model)]).args(SHORT.as_flattened()).args(kept);
    let first = first.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut first = first.spawn().unwrap();
    let mut notes = BufReader::new(first.stderr.take().unwrap());
    let mut line = String::new();
    notes.read_line(&mut line).unwrap();
    assert!(line.contains("2 messages from "), "{line}");
    told(chat(&model, &kept, "of another\n"));
    let saved = std::fs::read(&session).unwrap();
    first.stdin.take().unwrap().write_all(b"two\n").unwrap();
    notes.read_to_string(&mut line).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(1), "{line}");
    assert!(line.contains("another program has written it"), "{line}");
    assert_eq!(std::fs::read(&session).unwrap(), saved);
}

#[test]
fn sessions_of_text_alone_are_small_and_are_computed_again() {
    let folder = Folder::new("chat-text");
    let model = folder.talker();
    let session = folder.0.join("s.chat");
    let args = ["--session", text(&session)];
    let lines = format!("{}\n", "long ".repeat(20));
    let (whole, _) = told(chat(&model, &[], &format!("{lines}two\n")));
    let small = [&args[..], &["--without-kv"]].concat();
    let (first, _) = told(chat(&model, &small, &lines));
    assert!(std::fs::metadata(&session).unwrap().len() < 3000);
    let (rest, notes) = told(chat(&model, &args, "two\n/stats\n"));
    assert_eq!(format!("{first}\n{rest}"), whole);
    assert!(notes.contains("(0 cached)"), "{notes}");
}

#[cfg(unix)]
#[test]
fn a_script_is_told_that_nothing_was_saved() {
    use std::process::Command;
    let folder = Folder::new("chat-unsaved");
    let model = folder.talker();
    let session = folder.0.join("s.chat");
    let program = crate::cli::program();
    let line = "ulimit -f 1; echo hello | \"$0\" \"$@\"";
    let output = Command::new("/bin/sh")
        .args(["-c", line])
        .arg(program.get_program())
        .args(program.get_args())
        .args(["chat", "-m", text(&model), "--session", text(&session)])
        .args(SHORT.as_flattened())
        .output()
        .unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{notes}");
    assert!(notes.contains("not saved: ") && notes.contains("too large"), "{notes}");
    assert!(notes.contains("error: the conversation was not saved"), "{notes}");
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "the model alone is there");
    // A pipe would be waited for.
    assert!(Command::new("mkfifo").arg(&session).status().unwrap().success());
    let error = error_of(&chat(&model, &["--session", text(&session)], "x\n"), 1);
    assert!(error.contains("s.chat: is no saved conversation"), "{error}");
}
