//! A template as a tree.

/// An expression and its line.
#[derive(Clone, Debug)]
pub struct Expr {
    pub line: u32,
    pub kind: ExprKind,
}

#[derive(Clone, Debug)]
pub enum ExprKind {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// `object.name`
    Attr(Box<Expr>, String),
    /// `object[key]`
    Item(Box<Expr>, Box<Expr>),
    /// `object[start:stop:step]`
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Args),
    /// `value | name(args)`; no value inside `{% filter %}` and block `{% set %}`.
    Filter(Option<Box<Expr>>, String, Args),
    /// `value is name(args)`
    Test(Box<Expr>, String, Args),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `a ~ b ~ c`
    Concat(Vec<Expr>),
    /// `a < b <= c`
    Compare(Box<Expr>, Vec<(CompareOp, Expr)>),
    /// `a if condition else b`
    Choice {
        condition: Box<Expr>,
        yes: Box<Expr>,
        no: Option<Box<Expr>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// Arguments of a call.
#[derive(Clone, Debug, Default)]
pub struct Args {
    pub positional: Vec<Expr>,
    pub keyword: Vec<(String, Expr)>,
    /// `*args`
    pub star: Option<Box<Expr>>,
    /// `**kwargs`
    pub double_star: Option<Box<Expr>>,
}

/// Target of an assignment.
#[derive(Clone, Debug)]
pub enum Target {
    Name(String),
    /// `namespace.name`
    Attr(String, String),
    Tuple(Vec<Target>),
}

/// A parameter of a macro and its default.
pub type Parameter = (String, Option<Expr>);

#[derive(Clone, Debug)]
pub struct MacroDef {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub body: Vec<Stmt>,
    /// Flags for those of `varargs`, `kwargs` and `caller` that the body reads.
    pub reads: [bool; 3],
}

#[derive(Clone, Debug)]
pub struct ForLoop {
    pub target: Target,
    pub iterable: Expr,
    pub condition: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
}

/// A statement and its line.
#[derive(Clone, Debug)]
pub struct Stmt {
    pub line: u32,
    pub kind: StmtKind,
}

#[derive(Clone, Debug)]
pub enum StmtKind {
    /// Text between tags.
    Data(String),
    /// `{{ .. }}`
    Output(Expr),
    If {
        branches: Vec<(Expr, Vec<Stmt>)>,
        otherwise: Vec<Stmt>,
    },
    For(std::sync::Arc<ForLoop>),
    Set(Target, Expr),
    /// `{% set x | filters %}..{% endset %}`
    SetBlock {
        target: Target,
        filter: Option<Expr>,
        body: Vec<Stmt>,
    },
    Macro(std::sync::Arc<MacroDef>),
    /// `{% call(parameters) callee(args) %}..{% endcall %}`
    Call {
        caller: std::sync::Arc<MacroDef>,
        call: Expr,
    },
    /// `{% filter filters %}..{% endfilter %}`
    Filter {
        filter: Expr,
        body: Vec<Stmt>,
    },
    With {
        targets: Vec<(Target, Expr)>,
        body: Vec<Stmt>,
    },
    /// `{% generation %}..{% endgeneration %}`, which marks what training learns from.
    Generation(Vec<Stmt>),
    Break,
    Continue,
}
