//! What stands between C and the library: arguments are checked, errors told, panics caught.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use teff::serve::LocalError;

/// All went well.
pub const TEFF_OK: i32 = 0;
/// A null pointer, or text that is not UTF-8.
pub const TEFF_ERROR_ARGUMENT: i32 = 1;
/// JSON that is none, or a field that is wrong.
pub const TEFF_ERROR_REQUEST: i32 = 2;
/// The model cannot be loaded, or the answer failed.
pub const TEFF_ERROR_FAILED: i32 = 3;
/// The answer was cancelled.
pub const TEFF_CANCELLED: i32 = 4;
/// A fault of the library.
pub const TEFF_ERROR_PANIC: i32 = 5;

thread_local! {
    /// Why the last call of this thread that failed did so.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Why a call fails.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: i32,
    message: String,
}

impl Problem {
    /// A pointer that must not be null.
    pub fn null(name: &str) -> Problem {
        Problem { status: TEFF_ERROR_ARGUMENT, message: format!("{name} is null") }
    }

    /// A request that is wrong.
    pub fn request(message: String) -> Problem {
        Problem { status: TEFF_ERROR_REQUEST, message }
    }
}

impl From<LocalError> for Problem {
    fn from(error: LocalError) -> Problem {
        let status = match error {
            LocalError::Request { .. } => TEFF_ERROR_REQUEST,
            LocalError::Cancelled => TEFF_CANCELLED,
            _ => TEFF_ERROR_FAILED,
        };
        Problem { status, message: error.to_string() }
    }
}

/// Does the work of a call: the status, with the error kept for [`teff_last_error`].
pub(crate) fn guarded(work: impl FnOnce() -> Result<(), Problem>) -> i32 {
    let done = catch_unwind(AssertUnwindSafe(work));
    let problem = match done {
        Ok(Ok(())) => return TEFF_OK,
        Ok(Err(problem)) => problem,
        Err(payload) => {
            let message = format!("a fault of the library: {}", panic_message(&*payload));
            // What a panic carries may panic when it is dropped.
            std::mem::forget(payload);
            Problem { status: TEFF_ERROR_PANIC, message }
        }
    };
    let message = CString::new(problem.message.replace('\0', "\u{fffd}")).unwrap_or_default();
    // At the end of a thread there is nobody left to ask.
    let _ = LAST_ERROR.try_with(|last| last.replace(message));
    problem.status
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

/// Why the last call of this thread that failed did so.
#[unsafe(no_mangle)]
pub extern "C" fn teff_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A text.
///
/// # Safety
/// `pointer` is null or a text that ends in a zero byte and lives for `'t`.
pub(crate) unsafe fn text<'t>(pointer: *const c_char, name: &str) -> Result<&'t str, Problem> {
    if pointer.is_null() {
        return Err(Problem::null(name));
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(pointer) }.to_str().map_err(|error| {
        let at = error.valid_up_to();
        Problem {
            status: TEFF_ERROR_ARGUMENT,
            message: format!("{name} is not UTF-8 at byte {at}"),
        }
    })
}

/// Where a result is written, which need not be initialized.
pub(crate) fn out<T>(pointer: *mut T, name: &str) -> Result<NonNull<T>, Problem> {
    NonNull::new(pointer).ok_or_else(|| Problem::null(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: the text lives until this thread's next call that fails.
        unsafe { CStr::from_ptr(teff_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_an_error_of_its_thread() {
        assert_eq!(guarded(|| panic!("at {}", 7)), TEFF_ERROR_PANIC);
        assert_eq!(last(), "a fault of the library: at 7");
        assert_eq!(guarded(|| Ok(())), TEFF_OK);
        assert!(last().ends_with("at 7"), "it stays until another fails");
        std::thread::spawn(|| assert_eq!(last(), "")).join().unwrap();
        assert_eq!(guarded(|| Err(Problem::request("a\0b".into()))), TEFF_ERROR_REQUEST);
        assert_eq!(last(), "a\u{fffd}b");
    }
}
