//! Answers that are messages with headers, as harmony has them:
//! `<|start|>role to=recipient<|channel|>channel <|constrain|>type<|message|>text<|end|>`.

use super::body::RawCall;
use super::held::Found;
use super::json::{JsonScanner, Step};
use super::parser::AnswerParser;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
const MESSAGE: &str = "<|message|>";
/// Marks that end a message.
const ENDS: [&str; 3] = ["<|end|>", "<|return|>", "<|call|>"];
/// What the rest of a header may begin with whose start the prompt has.
const HEADS: [&str; 3] = [" to=", "to=", "assistant"];
/// All marks.
pub(super) const MARKS: [&str; 7] =
    [START, CHANNEL, CONSTRAIN, MESSAGE, "<|end|>", "<|return|>", "<|call|>"];
/// Bytes of a header, at most.
const HEADER_BYTES_MAX: usize = 512;

/// The message under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    state: State,
    /// Whether a message was begun before.
    begun: bool,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Outside,
    /// The header begins where nothing is told yet.
    Header,
    Text,
    Reasoning,
    /// They begin `from` bytes behind where the header does.
    Arguments {
        name: String,
        scanner: JsonScanner,
        from: usize,
    },
    /// Behind the arguments.
    End {
        call: RawCall,
    },
    /// A message that is told as it is, marks included.
    Broken,
}

impl Message {
    /// Whether it is reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning)
    }
}

/// Reads on; whether there is more to do.
pub(super) fn step(parser: &mut AnswerParser, message: &mut Message) -> bool {
    match &mut message.state {
        State::Outside => outside(parser, message),
        State::Header => header(parser, message),
        State::Text | State::Reasoning | State::Broken => text(parser, message),
        State::Arguments { .. } => arguments(parser, message),
        State::End { .. } => end(parser, message),
    }
}

fn outside(parser: &mut AnswerParser, message: &mut Message) -> bool {
    let at = parser.at;
    if parser.held.text.len() == at {
        return false;
    }
    let heads = if message.begun { &HEADS[..0] } else { &HEADS[..] };
    let marks = [START, CHANNEL].iter().chain(heads);
    let found: Vec<Found> = marks.map(|mark| parser.held.find(at, mark)).collect();
    message.begun = true;
    message.state = match () {
        () if found.iter().any(|found| matches!(found, Found::Yes(_))) => State::Header,
        () if found.contains(&Found::Part) => {
            message.begun = heads.is_empty();
            return false;
        }
        () => State::Text,
    };
    true
}

/// Reads a header to its end, from where nothing is told yet.
fn header(parser: &mut AnswerParser, message: &mut Message) -> bool {
    loop {
        let rest = &parser.held.text.as_bytes()[parser.scan..];
        let next = rest.iter().position(|byte| *byte == b'<').map(|n| parser.scan + n);
        let place = next.unwrap_or(parser.held.text.len());
        if place - parser.at > HEADER_BYTES_MAX {
            message.state = State::Broken;
            return true;
        }
        parser.scan = place;
        if let Found::Yes(end) = parser.held.find(place, MESSAGE) {
            message.state = begin(parser, end);
            return true;
        }
        let marks = MARKS.map(|mark| parser.held.find(place, mark));
        if next.is_none() || marks.contains(&Found::Part) {
            if parser.held.ended {
                message.state = State::Broken;
            }
            return parser.held.ended;
        }
        // An end without a text before it.
        if ENDS.iter().any(|mark| matches!(parser.held.find(place, mark), Found::Yes(_))) {
            message.state = State::Broken;
            return true;
        }
        parser.scan = place + 1;
    }
}

/// The message behind a header that ends at `end`.
fn begin(parser: &mut AnswerParser, end: usize) -> State {
    let header = &parser.held.text[parser.at..end - MESSAGE.len()];
    let header = header.strip_prefix(START).unwrap_or(header);
    // Some headers have the channel twice; the last one counts.
    let parts =
        || header.split(CHANNEL).map(|part| part.split(CONSTRAIN).next().unwrap_or_default());
    let recipient =
        parts().flat_map(str::split_whitespace).find_map(|word| word.strip_prefix("to="));
    let channel = parts().skip(1).last().unwrap_or_default();
    if let Some(recipient) = recipient {
        let name = recipient.strip_prefix("functions.").unwrap_or(recipient);
        if parser.tools.has(name) {
            let name = name.to_owned();
            parser.scan = end;
            let scanner = JsonScanner::default();
            return State::Arguments { name, scanner, from: end - parser.at };
        }
        // What a model says to itself is no call.
        if recipient != "assistant" {
            return State::Broken;
        }
    }
    let is_reasoning = channel.split_whitespace().next() == Some("analysis");
    parser.skip_to(end);
    parser.at_seam();
    if is_reasoning { State::Reasoning } else { State::Text }
}

/// Reads text up to the end of its message.
fn text(parser: &mut AnswerParser, message: &mut Message) -> bool {
    let is_broken = matches!(message.state, State::Broken);
    loop {
        let rest = &parser.held.text.as_bytes()[parser.scan..];
        let Some(place) = rest.iter().position(|byte| *byte == b'<').map(|n| parser.scan + n)
        else {
            release(parser, message, parser.held.text.len());
            return false;
        };
        let ends = ENDS.map(|mark| parser.held.find(place, mark));
        let starts = [START, CHANNEL].map(|mark| parser.held.find(place, mark));
        if let Some(Found::Yes(end)) = ends.iter().find(|end| matches!(end, Found::Yes(_))) {
            release(parser, message, if is_broken { *end } else { place });
            if !is_broken {
                parser.skip_to(*end);
                parser.at_seam();
            }
            message.state = State::Outside;
            return true;
        }
        let next = starts.iter().any(|start| matches!(start, Found::Yes(_)));
        // The header of what is broken is part of it.
        if next && !is_broken {
            release(parser, message, place);
            parser.at_seam();
            message.state = State::Outside;
            return true;
        }
        if ends.contains(&Found::Part) || starts.contains(&Found::Part) {
            release(parser, message, place);
            return false;
        }
        parser.scan = place + 1;
    }
}

fn release(parser: &mut AnswerParser, message: &Message, end: usize) {
    match message.state {
        State::Reasoning => parser.release_reasoning(end),
        _ => parser.release(end),
    }
}

fn arguments(parser: &mut AnswerParser, message: &mut Message) -> bool {
    let State::Arguments { name, scanner, from } = &mut message.state else { return true };
    while let Some(byte) = parser.held.byte(parser.scan) {
        match scanner.push(byte) {
            Step::More => parser.scan += 1,
            Step::Broken => {
                broken(parser, message);
                return true;
            }
            Step::Done => {
                parser.scan += 1;
                let arguments = parser.held.text[parser.at + *from..parser.scan].trim().to_owned();
                let name = std::mem::take(name);
                message.state = State::End { call: RawCall { name, arguments, id: None } };
                return true;
            }
        }
    }
    if parser.held.ended {
        broken(parser, message);
    } else if parser.early {
        let so_far = parser.held.text[parser.at + *from..parser.scan].trim_start();
        let arguments = so_far.get(parser.n_sent()..).unwrap_or_default().to_owned();
        if !so_far.is_empty() {
            let name = name.clone();
            parser.tell_part(RawCall { name, arguments, id: None });
        }
    }
    parser.held.ended
}

/// A call that is none: its message is told as text, unless a part of it has been told as a call.
fn broken(parser: &mut AnswerParser, message: &mut Message) {
    message.state = State::Broken;
    if parser.begun.is_some() {
        parser.release_broken(parser.scan);
    }
}

/// Reads the end of a call's message.
fn end(parser: &mut AnswerParser, message: &mut Message) -> bool {
    let State::End { call } = &mut message.state else { return true };
    let place = parser.held.space_end(parser.scan);
    let rest = &parser.held.text[place..];
    let ends = ENDS.map(|mark| parser.held.find(place, mark));
    let yes = ends.iter().find_map(|found| match found {
        Found::Yes(end) => Some(*end),
        _ => None,
    });
    let starts = matches!(parser.held.find(place, START), Found::Yes(_));
    let is_over = parser.held.ended && ENDS.iter().any(|mark| mark.starts_with(rest));
    let is_object = call.arguments.starts_with('{')
        && serde_json::from_str::<serde_json::Value>(&call.arguments).is_ok();
    let to = match yes {
        Some(end) => end,
        None if starts => place,
        None if is_over => parser.held.text.len(),
        None => {
            let part = rest.is_empty()
                || ends.contains(&Found::Part)
                || parser.held.find(place, START) == Found::Part;
            if part && !parser.held.ended {
                parser.scan = place;
                return false;
            }
            broken(parser, message);
            return true;
        }
    };
    if !is_object {
        broken(parser, message);
        return true;
    }
    let call = std::mem::take(call);
    parser.tell_calls(vec![call]);
    parser.skip_to(to);
    message.state = State::Outside;
    true
}
