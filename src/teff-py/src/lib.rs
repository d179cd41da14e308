//! teff for Python: requests are Python's own objects, made into the JSON that `teff serve` reads.
//!
//! The interpreter's lock is given up while the engine computes. A waiting answer looks for signals every now
//! and then, so that Ctrl-C ends it.

use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value as Json};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use teff::CancelToken;
use teff::serve::{Local, LocalAnswer, LocalError, LocalEvent, LocalOptions};
use teff::text::AnswerDelta;

/// Time between two looks for signals.
const LOOK: Duration = Duration::from_millis(50);

create_exception!(teff, RequestError, PyValueError, "A request or an option is wrong.");
create_exception!(teff, ModelError, PyRuntimeError, "A model cannot be loaded, or an answer failed.");

/// An error as Python knows it.
fn raised(py: Python<'_>, error: LocalError) -> PyErr {
    match error {
        LocalError::Request { field, message } => {
            let error = RequestError::new_err(message);
            match error.value(py).setattr("field", field) {
                Ok(()) => error,
                Err(other) => other,
            }
        }
        error => ModelError::new_err(error.to_string()),
    }
}

/// Python's own objects as JSON; what is `None` is left out.
fn fields(py: Python<'_>, given: Option<&Bound<'_, PyDict>>) -> PyResult<Map<String, Json>> {
    let Some(given) = given else { return Ok(Map::new()) };
    let text: String = py.import("json")?.call_method1("dumps", (given,))?.extract()?;
    let fields: Json = serde_json::from_str(&text)
        .map_err(|error| PyValueError::new_err(format!("not to be told as JSON: {error}")))?;
    let Json::Object(mut fields) = fields else {
        return Err(PyTypeError::new_err("must be keyword arguments"));
    };
    fields.retain(|_, value| !value.is_null());
    Ok(fields)
}

/// What has threads of its own. A fork of the process has its memory, but none of these threads: there it can
/// neither be used nor be given back.
struct Threaded<T> {
    value: Option<T>,
    process: u32,
}

impl<T> Threaded<T> {
    fn new(value: T) -> Threaded<T> {
        Threaded { value: Some(value), process: std::process::id() }
    }

    fn get(&self) -> PyResult<&T> {
        let here = self.value.as_ref().filter(|_| self.process == std::process::id());
        here.ok_or_else(|| {
            ModelError::new_err(
                "the model was loaded before this process was forked off, and has no threads here; \
                 load it in each process, or have them start by `spawn`",
            )
        })
    }
}

impl<T> Drop for Threaded<T> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            std::mem::forget(self.value.take());
        }
    }
}

/// A model with its engine.
#[pyclass(frozen, module = "teff")]
struct Model(Threaded<Local>);

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (path, **options))]
    fn new(py: Python<'_>, path: PathBuf, options: Option<&Bound<'_, PyDict>>) -> PyResult<Model> {
        let options = fields(py, options)?;
        let open = || Local::open(&path, LocalOptions::from_json(options)?);
        let local = py.detach(open).map_err(|error| raised(py, error))?;
        Ok(Model(Threaded::new(local)))
    }

    #[getter]
    fn ctx(&self) -> PyResult<usize> {
        Ok(self.0.get()?.n_ctx())
    }

    #[pyo3(signature = (messages, **request))]
    fn chat(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        request: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answer> {
        self.ask(py, Local::chat, ("messages", messages), request)
    }

    #[pyo3(signature = (prompt, **request))]
    fn complete(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        request: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answer> {
        self.ask(py, Local::complete, ("prompt", prompt), request)
    }

    fn embed(&self, py: Python<'_>, texts: Vec<String>) -> PyResult<Vec<Vec<f32>>> {
        let local = self.0.get()?;
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        py.detach(|| local.embed(&texts)).map_err(|error| raised(py, error))
    }
}

/// What makes an answer of a request.
type Ask = fn(&Local, Map<String, Json>, &CancelToken) -> Result<LocalAnswer, LocalError>;

impl Model {
    fn ask(
        &self,
        py: Python<'_>,
        ask: Ask,
        (name, input): (&str, &Bound<'_, PyAny>),
        request: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Answer> {
        let whole = match request {
            Some(request) => request.copy()?,
            None => PyDict::new(py),
        };
        whole.set_item(name, input)?;
        let request = fields(py, Some(&whole))?;
        let cancel = CancelToken::default();
        let local = self.0.get()?;
        let answer = py.detach(|| ask(local, request, &cancel));
        let answer = answer.map_err(|error| raised(py, error))?;
        Ok(Answer { cancel, inner: Threaded::new(Mutex::new(Inner { answer, whole: None })) })
    }
}

/// News of an answer.
#[pyclass(frozen, get_all, module = "teff")]
#[derive(Default)]
struct Event {
    kind: &'static str,
    text: String,
    index: usize,
    id: String,
    done: usize,
    total: usize,
}

#[pymethods]
impl Event {
    fn __repr__(&self) -> String {
        let Event { kind, text, index, done, total, .. } = self;
        match *kind {
            "prompt" => format!("Event(kind='prompt', done={done}, total={total})"),
            _ => format!("Event(kind='{kind}', text={text:?}, index={index})"),
        }
    }
}

/// The event of an answer; `None` for one that has no name here.
fn event(news: LocalEvent) -> Option<Event> {
    let none = Event::default();
    Some(match news {
        LocalEvent::Prompt { done, total } => Event { kind: "prompt", done, total, ..none },
        LocalEvent::Delta(AnswerDelta::Text(text)) => Event { kind: "text", text, ..none },
        LocalEvent::Delta(AnswerDelta::Reasoning(text)) => Event { kind: "reasoning", text, ..none },
        LocalEvent::Delta(AnswerDelta::CallStart { index, id, name, .. }) => {
            Event { kind: "call", index, id, text: name, ..none }
        }
        LocalEvent::Delta(AnswerDelta::CallArgs { index, json }) => {
            Event { kind: "arguments", index, text: json, ..none }
        }
        LocalEvent::Delta(AnswerDelta::CallEnd { index }) => Event { kind: "call_end", index, ..none },
        _ => return None,
    })
}

/// Events of an answer while it comes.
#[pyclass(frozen, module = "teff")]
struct Answer {
    cancel: CancelToken,
    inner: Threaded<Mutex<Inner>>,
}

struct Inner {
    answer: LocalAnswer,
    /// The whole answer, when it has ended.
    whole: Option<Json>,
}

#[pymethods]
impl Answer {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Event>> {
        loop {
            match self.next(py)? {
                None => return Ok(None),
                Some(news) => {
                    if let Some(event) = event(news) {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    fn whole<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        while self.next(py)?.is_some() {}
        let whole = self.inner.get()?.lock().unwrap_or_else(PoisonError::into_inner).whole.clone();
        let whole = whole.ok_or_else(|| ModelError::new_err("the answer was cancelled"))?;
        py.import("json")?.call_method1("loads", (whole.to_string(),))
    }

    fn cancel(&self) {
        self.cancel.cancel();
    }
}

impl Answer {
    /// The next event; `None` behind the end, which is kept.
    fn next(&self, py: Python<'_>) -> PyResult<Option<LocalEvent>> {
        let inner = self.inner.get()?;
        loop {
            // A thread that waits for the lock must not hold the interpreter's.
            let next = py.detach(|| {
                let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.answer.is_ready_within(LOOK).then(|| inner.take())
            });
            match next {
                Some(next) => return next.map_err(|error| raised(py, error)),
                None => py.check_signals().inspect_err(|_| self.cancel.cancel())?,
            }
        }
    }
}

impl Inner {
    /// Takes the event that is at hand.
    fn take(&mut self) -> Result<Option<LocalEvent>, LocalError> {
        match self.answer.next() {
            Some(Ok(LocalEvent::End(whole))) => {
                self.whole = Some(whole);
                Ok(None)
            }
            Some(Ok(event)) => Ok(Some(event)),
            None | Some(Err(LocalError::Cancelled)) => Ok(None),
            Some(Err(error)) => Err(error),
        }
    }
}

#[pymodule]
fn _teff(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    let request_error = py.get_type::<RequestError>();
    request_error.setattr("field", py.None())?;
    module.add("RequestError", request_error)?;
    module.add("ModelError", py.get_type::<ModelError>())?;
    module.add_class::<Model>()?;
    module.add_class::<Answer>()?;
    module.add_class::<Event>()
}
