//! Answers as Ollama writes them, whole and as lines.

use super::now;
use crate::sample::Logprobs;
use crate::serve::fault::{Fault, Style};
use crate::serve::generate::{End, Event, Finish};
use crate::serve::loaded::Loaded;
use crate::serve::openai::token_logprob;
use crate::serve::stream::{Part, Shape};
use crate::serve::translate::object;
use crate::text::{Answer, AnswerDelta};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Form of what is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A conversation, by a message.
    Chat,
    /// A prompt, by a text.
    Generate,
}

impl Form {
    /// A line with a text.
    pub fn line(self, loaded: &Loaded, text: &str) -> Json {
        let mut line = json!({ "model": loaded.id, "created_at": now() });
        match self {
            Form::Chat => line["message"] = json!({ "role": "assistant", "content": text }),
            Form::Generate => line["response"] = text.into(),
        }
        line["done"] = false.into();
        line
    }

    /// The object of a line that has thinking and calls.
    fn body(self, line: &mut Json) -> &mut Json {
        match self {
            Form::Chat => &mut line["message"],
            Form::Generate => line,
        }
    }
}

/// The answer under way: it tells lines, and is whole at the end.
pub struct Lines {
    loaded: Arc<Loaded>,
    form: Form,
    tells_logprobs: bool,
    start: Instant,
    answer: Answer,
    logprobs: Vec<Json>,
    end: Option<End>,
}

impl Lines {
    /// An answer of that form.
    pub fn new(loaded: Arc<Loaded>, form: Form, tells_logprobs: bool) -> Lines {
        Lines {
            loaded,
            form,
            tells_logprobs,
            start: Instant::now(),
            answer: Answer::default(),
            logprobs: Vec::new(),
            end: None,
        }
    }

    /// The whole answer.
    pub fn whole(&self) -> Json {
        let mut line = self.form.line(&self.loaded, &self.answer.content);
        let body = self.form.body(&mut line);
        if !self.answer.reasoning.is_empty() {
            body["thinking"] = self.answer.reasoning.as_str().into();
        }
        let calls: Vec<Json> =
            (0..self.answer.tool_calls.len()).filter_map(|i| self.call(i)).collect();
        if !calls.is_empty() {
            body["tool_calls"] = calls.into();
        }
        if self.tells_logprobs {
            line["logprobs"] = json!(self.logprobs);
        }
        self.finish(&mut line);
        line
    }

    /// A call, whose arguments are an object; `None` if it was cut.
    fn call(&self, index: usize) -> Option<Json> {
        let call = self.answer.tool_calls.get(index)?;
        let arguments = object(&call.arguments)?;
        let function = json!({ "index": index, "name": call.name, "arguments": arguments });
        Some(json!({ "id": call.id, "function": function }))
    }

    /// Makes a line the last one.
    fn finish(&self, line: &mut Json) {
        let Some(end) = &self.end else { return };
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let reason = match end.finish {
            Finish::End | Finish::Stop(_) => "stop",
            Finish::Length | Finish::Context => "length",
        };
        line["done"] = true.into();
        line["done_reason"] = reason.into();
        line["total_duration"] = nanos(self.start.elapsed()).into();
        line["load_duration"] = 0.into();
        line["prompt_eval_count"] = end.stats.n_prompt.into();
        line["prompt_eval_duration"] = nanos(end.stats.prompt_time).into();
        line["eval_count"] = end.stats.n_generated.into();
        line["eval_duration"] = nanos(end.stats.generate_time).into();
    }

    fn delta(&mut self, delta: AnswerDelta) -> Option<Json> {
        self.answer.add(delta.clone());
        match delta {
            AnswerDelta::Text(text) if !text.is_empty() => {
                Some(self.form.line(&self.loaded, &text))
            }
            AnswerDelta::Reasoning(text) if !text.is_empty() => {
                let mut line = self.form.line(&self.loaded, "");
                self.form.body(&mut line)["thinking"] = text.into();
                Some(line)
            }
            AnswerDelta::CallEnd { index } => {
                let mut line = self.form.line(&self.loaded, "");
                self.form.body(&mut line)["tool_calls"] = json!([self.call(index)?]);
                Some(line)
            }
            _ => None,
        }
    }

    fn piece(
        &mut self,
        deltas: Vec<AnswerDelta>,
        token: Option<(u32, Option<Logprobs>)>,
    ) -> Vec<Part> {
        let mut lines: Vec<Json> =
            deltas.into_iter().filter_map(|delta| self.delta(delta)).collect();
        if let Some((id, Some(logprobs))) = token.filter(|_| self.tells_logprobs) {
            let told = token_logprob(&self.loaded, id, &logprobs);
            if lines.is_empty() {
                lines.push(self.form.line(&self.loaded, ""));
            }
            lines[0]["logprobs"] = json!([told]);
            self.logprobs.push(told);
        }
        lines.into_iter().map(Part::Data).collect()
    }
}

impl Shape for Lines {
    fn event(&mut self, _: usize, event: Event) -> Vec<Part> {
        match event {
            Event::Piece { deltas, token } => self.piece(deltas, token),
            Event::End(Ok(end)) => {
                self.end = Some(end);
                Vec::new()
            }
            Event::Start { .. } | Event::Progress { .. } | Event::End(Err(_)) => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<Part> {
        let mut line = self.form.line(&self.loaded, "");
        self.finish(&mut line);
        vec![Part::Data(line)]
    }

    fn fault(&mut self, fault: &Fault) -> Vec<Part> {
        vec![Part::Data(Style::Ollama.body(fault, ""))]
    }
}
