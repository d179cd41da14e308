//! Runs a template's tree.
//!
//! A template is untrusted code: every step costs fuel, as does every stretch of a string that is
//! made; calls and nesting have a depth, strings a length, containers a size.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::args::CallArgs;
use super::ast::*;
use super::error::{JinjaError, JinjaErrorKind, Result};
use super::filters::escape;
use super::text::{Marked, Text};
use super::value::{Dict, LoopState, Object, RANGE_MAX, Seq, SeqKind, Value};
use super::{format, methods};

/// Steps of one rendering: thousands of messages in the heaviest template, and about a second.
const FUEL: u64 = 10_000_000;
/// Bytes of a string that cost as much as a step.
const BYTES_PER_STEP: u64 = 64;
/// Nested evaluations; each costs stack, of which threads have 2 MiB.
const DEPTH_MAX: u32 = 200;
/// Longest string, the rendered prompt among them: what the tokenizer takes.
pub const TEXT_MAX: usize = crate::text::TEXT_BYTES_MAX;

/// An error if a string is about to be too long.
pub fn check_len(bytes: usize) -> Result<()> {
    if bytes > TEXT_MAX { Err(JinjaError::limit("bytes of output")) } else { Ok(()) }
}

/// The variables of a scope.
#[derive(Debug, Default)]
pub struct Frame {
    variables: RefCell<HashMap<String, Value>>,
    parent: Option<Rc<Frame>>,
}

impl Frame {
    fn within(parent: &Rc<Frame>) -> Rc<Frame> {
        Rc::new(Frame { variables: RefCell::default(), parent: Some(parent.clone()) })
    }

    fn set(&self, name: &str, value: Value) {
        self.variables.borrow_mut().insert(name.to_owned(), value);
    }

    fn get(&self, name: &str) -> Option<Value> {
        let mut frame = Some(self);
        while let Some(scope) = frame {
            if let Some(value) = scope.variables.borrow().get(name) {
                return Some(value.clone());
            }
            frame = scope.parent.as_deref();
        }
        None
    }
}

/// End of a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// One rendering.
pub struct Interpreter<'a> {
    context: Rc<Dict>,
    /// Seconds since 1970 (UTC).
    clock: &'a dyn Fn() -> u64,
    fuel: Cell<u64>,
    depth: Cell<u32>,
}

impl<'a> Interpreter<'a> {
    /// A rendering of a dictionary.
    pub fn new(context: Rc<Dict>, clock: &'a dyn Fn() -> u64) -> Self {
        Self { context, clock, fuel: Cell::new(FUEL), depth: Cell::new(0) }
    }

    /// The output of a template's statements.
    pub fn render(&self, body: &[Stmt]) -> Result<Marked> {
        let (frame, mut out) = (Rc::new(Frame::default()), Marked::default());
        self.run(body, &frame, &mut out)?;
        Ok(out)
    }

    /// Takes fuel.
    pub(super) fn spend(&self, steps: u64) -> Result<()> {
        let left = self.fuel.get().checked_sub(steps).ok_or(JinjaError::limit("work (fuel)"))?;
        self.fuel.set(left);
        Ok(())
    }

    fn spend_text(&self, bytes: usize) -> Result<()> {
        check_len(bytes)?;
        self.spend(bytes as u64 / BYTES_PER_STEP)
    }

    /// `value` after its cost is paid, if it is a string.
    fn paid(&self, value: Value) -> Result<Value> {
        match &value {
            Value::Str(text) | Value::Safe(text) => self.spend_text(text.len())?,
            Value::Seq(seq) => self.spend(seq.items.len() as u64)?,
            Value::Dict(dict) => self.spend(dict.entries.len() as u64)?,
            _ => {}
        }
        Ok(value)
    }

    fn deeper<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let depth = self.depth.get() + 1;
        if depth > DEPTH_MAX {
            return Err(JinjaError::limit("recursion"));
        }
        self.depth.set(depth);
        let result = run();
        self.depth.set(depth - 1);
        result
    }

    fn run(&self, body: &[Stmt], frame: &Rc<Frame>, out: &mut Marked) -> Result<Flow> {
        for stmt in body {
            self.spend(1)?;
            let flow = self.deeper(|| self.statement(stmt, frame, out));
            let flow = flow.map_err(|error| error.at(stmt.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn write(&self, out: &mut Marked, text: &Text) -> Result<()> {
        check_len(out.string.len() + text.len())?;
        self.spend(text.len() as u64 / BYTES_PER_STEP)?;
        out.push_text(text);
        Ok(())
    }

    fn statement(&self, stmt: &Stmt, frame: &Rc<Frame>, out: &mut Marked) -> Result<Flow> {
        match &stmt.kind {
            StmtKind::Data(text) => {
                check_len(out.string.len() + text.len())?;
                self.spend(text.len() as u64 / BYTES_PER_STEP)?;
                out.push_str(text, false);
            }
            StmtKind::Output(value) => {
                let value = self.eval(value, frame)?;
                self.write(out, &value.to_text())?;
            }
            StmtKind::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.eval(condition, frame)?.is_true() {
                        return self.run(body, frame, out);
                    }
                }
                return self.run(otherwise, frame, out);
            }
            StmtKind::For(each) => {
                let items = self.eval(&each.iterable, frame)?;
                return self.each(each, items, frame, 0, out);
            }
            StmtKind::Set(target, value) => {
                let value = self.eval(value, frame)?;
                self.assign(target, value, frame)?;
            }
            StmtKind::SetBlock { target, filter, body } => {
                let text = self.captured(body, frame)?;
                let value = match filter {
                    Some(filter) => self.filtered(filter, text, frame)?,
                    None => Value::Str(text),
                };
                self.assign(target, value, frame)?;
            }
            StmtKind::Filter { filter, body } => {
                let text = self.captured(body, frame)?;
                let value = self.filtered(filter, text, frame)?;
                self.write(out, &value.to_text())?;
            }
            StmtKind::Macro(def) => {
                let object = Object::Macro { def: def.clone(), frame: Rc::downgrade(frame) };
                frame.set(&def.name, Value::Object(Rc::new(object)));
            }
            StmtKind::Call { caller, call } => {
                let ExprKind::Call(callee, args) = &call.kind else {
                    return Err(JinjaError::operation("`call` wants a call"));
                };
                let object = Object::Macro { def: caller.clone(), frame: Rc::downgrade(frame) };
                let mut args = self.args(args, frame)?;
                args.keyword.push(("caller".to_owned(), Value::Object(Rc::new(object))));
                let value = self.call(callee, args, frame)?;
                self.write(out, &value.to_text())?;
            }
            StmtKind::With { targets, body } => {
                let inner = Frame::within(frame);
                for (target, value) in targets {
                    let value = self.eval(value, frame)?;
                    self.assign(target, value, &inner)?;
                }
                return self.run(body, &inner, out);
            }
            StmtKind::Generation(body) => return self.run(body, frame, out),
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// Output of statements, in a scope of their own.
    fn captured(&self, body: &[Stmt], frame: &Rc<Frame>) -> Result<Text> {
        let mut out = Marked::default();
        self.run(body, &Frame::within(frame), &mut out)?;
        Ok(out.into())
    }

    /// A chain of filters, applied to a text.
    fn filtered(&self, filter: &Expr, text: Text, frame: &Rc<Frame>) -> Result<Value> {
        let ExprKind::Filter(inner, name, args) = &filter.kind else {
            return Err(JinjaError::operation("expected a filter").at(filter.line));
        };
        let value = match inner {
            Some(inner) => self.filtered(inner, text, frame)?,
            None => Value::Str(text),
        };
        let args = self.args(args, frame)?;
        self.paid(self.filter(name, &value, args)?)
    }

    fn assign(&self, target: &Target, value: Value, frame: &Rc<Frame>) -> Result<()> {
        match target {
            Target::Name(name) => frame.set(name, value),
            Target::Attr(name, attribute) => {
                let object = self.name(name, frame);
                let Value::Object(object) = &object else {
                    return Err(not_namespace(name));
                };
                let Object::Namespace(fields) = &**object else { return Err(not_namespace(name)) };
                value.check_storable()?;
                let mut fields = fields.borrow_mut();
                match fields.iter_mut().find(|(field, _)| field == attribute) {
                    Some(field) => field.1 = value,
                    None => fields.push((attribute.clone(), value)),
                }
            }
            Target::Tuple(targets) => {
                let items = value.items()?;
                if items.len() != targets.len() {
                    let (n, m) = (items.len(), targets.len());
                    return Err(JinjaError::operation(format!("{n} values for {m} names")));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, frame)?;
                }
            }
        }
        Ok(())
    }

    fn each(
        &self,
        each: &Arc<ForLoop>,
        items: Value,
        frame: &Rc<Frame>,
        depth: usize,
        out: &mut Marked,
    ) -> Result<Flow> {
        let mut items = items.items()?;
        self.spend(items.len() as u64)?;
        if let Some(condition) = &each.condition {
            let mut kept = Vec::new();
            for item in items {
                let inner = Frame::within(frame);
                self.assign(&each.target, item.clone(), &inner)?;
                if self.eval(condition, &inner)?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.run(&each.otherwise, frame, out);
        }
        let items = Rc::new(items);
        let state = Rc::new(Object::Loop(LoopState {
            items: items.clone(),
            index: Cell::new(0),
            depth,
            changed: RefCell::new(None),
            recursion: each.recursive.then(|| (each.clone(), Rc::downgrade(frame))),
        }));
        for (index, item) in items.iter().enumerate() {
            if let Object::Loop(state) = &*state {
                state.index.set(index);
            }
            let inner = Frame::within(frame);
            inner.set("loop", Value::Object(state.clone()));
            self.assign(&each.target, item.clone(), &inner)?;
            if self.run(&each.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn name(&self, name: &str, frame: &Frame) -> Value {
        if let Some(value) = frame.get(name).or_else(|| self.context.get_str(name).cloned()) {
            return value;
        }
        let known = [
            "range",
            "dict",
            "namespace",
            "joiner",
            "cycler",
            "lipsum",
            "raise_exception",
            "strftime_now",
        ];
        match known.iter().find(|known| **known == name) {
            Some(name) => Value::Object(Rc::new(Object::Function(name))),
            None => Value::undefined(format!("`{name}`")),
        }
    }

    fn eval(&self, expr: &Expr, frame: &Rc<Frame>) -> Result<Value> {
        self.spend(1)?;
        let value = self.deeper(|| self.eval_kind(&expr.kind, frame));
        value.map_err(|error| error.at(expr.line))
    }

    fn eval_all(&self, exprs: &[Expr], frame: &Rc<Frame>) -> Result<Vec<Value>> {
        exprs.iter().map(|expr| self.eval(expr, frame)).collect()
    }

    fn eval_kind(&self, kind: &ExprKind, frame: &Rc<Frame>) -> Result<Value> {
        Ok(match kind {
            ExprKind::None => Value::None,
            ExprKind::Bool(b) => Value::Bool(*b),
            ExprKind::Int(n) => Value::Int(*n),
            ExprKind::Float(x) => Value::Float(*x),
            ExprKind::Str(text) => self.paid(Value::str(text.as_str()))?,
            ExprKind::Name(name) => self.name(name, frame),
            ExprKind::List(items) => Value::list(self.eval_all(items, frame)?)?,
            ExprKind::Tuple(items) => Seq::value(SeqKind::Tuple, self.eval_all(items, frame)?)?,
            ExprKind::Dict(entries) => {
                let pair = |(key, value): &(Expr, Expr)| {
                    Ok((self.eval(key, frame)?, self.eval(value, frame)?))
                };
                Dict::value(entries.iter().map(pair).collect::<Result<_>>()?)?
            }
            ExprKind::Attr(object, name) => {
                let object = self.eval(object, frame)?;
                self.member(&object, name)?
            }
            ExprKind::Item(object, key) => {
                let (object, key) = (self.eval(object, frame)?, self.eval(key, frame)?);
                self.item(&object, &key)?
            }
            ExprKind::Slice(object, parts) => self.slice(object, parts, frame)?,
            ExprKind::Call(callee, args) => {
                let args = self.args(args, frame)?;
                self.call(callee, args, frame)?
            }
            ExprKind::Filter(value, name, args) => {
                let value = match value {
                    Some(value) => self.eval(value, frame)?,
                    None => return Err(JinjaError::operation("a filter without a value")),
                };
                let args = self.args(args, frame)?;
                self.paid(self.filter(name, &value, args)?)?
            }
            ExprKind::Test(value, name, args) => {
                let value = self.eval(value, frame)?;
                let args = self.args(args, frame)?;
                Value::Bool(self.test(name, &value, args)?)
            }
            ExprKind::Not(value) => Value::Bool(!self.eval(value, frame)?.is_true()),
            ExprKind::And(left, right) => {
                let left = self.eval(left, frame)?;
                if left.is_true() { self.eval(right, frame)? } else { left }
            }
            ExprKind::Or(left, right) => {
                let left = self.eval(left, frame)?;
                if left.is_true() { left } else { self.eval(right, frame)? }
            }
            ExprKind::Choice { condition, yes, no } => {
                match (self.eval(condition, frame)?.is_true(), no) {
                    (true, _) => self.eval(yes, frame)?,
                    (false, Some(no)) => self.eval(no, frame)?,
                    (false, None) => Value::undefined("the else of a condition"),
                }
            }
            ExprKind::Negative(value) => match self.eval(value, frame)? {
                Value::Float(x) => Value::Float(-x),
                value => match value.as_int() {
                    Some(n) => Value::Int(n.checked_neg().ok_or_else(too_big)?),
                    None => return Err(wrong_operand("-", &value)),
                },
            },
            ExprKind::Positive(value) => {
                let value = self.eval(value, frame)?;
                match value.as_float() {
                    Some(_) => value,
                    None => return Err(wrong_operand("+", &value)),
                }
            }
            ExprKind::Binary(op, left, right) => {
                let (left, right) = (self.eval(left, frame)?, self.eval(right, frame)?);
                self.binary(*op, &left, &right)?
            }
            ExprKind::Concat(parts) => {
                let mut out = Marked::default();
                for part in parts {
                    let text = self.eval(part, frame)?.to_text();
                    self.write(&mut out, &text)?;
                }
                Value::Str(out.into())
            }
            ExprKind::Compare(first, others) => self.compare(first, others, frame)?,
        })
    }

    fn compare(
        &self,
        first: &Expr,
        others: &[(CompareOp, Expr)],
        frame: &Rc<Frame>,
    ) -> Result<Value> {
        let mut left = self.eval(first, frame)?;
        for (op, right) in others {
            let right = self.eval(right, frame)?;
            // Comparing strings and containers costs as reading them does.
            let size = left.as_str().map_or(1, str::len).min(right.as_str().map_or(1, str::len));
            self.spend(size as u64 / BYTES_PER_STEP)?;
            let holds = match op {
                CompareOp::Eq => left.equals(&right),
                CompareOp::Ne => !left.equals(&right),
                CompareOp::Lt => left.compare(&right)?.is_lt(),
                CompareOp::Le => left.compare(&right)?.is_le(),
                CompareOp::Gt => left.compare(&right)?.is_gt(),
                CompareOp::Ge => left.compare(&right)?.is_ge(),
                CompareOp::In => right.contains(&left)?,
                CompareOp::NotIn => !right.contains(&left)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn args(&self, args: &Args, frame: &Rc<Frame>) -> Result<CallArgs> {
        let mut positional = self.eval_all(&args.positional, frame)?;
        if let Some(star) = &args.star {
            positional.extend(self.eval(star, frame)?.items()?);
        }
        let mut keyword = Vec::with_capacity(args.keyword.len());
        for (name, value) in &args.keyword {
            keyword.push((name.clone(), self.eval(value, frame)?));
        }
        if let Some(stars) = &args.double_star {
            let value = self.eval(stars, frame)?;
            let Value::Dict(dict) = &value else { return Err(wrong_operand("**", &value)) };
            let pair = |(key, value): &(Value, Value)| (key.to_text().to_string(), value.clone());
            keyword.extend(dict.entries.iter().map(pair));
        }
        Ok(CallArgs { positional, keyword })
    }

    /// Calls what an expression names.
    fn call(&self, callee: &Expr, args: CallArgs, frame: &Rc<Frame>) -> Result<Value> {
        let value = match &callee.kind {
            // A method needs no object of its own.
            ExprKind::Attr(object, name) => {
                let object = self.eval(object, frame)?;
                if methods::has_method(&object, name) {
                    return self.method(&object, name, args);
                }
                self.member(&object, name)?
            }
            _ => self.eval(callee, frame)?,
        };
        self.call_value(&value, args)
    }

    fn method(&self, object: &Value, name: &str, args: CallArgs) -> Result<Value> {
        if let Value::Object(object) = object {
            return self.object_method(object, name, args);
        }
        self.spend(object.as_str().map_or(1, str::len) as u64 / BYTES_PER_STEP)?;
        let member = |value: &Value, name: &str, by_name: bool| match name.parse() {
            _ if by_name => self.attribute(value, name),
            Ok(index) => self.item(value, &Value::Int(index)),
            Err(_) => self.item(value, &Value::str(name)),
        };
        self.paid(methods::call(object, name, args, &member)?)
    }

    fn object_method(&self, object: &Object, name: &str, args: CallArgs) -> Result<Value> {
        match (object, name) {
            (Object::Loop(state), "loop.cycle") if !args.positional.is_empty() => {
                Ok(args.positional[state.index.get() % args.positional.len()].clone())
            }
            (Object::Loop(state), "loop.changed") => {
                args.positional.iter().try_for_each(Value::check_storable)?;
                let last = state.changed.replace(Some(args.positional.clone()));
                let same = last.is_some_and(|last| {
                    last.len() == args.positional.len()
                        && last.iter().zip(&args.positional).all(|(a, b)| a.equals(b))
                });
                Ok(Value::Bool(!same))
            }
            (Object::Cycler { items, at }, "cycler.next") => {
                Ok(items[at.replace((at.get() + 1) % items.len())].clone())
            }
            (Object::Cycler { at, .. }, "cycler.reset") => {
                at.set(0);
                Ok(Value::None)
            }
            _ => Err(JinjaError::operation(format!("`{name}` cannot be called so"))),
        }
    }

    fn call_value(&self, callee: &Value, args: CallArgs) -> Result<Value> {
        let object = match callee {
            Value::Object(object) => object,
            Value::Undefined(what) => return Err(undefined(what)),
            other => {
                let message = format!("a {} cannot be called", other.type_name());
                return Err(JinjaError::operation(message));
            }
        };
        match &**object {
            Object::Macro { def, frame } => self.deeper(|| self.call_macro(def, frame, args)),
            Object::Function(name) => self.function(name, args),
            Object::Method(value, name) => self.method(value, name, args),
            Object::Loop(state) => {
                let args = args.bind("loop", &["iterable"])?;
                let Some((each, frame)) = &state.recursion else {
                    return Err(JinjaError::operation(
                        "`loop(..)` in a loop that is not recursive",
                    ));
                };
                let frame = frame.upgrade().ok_or_else(gone)?;
                let (items, mut out) = (args.need(0)?.clone(), Marked::default());
                self.deeper(|| self.each(each, items, &frame, state.depth + 1, &mut out))?;
                Ok(Value::Str(out.into()))
            }
            Object::Joiner { separator, used } => Ok(match used.replace(true) {
                true => separator.clone(),
                false => Value::str(""),
            }),
            Object::Cycler { .. } | Object::Namespace(_) => {
                let message = format!("a {} cannot be called", callee.type_name());
                Err(JinjaError::operation(message))
            }
        }
    }

    fn call_macro(&self, def: &MacroDef, frame: &Weak<Frame>, args: CallArgs) -> Result<Value> {
        let outer = frame.upgrade().ok_or_else(gone)?;
        let frame = Frame::within(&outer);
        let [takes_more, takes_names, reads_caller] = def.reads;
        let CallArgs { positional, keyword } = args;
        let mut given = positional.into_iter();
        let mut keyword: Vec<(String, Value)> = keyword;
        for (name, default) in &def.parameters {
            let by_name = keyword.iter().position(|(key, _)| key == name);
            let value = match (given.next(), by_name, default) {
                (Some(_), Some(_), _) => {
                    let message = format!("`{}` gets `{name}` twice", def.name);
                    return Err(JinjaError::operation(message));
                }
                (Some(value), None, _) => value,
                (None, Some(at), _) => keyword.remove(at).1,
                (None, None, Some(default)) => self.eval(default, &frame)?,
                (None, None, None) => Value::undefined(format!("parameter `{name}`")),
            };
            frame.set(name, value);
        }
        let more: Vec<Value> = given.collect();
        if takes_more {
            frame.set("varargs", Seq::value(SeqKind::Tuple, more)?);
        } else if !more.is_empty() {
            let (name, n) = (&def.name, def.parameters.len());
            return Err(JinjaError::operation(format!("`{name}` takes at most {n} arguments")));
        }
        let is_parameter = def.parameters.iter().any(|(name, _)| name == "caller");
        if let Some(at) = keyword.iter().position(|(key, _)| key == "caller" && !is_parameter) {
            let (_, caller) = keyword.remove(at);
            if !reads_caller {
                let message = format!("`{}` takes no caller", def.name);
                return Err(JinjaError::operation(message));
            }
            frame.set("caller", caller);
        } else if reads_caller && !is_parameter {
            frame.set("caller", Value::undefined("`caller`"));
        }
        if takes_names {
            frame.set("kwargs", self.dict_of(keyword)?);
        } else if let Some((name, _)) = keyword.first() {
            let message = format!("`{}` takes no argument `{name}`", def.name);
            return Err(JinjaError::operation(message));
        }
        let mut out = Marked::default();
        self.run(&def.body, &frame, &mut out)?;
        Ok(Value::Str(out.into()))
    }

    /// A dictionary of names.
    pub(super) fn dict_of(&self, entries: Vec<(String, Value)>) -> Result<Value> {
        Dict::value(entries.into_iter().map(|(name, value)| (Value::str(name), value)).collect())
    }

    fn function(&self, name: &str, args: CallArgs) -> Result<Value> {
        match name {
            "raise_exception" => {
                let args = args.bind(name, &["message"])?;
                let message = args.need(0)?.to_text().to_string();
                Err(JinjaError { line: 0, kind: JinjaErrorKind::Raised(message) })
            }
            "strftime_now" => {
                let args = args.bind(name, &["format"])?;
                Ok(Value::str(super::time::strftime(args.text(0)?, (self.clock)())))
            }
            "range" => range(args),
            "namespace" | "dict" => {
                let mut fields: Vec<(String, Value)> = Vec::new();
                for value in &args.positional {
                    match value {
                        Value::Dict(dict) if name == "dict" && args.keyword.is_empty() => {
                            return Ok(Value::Dict(dict.clone()));
                        }
                        Value::Dict(dict) => fields.extend(
                            dict.entries.iter().map(|(k, v)| (k.to_text().to_string(), v.clone())),
                        ),
                        other => {
                            for pair in other.items()? {
                                let [key, value] = &pair.items()?[..] else {
                                    return Err(wrong_operand(name, &pair));
                                };
                                fields.push((key.to_text().to_string(), value.clone()));
                            }
                        }
                    }
                }
                fields.extend(args.keyword);
                if name == "dict" {
                    return self.dict_of(fields);
                }
                fields.iter().try_for_each(|(_, value)| value.check_storable())?;
                Ok(Value::Object(Rc::new(Object::Namespace(RefCell::new(fields)))))
            }
            "joiner" => {
                let args = args.bind(name, &["sep"])?;
                let separator = args.get(0).cloned().unwrap_or_else(|| Value::str(", "));
                separator.check_storable()?;
                Ok(Value::Object(Rc::new(Object::Joiner { separator, used: Cell::new(false) })))
            }
            "cycler" if !args.positional.is_empty() => {
                let items = args.positional;
                items.iter().try_for_each(Value::check_storable)?;
                Ok(Value::Object(Rc::new(Object::Cycler { items, at: Cell::new(0) })))
            }
            _ => Err(JinjaError::unsupported(format!("the function `{name}`"))),
        }
    }

    /// `object.name`: an attribute, else an item.
    fn member(&self, object: &Value, name: &str) -> Result<Value> {
        let attribute = self.attribute(object, name)?;
        match (attribute.is_undefined(), object) {
            (true, Value::Dict(dict)) => match dict.get_str(name) {
                Some(value) => Ok(value.clone()),
                None => Ok(attribute),
            },
            _ => Ok(attribute),
        }
    }

    /// Python's attributes, which dictionaries' entries are not.
    pub(super) fn attribute(&self, object: &Value, name: &str) -> Result<Value> {
        if methods::has_method(object, name) {
            object.check_storable()?;
            return Ok(Value::Object(Rc::new(Object::Method(object.clone(), name.to_owned()))));
        }
        let missing = || Value::undefined(format!("`{name}` of a {}", object.type_name()));
        let object = match object {
            Value::Undefined(what) => return Err(undefined(what)),
            Value::Object(object) => object,
            _ => return Ok(missing()),
        };
        Ok(match &**object {
            Object::Namespace(fields) => {
                let fields = fields.borrow();
                let found = fields.iter().find(|(field, _)| field == name);
                found.map_or_else(missing, |(_, value)| value.clone())
            }
            Object::Loop(state) => return self.loop_member(object, state, name),
            Object::Macro { def, .. } if name == "name" => Value::str(def.name.as_str()),
            Object::Cycler { items, at } => match name {
                "current" => items[at.get()].clone(),
                "next" | "reset" => {
                    let method = if name == "next" { "cycler.next" } else { "cycler.reset" };
                    Value::Object(Rc::new(Object::Method(
                        Value::Object(object.clone()),
                        method.into(),
                    )))
                }
                _ => missing(),
            },
            _ => missing(),
        })
    }

    fn loop_member(&self, object: &Rc<Object>, state: &LoopState, name: &str) -> Result<Value> {
        let (index, n) = (state.index.get(), state.items.len());
        let int = |n: usize| Value::Int(n as i128);
        let item = |at: Option<usize>| match at.and_then(|at| state.items.get(at)) {
            Some(item) => item.clone(),
            None => Value::undefined("an item beyond the loop"),
        };
        Ok(match name {
            "index" => int(index + 1),
            "index0" => int(index),
            "revindex" => int(n - index),
            "revindex0" => int(n - index - 1),
            "first" => Value::Bool(index == 0),
            "last" => Value::Bool(index + 1 == n),
            "length" => int(n),
            "depth" => int(state.depth + 1),
            "depth0" => int(state.depth),
            "previtem" => item(index.checked_sub(1)),
            "nextitem" => item(Some(index + 1)),
            "cycle" | "changed" => {
                let method = Object::Method(Value::Object(object.clone()), format!("loop.{name}"));
                Value::Object(Rc::new(method))
            }
            _ => Value::undefined(format!("`{name}` of a loop")),
        })
    }

    /// `object[key]`: an item, else an attribute.
    pub(super) fn item(&self, object: &Value, key: &Value) -> Result<Value> {
        let missing = || Value::undefined(format!("{} of a {}", &*key.repr(), object.type_name()));
        let at = |n: usize| {
            let index = key.as_int()?;
            usize::try_from(if index < 0 { index + n as i128 } else { index }).ok()
        };
        let found = match object {
            Value::Undefined(what) => return Err(undefined(what)),
            Value::Dict(dict) => {
                self.spend(dict.entries.len() as u64 / 16)?;
                dict.get(key).cloned()
            }
            Value::Seq(seq) => at(seq.items.len())
                .and_then(|at| seq.items.get(at))
                .filter(|_| matches!(seq.kind, SeqKind::List | SeqKind::Tuple))
                .cloned(),
            Value::Range(start, _, step) => {
                let n = object.len()?;
                let found = at(n).filter(|&at| at < n);
                found.map(|at| Value::Int(i128::from(start + at as i64 * step)))
            }
            Value::Str(text) | Value::Safe(text) => {
                self.spend(text.len() as u64 / BYTES_PER_STEP)?;
                let n = if key.as_int().is_some_and(|i| i < 0) { text.chars().count() } else { 0 };
                let found = at(n).and_then(|at| text.char_indices().nth(at));
                found.map(|(at, c)| Value::Str(text.slice(at..at + c.len_utf8())))
            }
            _ => None,
        };
        match (found, key.as_str()) {
            (Some(value), _) => Ok(value),
            (None, Some(name)) => self.attribute(object, name),
            (None, None) => Ok(missing()),
        }
    }

    fn slice(&self, object: &Expr, parts: &[Option<Expr>; 3], frame: &Rc<Frame>) -> Result<Value> {
        let object = self.eval(object, frame)?;
        let mut bounds = [None; 3];
        for (bound, part) in bounds.iter_mut().zip(parts) {
            let Some(part) = part else { continue };
            let value = self.eval(part, frame)?;
            if !value.is_none() {
                *bound = Some(value.as_int().ok_or_else(|| wrong_operand("[:]", &value))?);
            }
        }
        let chars: Vec<(usize, char)>;
        let n = match &object {
            Value::Str(text) | Value::Safe(text) => {
                self.spend_text(text.len())?;
                chars = text.char_indices().collect();
                chars.len()
            }
            Value::Undefined(what) => return Err(undefined(what)),
            Value::Seq(seq) if matches!(seq.kind, SeqKind::List | SeqKind::Tuple) => {
                chars = Vec::new();
                seq.items.len()
            }
            Value::Range(..) => {
                chars = Vec::new();
                object.len()?
            }
            other => return Err(wrong_operand("[:]", other)),
        };
        let indices = slice_indices(bounds, n)?;
        self.spend(indices.len() as u64)?;
        match &object {
            Value::Str(text) | Value::Safe(text) => {
                let mut out = Marked::default();
                for &at in &indices {
                    let (start, c) = chars[at];
                    out.push_slice(text, start..start + c.len_utf8());
                }
                Ok(Value::Str(out.into()))
            }
            Value::Seq(seq) => {
                Seq::value(seq.kind, indices.iter().map(|&at| seq.items[at].clone()).collect())
            }
            other => {
                let items = other.items()?;
                Value::list(indices.iter().map(|&at| items[at].clone()).collect())
            }
        }
    }

    /// `a + b`
    pub(super) fn add(&self, left: &Value, right: &Value) -> Result<Value> {
        self.binary(BinaryOp::Add, left, right)
    }

    fn binary(&self, op: BinaryOp, left: &Value, right: &Value) -> Result<Value> {
        for side in [left, right] {
            if let Value::Undefined(what) = side {
                return Err(undefined(what));
            }
        }
        match (op, left, right) {
            (BinaryOp::Add, Value::Str(a), Value::Str(b)) => {
                self.spend_text(a.len() + b.len())?;
                Ok(Value::Str(Text::concat([a, b])))
            }
            // As MarkupSafe does, what is not safe is escaped.
            (BinaryOp::Add, Value::Str(_) | Value::Safe(_), Value::Str(_) | Value::Safe(_)) => {
                let safe = |value: &Value| match value {
                    Value::Safe(text) => text.clone(),
                    other => escape(&other.to_text()),
                };
                let (a, b) = (safe(left), safe(right));
                self.spend_text(a.len() + b.len())?;
                Ok(Value::Safe(Text::concat([&a, &b])))
            }
            (BinaryOp::Add, Value::Seq(a), Value::Seq(b))
                if a.kind == b.kind && matches!(a.kind, SeqKind::List | SeqKind::Tuple) =>
            {
                self.spend((a.items.len() + b.items.len()) as u64)?;
                Seq::value(a.kind, a.items.iter().chain(&b.items).cloned().collect())
            }
            (BinaryOp::Mod, Value::Str(text) | Value::Safe(text), args) => {
                self.paid(Value::Str(format::percent(text, args)?))
            }
            (BinaryOp::Mul, Value::Str(_) | Value::Seq(_), n)
            | (BinaryOp::Mul, n, Value::Str(_) | Value::Seq(_))
                if n.as_int().is_some() =>
            {
                let thing = if left.as_int().is_some() { right } else { left };
                self.repeat(thing, n.as_int().unwrap_or(0))
            }
            _ => arithmetic(op, left, right),
        }
    }

    fn repeat(&self, value: &Value, n: i128) -> Result<Value> {
        let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
        match value {
            Value::Str(text) => {
                self.spend_text(text.len().saturating_mul(n))?;
                Ok(Value::Str(text.repeat(if text.is_empty() { 0 } else { n })))
            }
            Value::Seq(seq) if matches!(seq.kind, SeqKind::List | SeqKind::Tuple) => {
                let total = seq.items.len().saturating_mul(n);
                self.spend(total as u64)?;
                Seq::value(seq.kind, seq.items.iter().cycle().take(total).cloned().collect())
            }
            other => Err(wrong_operand("*", other)),
        }
    }
}

fn not_namespace(name: &str) -> JinjaError {
    JinjaError::operation(format!("cannot set an attribute of `{name}`: it is no namespace"))
}

fn undefined(what: &str) -> JinjaError {
    JinjaError::operation(format!("{what} is undefined"))
}

fn gone() -> JinjaError {
    JinjaError::unsupported("a macro or loop called outside of the scope that defines it")
}

pub(super) fn too_big() -> JinjaError {
    JinjaError::unsupported("an integer of more than 127 bits")
}

fn wrong_operand(op: &str, value: &Value) -> JinjaError {
    JinjaError::operation(format!("`{op}` does not take a {}", value.type_name()))
}

fn range(args: CallArgs) -> Result<Value> {
    let mut bounds = Vec::new();
    for value in &args.positional {
        let n = value.as_int().and_then(|n| i64::try_from(n).ok());
        bounds.push(n.filter(|n| n.abs() < 1 << 60).ok_or_else(|| wrong_operand("range", value))?);
    }
    let (start, stop, step) = match bounds[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] if step != 0 => (start, stop, step),
        _ => return Err(JinjaError::operation("`range` wants one to three numbers")),
    };
    let value = Value::Range(start, stop, step);
    match value.len()? > RANGE_MAX as usize {
        true => Err(JinjaError::limit("items of a range")),
        false => Ok(value),
    }
}

/// The indices of Python's slices.
fn slice_indices([start, stop, step]: [Option<i128>; 3], n: usize) -> Result<Vec<usize>> {
    let (n, step) = (n as i128, step.unwrap_or(1));
    if step == 0 {
        return Err(JinjaError::operation("the step of a slice is zero"));
    }
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let clamp = |i: i128| (if i < 0 { i.saturating_add(n) } else { i }).clamp(low, high);
    let start = start.map_or(if step > 0 { low } else { high }, clamp);
    let stop = stop.map_or(if step > 0 { high } else { low }, clamp);
    let mut indices = Vec::new();
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        indices.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(indices)
}

fn arithmetic(op: BinaryOp, left: &Value, right: &Value) -> Result<Value> {
    let symbol = match op {
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => "/",
        BinaryOp::FloorDiv => "//",
        BinaryOp::Mod => "%",
        BinaryOp::Pow => "**",
    };
    let zero = || JinjaError::operation("division by zero");
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        let whole = match op {
            BinaryOp::Add => a.checked_add(b),
            BinaryOp::Sub => a.checked_sub(b),
            BinaryOp::Mul => a.checked_mul(b),
            BinaryOp::Pow if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            BinaryOp::FloorDiv | BinaryOp::Mod | BinaryOp::Div if b == 0 => return Err(zero()),
            BinaryOp::FloorDiv => a.checked_div_euclid(b).map(|q| {
                // Python rounds down, whatever the signs.
                if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q }
            }),
            BinaryOp::Mod => {
                let r = a.checked_rem_euclid(b);
                r.map(|r| if r != 0 && b < 0 { r + b } else { r })
            }
            BinaryOp::Div => return Ok(Value::Float(a as f64 / b as f64)),
            BinaryOp::Pow => return Ok(Value::Float((a as f64).powf(b as f64))),
        };
        return whole.map(Value::Int).ok_or_else(too_big);
    }
    let (Some(a), Some(b)) = (left.as_float(), right.as_float()) else {
        let (a, b) = (left.type_name(), right.type_name());
        return Err(JinjaError::operation(format!("`{symbol}` does not take a {a} and a {b}")));
    };
    Ok(Value::Float(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Pow => a.powf(b),
        _ if b == 0.0 => return Err(zero()),
        BinaryOp::Div => a / b,
        BinaryOp::FloorDiv => (a / b).floor(),
        BinaryOp::Mod => a - b * (a / b).floor(),
    }))
}
