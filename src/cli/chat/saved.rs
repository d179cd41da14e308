//! Conversations in files: saved to go on with, or exported to be read.
//!
//! A saved one is a session's file, whose caller's part is a JSON object: messages, and how answers
//! are made. Both kinds hold what was said, so nobody but the user may read them. They appear under their names
//! when they are whole.

use super::super::interrupt;
use super::OnFull;
use super::talk::Talk;
use crate::engine::{SavedText, SessionFault, SessionFileError};
use crate::sample::{self, Field, Value as Setting};
use crate::text::Message;
use clap::ValueEnum;
use gguf_rs_lite::PartFile;
use serde_json::{Map, Value, json};
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Key of the form's version, by which a file is known.
const VERSION_KEY: &str = "teff_chat";
/// Version of the form.
const VERSION: u64 = 1;

/// The file that the conversation under way is in.
pub struct SessionFile {
    path: PathBuf,
    /// Conversation that the file has: the one that was loaded or saved last.
    kept: Option<String>,
    /// The file as it was then; `None`: there was none.
    stamp: Option<Stamp>,
    /// Whether what was said last could not be saved.
    pub is_behind: bool,
}

/// Time and size of a file, by which another one that has taken its place is noticed.
type Stamp = (SystemTime, u64);

fn stamp_of(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

impl SessionFile {
    /// Checks that a conversation may be kept under a name, before there is one.
    ///
    /// # Errors
    /// As [`check_place`], or the file cannot be written.
    pub fn new(path: &Path) -> Result<SessionFile, String> {
        check_place(path)?;
        // Made and removed. Ctrl-C leaves nothing between the two.
        interrupt::whole(|| PartFile::create(path).map(drop)).map_err(|error| error.to_string())?;
        Ok(SessionFile { path: path.to_owned(), kept: None, stamp: None, is_behind: false })
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a name leads to this file.
    pub fn is_at(&self, path: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
        real(path) == real(&self.path)
    }

    /// Goes on with the conversation in the file.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(&mut self, talk: &mut Talk) -> Result<(), String> {
        let stamp = stamp_of(&self.path);
        load(talk, &self.path)?;
        self.stamp = stamp;
        self.settle(talk);
        Ok(())
    }

    /// Takes the conversation for the one in the file: what makes it another one, as options that were
    /// given with the file, is no reason to save it.
    pub fn settle(&mut self, talk: &Talk) {
        self.kept = Some(form_of(talk));
    }

    /// Saves the conversation unless the file has it as it is. There is no file before the first answer.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn keep(&mut self, talk: &Talk) -> Result<(), String> {
        let is_kept = self.kept.as_ref().is_some_and(|kept| *kept == form_of(talk));
        let has_begun = self.kept.is_some() || !talk.chat.messages().is_empty();
        match has_begun && !is_kept {
            true => self.save(talk),
            false => Ok(()),
        }
    }

    /// Saves the conversation.
    ///
    /// # Errors
    /// As [`save`], or another program has written the file since this one did.
    pub fn save(&mut self, talk: &Talk) -> Result<(), String> {
        self.is_behind = true;
        let stamp = stamp_of(&self.path);
        if stamp.is_some() && stamp != self.stamp {
            let path = self.path.display();
            return Err(format!("{path}: another program has written it since this one did"));
        }
        save(talk, &self.path)?;
        self.stamp = stamp_of(&self.path);
        self.settle(talk);
        self.is_behind = false;
        Ok(())
    }
}

/// Checks that a conversation may be saved under a name, before there is anything to be saved.
///
/// # Errors
/// Something else than a saved conversation has the name, or there is no such folder.
fn check_place(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(format!("{}: there is no folder {}", path.display(), folder.display()));
    }
    match path.exists() {
        true => SavedText::read(path).map(drop).map_err(|error| in_words(&error)),
        false => Ok(()),
    }
}

/// Saves the conversation and how answers are made.
///
/// # Errors
/// The file cannot be written, or is there and no saved conversation.
pub fn save(talk: &Talk, path: &Path) -> Result<(), String> {
    check_place(path)?;
    let (session, form) = (talk.chat.session(), form_of(talk));
    let report = match talk.saves_kv {
        true => session.save(path, form.as_bytes()),
        false => session.save_without_kv(path, form.as_bytes()),
    };
    report.map(drop).map_err(|error| in_words(&error))
}

/// The caller's part of a session's file.
fn form_of(talk: &Talk) -> String {
    let mut saved = conversation(talk);
    let sampling: Map<String, Value> = sample::params()
        .map(|param| (param.name.to_owned(), json_of(&param.get(&talk.params))))
        .collect();
    saved.insert(VERSION_KEY.into(), VERSION.into());
    saved.insert("sampling".into(), sampling.into());
    // A string, as programs read numbers of 64 bits as doubles.
    saved.insert("seed".into(), talk.params.seed.to_string().into());
    saved.insert("n_answers".into(), talk.n_answers.into());
    saved.insert("n_predict".into(), talk.n_predict.into());
    saved.insert("context_full".into(), talk.on_full.name().into());
    Value::Object(saved).to_string()
}

/// Why a file is not read or written, and what helps.
fn in_words(error: &SessionFileError) -> String {
    let path = error.path.display();
    match &error.fault {
        SessionFault::Io(reason) => match reason.kind() {
            io::ErrorKind::NotFound => format!("{path}: there is no such file"),
            io::ErrorKind::PermissionDenied => {
                format!("{path}: you may not read it, which its owner can change")
            }
            _ => format!("{path}: cannot be read: {reason}"),
        },
        SessionFault::NotASession if error.path.is_dir() => {
            format!("{path}: is a folder; name a file in it")
        }
        SessionFault::NotASession => {
            format!("{path}: is no saved conversation; those are written by /save and --session")
        }
        SessionFault::OtherModel { .. } => format!("{error}; /model goes on with another model"),
        _ => error.to_string(),
    }
}

/// Instructions and messages.
fn conversation(talk: &Talk) -> Map<String, Value> {
    let system = talk.chat.system().map(|text| Message::new("system", text));
    let messages: Vec<Value> =
        system.iter().chain(talk.chat.messages()).map(Message::to_json).collect();
    Map::from_iter([("messages".to_owned(), messages.into())])
}

/// Goes on with a saved conversation in the place of the one under way, which an error leaves as
/// it was.
///
/// # Errors
/// The file cannot be read, or is no saved conversation of this version.
pub fn load(talk: &mut Talk, path: &Path) -> Result<(), String> {
    let at = |problem: String| format!("{}: {problem}", path.display());
    let loaded = talk.runner().load_session(path).map_err(|error| in_words(&error))?;
    let saved: Value = serde_json::from_slice(&loaded.extra)
        .map_err(|error| at(format!("is no saved conversation: {error}")))?;
    match saved[VERSION_KEY].as_u64() {
        Some(VERSION) => {}
        Some(newer) => return Err(at(format!("is of version {newer}; this is {VERSION}"))),
        None => return Err(at(format!("is no saved conversation: it has no `{VERSION_KEY}`"))),
    }
    let (system, messages) = messages_of(&saved).map_err(at)?;
    let mut params = talk.params.clone();
    for param in sample::params() {
        let Some(value) = saved["sampling"].get(param.name) else { continue };
        let value = setting_of(&param.field, value)
            .ok_or_else(|| at(format!("sampling.{}: must be {}", param.name, param.need())))?;
        param.assign(&mut params, value).map_err(|error| at(error.to_string()))?;
    }
    params.validate().map_err(|error| at(error.to_string()))?;
    if let Some(seed) = saved["seed"].as_str() {
        params.seed = seed.parse().map_err(|_| at("seed: must be a whole number".into()))?;
    }
    let on_full = saved["context_full"].as_str().unwrap_or(talk.on_full.name());
    talk.on_full = OnFull::from_str(on_full, false)
        .map_err(|_| at("context_full: must be stop or shift".into()))?;
    talk.n_answers = saved["n_answers"].as_u64().unwrap_or_default();
    talk.n_predict = saved["n_predict"].as_u64().and_then(|n| usize::try_from(n).ok());
    talk.params = params;
    talk.chat.set_system(system);
    talk.chat.set_messages(messages);
    talk.chat.set_session(loaded.session);
    talk.last = None;
    Ok(())
}

/// The instructions and the other messages of a file.
fn messages_of(saved: &Value) -> Result<(Option<String>, Vec<Message>), String> {
    let turns = saved["messages"].as_array().ok_or("has no list of `messages`")?;
    let mut system = None;
    let mut messages = Vec::with_capacity(turns.len());
    for (i, turn) in turns.iter().enumerate() {
        let (Some(role), Some(content)) = (turn["role"].as_str(), turn["content"].as_str()) else {
            return Err(format!("messages[{i}] needs a `role` and a `content`, both texts"));
        };
        match role {
            "system" if i == 0 => system = Some(content.to_owned()),
            "user" => messages.push(Message::new(role, content)),
            "assistant" => {
                let reasoning = turn["reasoning_content"].as_str().unwrap_or_default();
                messages.push(Message::answer(reasoning, content));
            }
            _ => return Err(format!("messages[{i}]: role `{role}` is none of a chat")),
        }
    }
    Ok((system, messages))
}

/// The path that was typed: `~/` is the user's home, as in a shell.
pub fn path_of(typed: &str) -> PathBuf {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty());
    match typed.strip_prefix("~/").zip(home()) {
        Some((rest, home)) => Path::new(&home).join(rest),
        None => typed.into(),
    }
}

/// Writes the conversation as Markdown or as JSON, which the file's name says.
///
/// # Errors
/// The name says neither, the file is there already, or it cannot be written.
pub fn export(talk: &Talk, path: &Path) -> Result<(), String> {
    if path.exists() {
        return Err(format!("{}: is there already", path.display()));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => {
            let text = serde_json::to_string_pretty(&Value::Object(conversation(talk)));
            write(path, &(text.map_err(|error| error.to_string())? + "\n"))
        }
        Some("md") => {
            let system = talk.chat.system().map(|text| Message::new("system", text));
            let section = |message: &Message| {
                let title = match &*message.role {
                    "system" => "Instructions",
                    "user" => "You",
                    _ => "Answer",
                };
                format!("## {title}\n\n{}\n", message.content.trim())
            };
            let all = system.iter().chain(talk.chat.messages());
            write(path, &all.map(section).collect::<Vec<_>>().join("\n"))
        }
        _ => Err("needs a FILE whose name ends in .md or .json".into()),
    }
}

/// Writes a file that only the user may read.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let part = PartFile::create(path).map_err(|error| error.to_string())?;
    #[cfg(unix)]
    {
        let only_user = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        part.file().set_permissions(only_user).map_err(|e| part.error(e).to_string())?;
    }
    part.file().write_all(text.as_bytes()).map_err(|error| part.error(error).to_string())?;
    part.finish().map_err(|error| error.to_string())
}

fn json_of(setting: &Setting) -> Value {
    match setting {
        Setting::Number(x) => json!(x),
        Setting::Integer(n) => json!(n),
        Setting::Bool(yes) => json!(yes),
        Setting::Text(text) => json!(text),
        Setting::List(texts) => json!(texts),
    }
}

/// A value of the kind that the field has.
fn setting_of(field: &Field, value: &Value) -> Option<Setting> {
    Some(match field {
        Field::Number { .. } => Setting::Number(value.as_f64()?),
        Field::Integer { .. } => Setting::Integer(value.as_i64()?),
        Field::Bool { .. } => Setting::Bool(value.as_bool()?),
        Field::Text { .. } => Setting::Text(value.as_str()?.to_owned()),
        Field::List { .. } => {
            let texts = value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned));
            Setting::List(texts.collect::<Option<_>>()?)
        }
    })
}
