//! Reader of an answer that a grammar makes a call: it streams the arguments as they come.

use crate::text::AnswerDelta;

/// What stands before the arguments, as the grammar lays it out.
const ARGUMENTS: &str = "\"arguments\": ";
/// What stands before the name.
const NAME: &str = "\"name\": \"";

/// An answer that is `.. {"name": "f", "arguments": {..}} ..`, as often as the grammar allows.
#[derive(Clone, Debug)]
pub struct ForcedCall {
    /// Text that is not told yet.
    text: String,
    /// Number of calls so far.
    n_calls: usize,
    /// Depth of brackets within the arguments under way; `None`: before them.
    depth: Option<usize>,
    in_string: bool,
    is_escaped: bool,
    seed: u64,
}

impl ForcedCall {
    /// A reader that makes ids of a seed.
    pub fn new(seed: u64) -> ForcedCall {
        ForcedCall {
            text: String::new(),
            n_calls: 0,
            depth: None,
            in_string: false,
            is_escaped: false,
            seed,
        }
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<AnswerDelta> {
        self.text.push_str(text);
        let mut deltas = Vec::new();
        while self.step(&mut deltas) {}
        deltas
    }

    /// Goes on; whether there may be more to do.
    fn step(&mut self, deltas: &mut Vec<AnswerDelta>) -> bool {
        if self.depth.is_none() {
            let Some(at) = self.text.find(ARGUMENTS) else { return false };
            let head = &self.text[..at];
            let name = head.rfind(NAME).map_or("", |start| &head[start + NAME.len()..]);
            let name = name.split('"').next().unwrap_or_default().to_owned();
            self.text.drain(..at + ARGUMENTS.len());
            let (index, id) = (self.n_calls, self.id());
            deltas.push(AnswerDelta::CallStart { index, id, id_is_models: false, name });
            (self.n_calls, self.depth) = (self.n_calls + 1, Some(0));
        }
        let index = self.n_calls - 1;
        let mut json = std::mem::take(&mut self.text);
        let closing = json.char_indices().find(|(_, c)| self.closes(*c));
        let end = closing.map(|(at, c)| at + c.len_utf8());
        if let Some(end) = end {
            self.text = json.split_off(end);
        }
        if !json.is_empty() {
            deltas.push(AnswerDelta::CallArgs { index, json });
        }
        if end.is_some() {
            self.depth = None;
            deltas.push(AnswerDelta::CallEnd { index });
        }
        end.is_some()
    }

    /// Whether the arguments end with this character.
    fn closes(&mut self, c: char) -> bool {
        if self.in_string {
            match c {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        let depth = self.depth.get_or_insert(0);
        match c {
            '"' => self.in_string = true,
            '{' | '[' => *depth += 1,
            '}' | ']' => {
                *depth = depth.saturating_sub(1);
                return *depth == 0;
            }
            _ => {}
        }
        false
    }

    fn id(&self) -> String {
        format!("call_{:016x}{:04x}", self.seed, self.n_calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Answer;

    #[test]
    fn calls_are_read_however_they_are_cut() {
        let raw = "<x>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}{\\\"\", \"b\": [1, {}]}}\n</x>\
                   {\"name\": \"g\", \"arguments\": {}}";
        for n in 1..raw.len() {
            let mut reader = ForcedCall::new(1);
            let mut answer = Answer::default();
            let chars: Vec<char> = raw.chars().collect();
            for piece in chars.chunks(n) {
                let text: String = piece.iter().collect();
                reader.push(&text).into_iter().for_each(|delta| answer.add(delta));
            }
            let calls: Vec<(&str, &str)> =
                answer.tool_calls.iter().map(|c| (&*c.name, &*c.arguments)).collect();
            assert_eq!(calls, [("f", r#"{"a": "}{\"", "b": [1, {}]}"#), ("g", "{}")]);
            assert_ne!(answer.tool_calls[0].id, answer.tool_calls[1].id);
        }
    }
}
