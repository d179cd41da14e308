//! News of an answer, as C reads them.

use std::ffi::{c_char, c_void};
use teff::serve::LocalEvent;
use teff::text::AnswerDelta;

const PROMPT: i32 = 0;
const TEXT: i32 = 1;
const REASONING: i32 = 2;
const CALL: i32 = 3;
const ARGUMENTS: i32 = 4;
const CALL_END: i32 = 5;

/// News of an answer; `teff.h` says what its fields are.
#[repr(C)]
pub struct TeffEvent {
    kind: i32,
    index: usize,
    done: usize,
    total: usize,
    text: *const c_char,
    text_len: usize,
    id: *const c_char,
}

/// Hears of an answer; anything but 0 ends it.
pub type TeffCallback = unsafe extern "C" fn(event: *const TeffEvent, user: *mut c_void) -> i32;

/// An event in parts that own their texts.
#[derive(Default)]
struct Told {
    kind: i32,
    index: usize,
    done: usize,
    total: usize,
    text: String,
    id: String,
}

/// Tells an event; whether the answer is to go on.
///
/// # Safety
/// `callback` may be called with `user`.
pub(crate) unsafe fn tell(callback: TeffCallback, user: *mut c_void, event: LocalEvent) -> bool {
    let Some(mut told) = told(event) else { return true };
    let text_len = told.text.len();
    told.text.push('\0');
    told.id.push('\0');
    let Told { kind, index, done, total, text, id } = &told;
    let event = TeffEvent {
        kind: *kind,
        index: *index,
        done: *done,
        total: *total,
        text: text.as_ptr().cast(),
        text_len,
        id: id.as_ptr().cast(),
    };
    // SAFETY: the caller's promise; the texts end in a zero byte and outlive the call.
    unsafe { callback(&raw const event, user) == 0 }
}

/// What C is told of an event; `None` for one that it has no name for.
fn told(event: LocalEvent) -> Option<Told> {
    let none = Told::default();
    Some(match event {
        LocalEvent::Prompt { done, total } => Told { kind: PROMPT, done, total, ..none },
        LocalEvent::Delta(AnswerDelta::Text(text)) => Told { kind: TEXT, text, ..none },
        LocalEvent::Delta(AnswerDelta::Reasoning(text)) => Told { kind: REASONING, text, ..none },
        LocalEvent::Delta(AnswerDelta::CallStart { index, id, name, .. }) => {
            Told { kind: CALL, index, id, text: name, ..none }
        }
        LocalEvent::Delta(AnswerDelta::CallArgs { index, json }) => {
            Told { kind: ARGUMENTS, index, text: json, ..none }
        }
        LocalEvent::Delta(AnswerDelta::CallEnd { index }) => Told { kind: CALL_END, index, ..none },
        _ => return None,
    })
}
