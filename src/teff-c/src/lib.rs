//! teff for C: what `teff.h` declares, and says in full.
//!
//! All functions go through `guard::guarded`: arguments are checked, errors become a status and a text of
//! the thread, and a panic becomes an error. Requests are JSON, which [`teff::serve::Local`] reads as the
//! server does.

mod event;
mod guard;

pub use event::{TeffCallback, TeffEvent};
pub use guard::{
    TEFF_CANCELLED, TEFF_ERROR_ARGUMENT, TEFF_ERROR_FAILED, TEFF_ERROR_PANIC, TEFF_ERROR_REQUEST,
    TEFF_OK, teff_last_error,
};

use guard::{Problem, guarded, out, text};
use serde_json::{Map, Value as Json};
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use teff::CancelToken;
use teff::serve::{Local, LocalAnswer, LocalError, LocalEvent, LocalOptions};

/// A model with its engine.
pub struct TeffModel(Local);

/// A switch that ends one request.
pub struct TeffCancel(CancelToken);

/// What the header promises of threads.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<TeffModel>();
    is_shared::<TeffCancel>();
};

/// Version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn teff_version() -> *const c_char {
    const VERSION: &std::ffi::CStr = match std::ffi::CStr::from_bytes_with_nul(
        concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes(),
    ) {
        Ok(version) => version,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}

/// Opens a model.
///
/// # Safety
/// `path` and `options` are null or texts that end in a zero byte, `model` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_model_open(
    path: *const c_char,
    options: *const c_char,
    model: *mut *mut TeffModel,
) -> i32 {
    guarded(|| {
        let model = out(model, "model")?;
        // SAFETY: the caller's promise.
        let path = unsafe { text(path, "path")? };
        let options = match options.is_null() {
            true => Map::new(),
            // SAFETY: the caller's promise.
            false => object(unsafe { text(options, "options")? }, "options")?,
        };
        let local = Local::open(Path::new(path), LocalOptions::from_json(options)?)?;
        // SAFETY: the caller's promise.
        unsafe { model.write(Box::into_raw(Box::new(TeffModel(local)))) };
        Ok(())
    })
}

/// Frees a model.
///
/// # Safety
/// `model` is null or from [`teff_model_open`], not freed, and no call has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_model_free(model: *mut TeffModel) {
    // SAFETY: the caller's promise.
    unsafe { free(model) }
}

/// Tokens of a model's context.
///
/// # Safety
/// `model` is null or from [`teff_model_open`] and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_model_ctx(model: *const TeffModel) -> usize {
    // SAFETY: the caller's promise.
    unsafe { model.as_ref() }.map_or(0, |model| model.0.n_ctx())
}

/// Makes a switch.
#[unsafe(no_mangle)]
pub extern "C" fn teff_cancel_new() -> *mut TeffCancel {
    Box::into_raw(Box::new(TeffCancel(CancelToken::default())))
}

/// Ends the request of a switch.
///
/// # Safety
/// `cancel` is null or from [`teff_cancel_new`] and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_cancel_now(cancel: *const TeffCancel) {
    // SAFETY: the caller's promise.
    if let Some(cancel) = unsafe { cancel.as_ref() } {
        cancel.0.cancel();
    }
}

/// Frees a switch.
///
/// # Safety
/// `cancel` is null or from [`teff_cancel_new`], not freed, and no call has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_cancel_free(cancel: *mut TeffCancel) {
    // SAFETY: the caller's promise.
    unsafe { free(cancel) }
}

/// Answers a conversation.
///
/// # Safety
/// `model` and `cancel` are null or not freed, `request` is null or a text that ends in a zero byte, `result`
/// is null or may be written, `callback` is null or may be called with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_chat(
    model: *const TeffModel,
    request: *const c_char,
    callback: Option<TeffCallback>,
    user: *mut c_void,
    cancel: *const TeffCancel,
    result: *mut *mut c_char,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { answer(Local::chat, (model, request), (callback, user), cancel, result) }
}

/// Continues a text.
///
/// # Safety
/// As [`teff_chat`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_complete(
    model: *const TeffModel,
    request: *const c_char,
    callback: Option<TeffCallback>,
    user: *mut c_void,
    cancel: *const TeffCancel,
    result: *mut *mut c_char,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { answer(Local::complete, (model, request), (callback, user), cancel, result) }
}

/// What makes an answer of a request.
type Ask = fn(&Local, Map<String, Json>, &CancelToken) -> Result<LocalAnswer, LocalError>;

/// # Safety
/// As [`teff_chat`].
unsafe fn answer(
    ask: Ask,
    (model, request): (*const TeffModel, *const c_char),
    (callback, user): (Option<TeffCallback>, *mut c_void),
    cancel: *const TeffCancel,
    result: *mut *mut c_char,
) -> i32 {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (model, request, cancel) = unsafe {
            (
                model.as_ref().ok_or(Problem::null("model"))?,
                text(request, "request")?,
                cancel.as_ref(),
            )
        };
        let cancel = cancel.map_or_else(CancelToken::default, |cancel| cancel.0.clone());
        let answer = ask(&model.0, object(request, "request")?, &cancel)?;
        let mut whole = Json::Null;
        for event in answer {
            match event? {
                LocalEvent::End(end) => whole = end,
                event => {
                    // SAFETY: the caller's promise.
                    let goes_on =
                        callback.is_none_or(|tell| unsafe { event::tell(tell, user, event) });
                    if !goes_on {
                        return Err(LocalError::Cancelled.into());
                    }
                }
            }
        }
        if !result.is_null() {
            // JSON has no zero byte.
            let whole = CString::new(whole.to_string()).unwrap_or_default();
            // SAFETY: the caller's promise.
            unsafe { result.write(whole.into_raw()) };
        }
        Ok(())
    })
}

/// Turns texts into vectors.
///
/// # Safety
/// `model` is null or not freed, `texts` is null or `n` pointers that are null or texts which end in a zero
/// byte, `vectors` and `dim` are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_embed(
    model: *const TeffModel,
    texts: *const *const c_char,
    n: usize,
    vectors: *mut *mut f32,
    dim: *mut usize,
) -> i32 {
    guarded(|| {
        let (vectors, dim) = (out(vectors, "vectors")?, out(dim, "dim")?);
        // SAFETY: the caller's promise.
        let model = unsafe { model.as_ref() }.ok_or(Problem::null("model"))?;
        if texts.is_null() {
            return Err(Problem::null("texts"));
        }
        // SAFETY: the caller's promise.
        let given = (0..n).map(|i| unsafe { text(*texts.add(i), "texts") }.map(str::to_owned));
        let rows = model.0.embed(&given.collect::<Result<Vec<String>, Problem>>()?)?;
        // SAFETY: the caller's promise.
        unsafe {
            dim.write(rows.first().map_or(0, Vec::len));
            vectors.write(Box::into_raw(rows.concat().into_boxed_slice()).cast());
        }
        Ok(())
    })
}

/// Frees a result.
///
/// # Safety
/// `text` is null or a result that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: it was made by `CString::into_raw`.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// Frees vectors.
///
/// # Safety
/// `vectors` is null or from [`teff_embed`], not freed, and has `len` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn teff_vectors_free(vectors: *mut f32, len: usize) {
    if !vectors.is_null() {
        // SAFETY: it was a box of so many floats.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(vectors, len)) });
    }
}

/// # Safety
/// `handle` is null or was a box, and nothing else has it.
unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: the caller's promise.
        let handle = unsafe { Box::from_raw(handle) };
        // There is nobody to tell of a panic.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(handle)));
    }
}

/// The JSON object of a text.
fn object(text: &str, name: &str) -> Result<Map<String, Json>, Problem> {
    let wrong = |problem: String| Problem::request(format!("{name}: {problem}"));
    match serde_json::from_str(text) {
        Ok(Json::Object(fields)) => Ok(fields),
        Ok(_) => Err(wrong("must be a JSON object".into())),
        Err(error) => Err(wrong(format!("is no JSON: {error}"))),
    }
}
