//! Tokens to a tree, by Jinja2's grammar and precedence.

use std::sync::Arc;

use super::ast::*;
use super::error::{JinjaError, Result};
use super::lexer::{Token, TokenKind, tokens};

/// Nesting of expressions and statements: each level costs stack, here and when it runs.
const NESTING_MAX: usize = 64;

/// The statements of a template.
pub fn parse(source: &str) -> Result<Vec<Stmt>> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, depth: 0, loops: 0 };
    let body = parser.body(&[])?;
    Ok(body.0)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Loops around the statement, within its macro.
    loops: usize,
}

/// Statements, and the name of the tag that ended them (empty at the end of the source).
type Body = (Vec<Stmt>, String);

impl Parser {
    fn peek(&self) -> Option<&TokenKind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn line(&self) -> u32 {
        let token = self.tokens.get(self.at).or(self.tokens.last());
        token.map_or(1, |token| token.line)
    }

    fn next(&mut self) -> Option<TokenKind> {
        let token = self.tokens.get(self.at)?.kind.clone();
        self.at += 1;
        Some(token)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(JinjaError::syntax(message).at(self.line()))
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        let found = match self.peek() {
            None => "the end of the template".to_owned(),
            Some(TokenKind::Name(name)) => format!("`{name}`"),
            Some(TokenKind::Op(op)) => format!("`{op}`"),
            Some(TokenKind::BlockEnd) => "`%}`".to_owned(),
            Some(TokenKind::OutputEnd) => "`}}`".to_owned(),
            Some(TokenKind::Str(text)) => format!("the string {text:?}"),
            Some(other) => format!("{other:?}"),
        };
        self.fail(format!("expected {wanted}, found {found}"))
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(TokenKind::Op(found)) if *found == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(TokenKind::Name(found)) if found == name)
    }

    fn take_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    fn take_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.take_op(op) { Ok(()) } else { self.unexpected(&format!("`{op}`")) }
    }

    fn expect_name(&mut self) -> Result<String> {
        match self.peek() {
            Some(TokenKind::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn expect_block_end(&mut self) -> Result<()> {
        if self.peek() != Some(&TokenKind::BlockEnd) {
            return self.unexpected("`%}`");
        }
        self.at += 1;
        Ok(())
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(JinjaError::limit("nesting").at(self.line()));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Statements up to a tag among `ends`, whose name is passed.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let stmt = |kind| Stmt { line, kind };
            match self.next() {
                None if ends.is_empty() => return Ok((body, String::new())),
                None => return self.fail(format!("`{}` is missing", ends[ends.len() - 1])),
                Some(TokenKind::Data(text)) => body.push(stmt(StmtKind::Data(text))),
                Some(TokenKind::OutputBegin) => {
                    let value = self.tuple(false)?;
                    if self.peek() != Some(&TokenKind::OutputEnd) {
                        return self.unexpected("`}}`");
                    }
                    self.at += 1;
                    body.push(stmt(StmtKind::Output(value)));
                }
                Some(TokenKind::BlockBegin) => {
                    let name = self.expect_name()?;
                    if ends.contains(&&*name) {
                        return Ok((body, name));
                    }
                    let kind = self.nested(|parser| parser.statement(&name))?;
                    body.push(stmt(kind));
                }
                Some(_) => {
                    self.at -= 1;
                    return self.unexpected("a tag");
                }
            }
        }
    }

    /// A body with its end tag.
    fn block(&mut self, end: &str) -> Result<Vec<Stmt>> {
        self.expect_block_end()?;
        let (body, _) = self.body(&[end])?;
        // As Jinja2 allows for blocks: nothing else.
        self.expect_block_end()?;
        Ok(body)
    }

    fn statement(&mut self, name: &str) -> Result<StmtKind> {
        match name {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "macro" => self.macro_statement(),
            "call" => self.call_statement(),
            "filter" => {
                let filter = self.filters(None, true)?.expect("begins with a filter");
                Ok(StmtKind::Filter { filter, body: self.block("endfilter")? })
            }
            "with" => self.with_statement(),
            "generation" => Ok(StmtKind::Generation(self.block("endgeneration")?)),
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.fail(format!("`{name}` outside of a loop"));
                }
                self.expect_block_end()?;
                Ok(if name == "break" { StmtKind::Break } else { StmtKind::Continue })
            }
            "include" | "import" | "from" | "extends" | "block" | "autoescape" | "do" | "trans" => {
                let construct = format!("the tag `{{% {name} %}}`");
                Err(JinjaError::unsupported(construct).at(self.line()))
            }
            _ => self.fail(format!("unknown tag `{name}`")),
        }
    }

    fn if_statement(&mut self) -> Result<StmtKind> {
        let (mut branches, mut otherwise) = (Vec::new(), Vec::new());
        loop {
            let condition = self.tuple(false)?;
            self.expect_block_end()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            if end == "elif" {
                continue;
            }
            if end == "else" {
                self.expect_block_end()?;
                otherwise = self.body(&["endif"])?.0;
            }
            self.expect_block_end()?;
            return Ok(StmtKind::If { branches, otherwise });
        }
    }

    fn for_statement(&mut self) -> Result<StmtKind> {
        let target = self.targets()?;
        if !self.take_name("in") {
            return self.unexpected("`in`");
        }
        let iterable = self.tuple(true)?;
        let condition = if self.take_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.take_name("recursive");
        self.expect_block_end()?;
        self.loops += 1;
        let (body, end) = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let mut otherwise = Vec::new();
        if end == "else" {
            self.expect_block_end()?;
            otherwise = self.body(&["endfor"])?.0;
        }
        self.expect_block_end()?;
        let fields = ForLoop { target, iterable, condition, recursive, body, otherwise };
        Ok(StmtKind::For(Arc::new(fields)))
    }

    /// `a`, `a.b` or `a, b`; parentheses allowed.
    fn targets(&mut self) -> Result<Target> {
        let first = self.target()?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.take_op(",") {
            if !matches!(self.peek(), Some(TokenKind::Name(name)) if name != "in")
                && !self.is_op("(")
            {
                break;
            }
            targets.push(self.target()?);
        }
        Ok(Target::Tuple(targets))
    }

    fn target(&mut self) -> Result<Target> {
        if self.take_op("(") {
            let inner = self.nested(Self::targets)?;
            self.expect_op(")")?;
            return Ok(inner);
        }
        let name = self.expect_name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("cannot assign to `{name}`"));
        }
        Ok(match self.take_op(".") {
            true => Target::Attr(name, self.expect_name()?),
            false => Target::Name(name),
        })
    }

    fn set_statement(&mut self) -> Result<StmtKind> {
        let target = self.targets()?;
        if self.take_op("=") {
            let value = self.tuple(false)?;
            self.expect_block_end()?;
            return Ok(StmtKind::Set(target, value));
        }
        let filter = if self.is_op("|") { self.filters(None, false)? } else { None };
        Ok(StmtKind::SetBlock { target, filter, body: self.block("endset")? })
    }

    fn with_statement(&mut self) -> Result<StmtKind> {
        let mut targets = Vec::new();
        while self.peek() != Some(&TokenKind::BlockEnd) {
            if !targets.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target()?;
            self.expect_op("=")?;
            targets.push((target, self.expression()?));
        }
        Ok(StmtKind::With { targets, body: self.block("endwith")? })
    }

    fn parameters(&mut self) -> Result<Vec<Parameter>> {
        let mut parameters: Vec<Parameter> = Vec::new();
        self.expect_op("(")?;
        while !self.take_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
                if self.take_op(")") {
                    break;
                }
            }
            let name = self.expect_name()?;
            let default = if self.take_op("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|last| last.1.is_some()) {
                return self.fail("a parameter without a default behind one that has it");
            }
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    fn macro_of(
        &mut self,
        name: String,
        parameters: Vec<Parameter>,
        end: &str,
    ) -> Result<Arc<MacroDef>> {
        let (from, loops) = (self.at, std::mem::take(&mut self.loops));
        let body = self.block(end)?;
        self.loops = loops;
        let inside = &self.tokens[from..self.at];
        let reads = ["varargs", "kwargs", "caller"].map(|special| {
            inside.iter().any(|t| matches!(&t.kind, TokenKind::Name(n) if n == special))
        });
        Ok(Arc::new(MacroDef { name, parameters, body, reads }))
    }

    fn macro_statement(&mut self) -> Result<StmtKind> {
        let name = self.expect_name()?;
        let parameters = self.parameters()?;
        Ok(StmtKind::Macro(self.macro_of(name, parameters, "endmacro")?))
    }

    fn call_statement(&mut self) -> Result<StmtKind> {
        let parameters = if self.is_op("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(call.kind, ExprKind::Call(..)) {
            return self.fail("expected a call");
        }
        let caller = self.macro_of("caller".to_owned(), parameters, "endcall")?;
        Ok(StmtKind::Call { caller, call })
    }

    /// An expression, or several with commas between them; `in_for`: without conditions, since an
    /// `if` belongs to the loop.
    fn tuple(&mut self, in_for: bool) -> Result<Expr> {
        let line = self.line();
        let item = if in_for { Self::or } else { Self::expression };
        let first = item(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_op(",") {
            if self.ends_tuple() {
                break;
            }
            items.push(item(self)?);
        }
        Ok(Expr { line, kind: ExprKind::Tuple(items) })
    }

    fn ends_tuple(&self) -> bool {
        match self.peek() {
            None | Some(TokenKind::BlockEnd | TokenKind::OutputEnd) => true,
            Some(TokenKind::Op(op)) => matches!(*op, ")" | "]" | "="),
            Some(TokenKind::Name(name)) => matches!(&**name, "if" | "recursive"),
            _ => false,
        }
    }

    fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let line = parser.line();
            let mut value = parser.or()?;
            while parser.take_name("if") {
                let condition = Box::new(parser.or()?);
                let no = match parser.take_name("else") {
                    true => Some(Box::new(parser.expression()?)),
                    false => None,
                };
                let kind = ExprKind::Choice { condition, yes: Box::new(value), no };
                value = Expr { line, kind };
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.and()?;
        while self.take_name("or") {
            let kind = ExprKind::Or(Box::new(left), Box::new(self.and()?));
            left = Expr { line, kind };
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut left = self.not()?;
        while self.take_name("and") {
            let kind = ExprKind::And(Box::new(left), Box::new(self.not()?));
            left = Expr { line, kind };
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if self.take_name("not") {
            let inner = self.nested(Self::not)?;
            return Ok(Expr { line, kind: ExprKind::Not(Box::new(inner)) });
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let op = match self.peek() {
                Some(TokenKind::Op("==")) => CompareOp::Eq,
                Some(TokenKind::Op("!=")) => CompareOp::Ne,
                Some(TokenKind::Op("<")) => CompareOp::Lt,
                Some(TokenKind::Op("<=")) => CompareOp::Le,
                Some(TokenKind::Op(">")) => CompareOp::Gt,
                Some(TokenKind::Op(">=")) => CompareOp::Ge,
                Some(TokenKind::Name(name)) if name == "in" => CompareOp::In,
                Some(TokenKind::Name(name)) if name == "not" => {
                    let next = self.tokens.get(self.at + 1).map(|token| &token.kind);
                    if !matches!(next, Some(TokenKind::Name(name)) if name == "in") {
                        break;
                    }
                    self.at += 1;
                    CompareOp::NotIn
                }
                _ => break,
            };
            self.at += 1;
            others.push((op, self.sum()?));
        }
        if others.is_empty() {
            return Ok(first);
        }
        Ok(Expr { line, kind: ExprKind::Compare(Box::new(first), others) })
    }

    fn binary(
        &mut self,
        ops: &[(&str, BinaryOp)],
        operand: fn(&mut Self) -> Result<Expr>,
    ) -> Result<Expr> {
        let line = self.line();
        let mut left = operand(self)?;
        let mut length = 0;
        while let Some(&(_, op)) = ops.iter().find(|(text, _)| self.is_op(text)) {
            self.at += 1;
            // The tree leans to the left: a long chain is a deep one.
            length += 1;
            if length > NESTING_MAX {
                return Err(JinjaError::limit("operators in one expression").at(line));
            }
            let right = operand(self)?;
            left = Expr { line, kind: ExprKind::Binary(op, Box::new(left), Box::new(right)) };
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expr> {
        self.binary(&[("+", BinaryOp::Add), ("-", BinaryOp::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take_op("~") {
            parts.push(self.product()?);
        }
        Ok(Expr { line, kind: ExprKind::Concat(parts) })
    }

    fn product(&mut self) -> Result<Expr> {
        let ops = [
            ("*", BinaryOp::Mul),
            ("/", BinaryOp::Div),
            ("//", BinaryOp::FloorDiv),
            ("%", BinaryOp::Mod),
        ];
        self.binary(&ops, Self::power)
    }

    fn power(&mut self) -> Result<Expr> {
        self.binary(&[("**", BinaryOp::Pow)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filter: bool) -> Result<Expr> {
        let line = self.line();
        let value = if self.take_op("-") {
            let inner = self.nested(|parser| parser.unary(false))?;
            Expr { line, kind: ExprKind::Negative(Box::new(inner)) }
        } else if self.take_op("+") {
            let inner = self.nested(|parser| parser.unary(false))?;
            Expr { line, kind: ExprKind::Positive(Box::new(inner)) }
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        match with_filter {
            true => Ok(self.filters(Some(value), false)?.expect("a value was given")),
            false => Ok(value),
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let kind = match self.next() {
            Some(TokenKind::Name(name)) => match &*name {
                "true" | "True" => ExprKind::Bool(true),
                "false" | "False" => ExprKind::Bool(false),
                "none" | "None" => ExprKind::None,
                _ => ExprKind::Name(name),
            },
            Some(TokenKind::Str(mut text)) => {
                while let Some(TokenKind::Str(more)) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                ExprKind::Str(text)
            }
            Some(TokenKind::Int(value)) => ExprKind::Int(value),
            Some(TokenKind::Float(value)) => ExprKind::Float(value),
            Some(TokenKind::Op("(")) => return self.nested(|parser| parser.parenthesized(line)),
            Some(TokenKind::Op("[")) => ExprKind::List(self.nested(|parser| parser.items("]"))?),
            Some(TokenKind::Op("{")) => ExprKind::Dict(self.nested(Self::pairs)?),
            _ => {
                self.at = self.at.saturating_sub(1);
                return self.unexpected("a value");
            }
        };
        Ok(Expr { line, kind })
    }

    fn parenthesized(&mut self, line: u32) -> Result<Expr> {
        if self.take_op(")") {
            return Ok(Expr { line, kind: ExprKind::Tuple(Vec::new()) });
        }
        let first = self.expression()?;
        if self.take_op(")") {
            return Ok(first);
        }
        self.expect_op(",")?;
        let mut items = vec![first];
        items.extend(self.items(")")?);
        Ok(Expr { line, kind: ExprKind::Tuple(items) })
    }

    fn items(&mut self, end: &str) -> Result<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.take_op(end) {
            items.push(self.expression()?);
            if !self.take_op(",") {
                self.expect_op(end)?;
                break;
            }
        }
        Ok(items)
    }

    fn pairs(&mut self) -> Result<Vec<(Expr, Expr)>> {
        let mut pairs = Vec::new();
        while !self.take_op("}") {
            let key = self.expression()?;
            self.expect_op(":")?;
            pairs.push((key, self.expression()?));
            if !self.take_op(",") {
                self.expect_op("}")?;
                break;
            }
        }
        Ok(pairs)
    }

    fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        let mut length = 0;
        loop {
            let line = self.line();
            let kind = if self.take_op(".") {
                match self.next() {
                    Some(TokenKind::Name(name)) => ExprKind::Attr(Box::new(value), name),
                    Some(TokenKind::Int(index)) => {
                        let key = Expr { line, kind: ExprKind::Int(index) };
                        ExprKind::Item(Box::new(value), Box::new(key))
                    }
                    _ => {
                        self.at -= 1;
                        return self.unexpected("a name");
                    }
                }
            } else if self.take_op("[") {
                self.nested(|parser| parser.subscript(value))?
            } else if self.is_op("(") {
                ExprKind::Call(Box::new(value), self.args()?)
            } else {
                return Ok(value);
            };
            length += 1;
            if length > NESTING_MAX {
                return Err(JinjaError::limit("operators in one expression").at(line));
            }
            value = Expr { line, kind };
        }
    }

    fn subscript(&mut self, value: Expr) -> Result<ExprKind> {
        let mut parts = [None, None, None];
        let (mut at, mut colons) = (0, 0);
        while !self.take_op("]") {
            if self.take_op(":") {
                (at, colons) = (at + 1, colons + 1);
                if colons > 2 {
                    return self.unexpected("`]`");
                }
            } else if parts[at].is_none() {
                parts[at] = Some(self.expression()?);
            } else {
                return self.unexpected("`]`");
            }
        }
        let value = Box::new(value);
        match (colons, parts) {
            (0, [Some(key), None, None]) => Ok(ExprKind::Item(value, Box::new(key))),
            (0, _) => self.unexpected("a subscript"),
            (_, parts) => Ok(ExprKind::Slice(value, Box::new(parts))),
        }
    }

    fn args(&mut self) -> Result<Args> {
        self.nested(|parser| {
            parser.expect_op("(")?;
            let mut args = Args::default();
            while !parser.take_op(")") {
                parser.arg(&mut args)?;
                if !parser.take_op(",") {
                    parser.expect_op(")")?;
                    break;
                }
            }
            Ok(args)
        })
    }

    fn arg(&mut self, args: &mut Args) -> Result<()> {
        if self.take_op("*") {
            args.star = Some(Box::new(self.expression()?));
            return Ok(());
        }
        if self.take_op("**") {
            args.double_star = Some(Box::new(self.expression()?));
            return Ok(());
        }
        let is_keyword = matches!(self.peek(), Some(TokenKind::Name(_)))
            && matches!(self.tokens.get(self.at + 1), Some(Token { kind: TokenKind::Op("="), .. }));
        if is_keyword {
            let name = self.expect_name()?;
            self.expect_op("=")?;
            args.keyword.push((name, self.expression()?));
        } else if args.keyword.is_empty() && args.double_star.is_none() {
            args.positional.push(self.expression()?);
        } else {
            return self.fail("a positional argument behind a keyword argument");
        }
        Ok(())
    }

    /// Filters, tests and calls behind a value; `bare`: the first filter has no `|` before it.
    fn filters(&mut self, value: Option<Expr>, bare: bool) -> Result<Option<Expr>> {
        let (mut value, mut bare, mut length) = (value, bare, 0);
        loop {
            let line = self.line();
            let kind = if std::mem::take(&mut bare) || self.take_op("|") {
                let mut name = self.expect_name()?;
                while self.take_op(".") {
                    name = format!("{name}.{}", self.expect_name()?);
                }
                let args = if self.is_op("(") { self.args()? } else { Args::default() };
                ExprKind::Filter(value.map(Box::new), name, args)
            } else if value.is_some() && self.take_name("is") {
                self.test(value.expect("was looked at"), line)?.kind
            } else if let (true, Some(callee)) = (self.is_op("("), value.as_ref()) {
                ExprKind::Call(Box::new(callee.clone()), self.args()?)
            } else {
                return Ok(value);
            };
            length += 1;
            if length > NESTING_MAX {
                return Err(JinjaError::limit("operators in one expression").at(line));
            }
            value = Some(Expr { line, kind });
        }
    }

    fn test(&mut self, value: Expr, line: u32) -> Result<Expr> {
        let negated = self.take_name("not");
        let name = self.expect_name()?;
        let takes_operand = match self.peek() {
            Some(TokenKind::Name(next)) => {
                !matches!(&**next, "else" | "or" | "and" | "if" | "is" | "in" | "not" | "recursive")
            }
            Some(TokenKind::Str(_) | TokenKind::Int(_) | TokenKind::Float(_)) => true,
            Some(TokenKind::Op(op)) => matches!(*op, "[" | "{"),
            _ => false,
        };
        let args = if self.is_op("(") {
            self.args()?
        } else if takes_operand {
            let operand = self.primary()?;
            Args { positional: vec![self.postfix(operand)?], ..Args::default() }
        } else {
            Args::default()
        };
        let test = Expr { line, kind: ExprKind::Test(Box::new(value), name, args) };
        Ok(match negated {
            true => Expr { line, kind: ExprKind::Not(Box::new(test)) },
            false => test,
        })
    }
}
