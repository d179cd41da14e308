//! Calls as Python, in a list or line by line.

use super::super::held::{Found, Held};
use super::super::python::{PythonScanner, calls};
use super::super::tools::Tools;
use super::{RawCall, Read, object};

/// Reader of Python up to the mark that closes its block, or to the end of a list.
#[derive(Clone, Debug)]
pub struct PythonBody {
    scanner: PythonScanner,
    from: usize,
}

impl PythonBody {
    pub fn new(from: usize) -> Self {
        Self { scanner: PythonScanner::default(), from }
    }

    pub fn read(
        &mut self,
        at: &mut usize,
        held: &Held,
        tools: &Tools,
        close: &'static str,
    ) -> Read {
        loop {
            let level = self.scanner.is_level();
            if level && !close.is_empty() {
                match held.find(*at, close) {
                    Found::Yes(_) => return self.whole(*at, held, tools),
                    Found::Part if *at < held.text.len() => return Read::Wait,
                    Found::No if held.ends_within(*at, close) => {
                        return self.whole(*at, held, tools);
                    }
                    _ => {}
                }
            }
            let Some(byte) = held.byte(*at) else { return Read::Wait };
            if !self.scanner.push(byte) {
                return Read::Broken;
            }
            *at += 1;
            if close.is_empty() && byte == b']' && self.scanner.is_level() {
                return self.whole(*at, held, tools);
            }
        }
    }

    fn whole(&self, end: usize, held: &Held, tools: &Tools) -> Read {
        let call = |call: super::super::python::PythonCall<'_>| {
            let read = |(key, json, source): &(&str, String, &str)| {
                tools.json_of_literal(call.name, key, json, source)
            };
            let values: Vec<String> = call.arguments.iter().map(read).collect();
            let keys = call.arguments.iter().map(|(key, ..)| *key);
            let arguments = object(keys.zip(values.iter().map(String::as_str)));
            RawCall { name: call.name.to_owned(), arguments, id: None }
        };
        let found = calls(&held.text[self.from..end]);
        Read::Whole(found.map(|calls| calls.into_iter().map(call).collect()))
    }
}
