//! Ways in which calls are written, as rows of the table of formats name them.

use super::format::{Body, Elements, Named, Reading, Tagged};

pub const fn named(kind: &'static str, seps: &'static [&'static str]) -> Named {
    Named { kind, seps, id_sep: "", in_id: false, id_first: "" }
}

/// What tags have unless a row says otherwise.
pub const TAGS: Tagged = Tagged {
    name: ("", ""),
    name_rest: "",
    key: "",
    key_ends: &[],
    value: ("", ""),
    verbatim: ("", ""),
    end: "",
    lines: false,
};

pub const DEEPSEEK: &[Body] =
    &[Body::Named(named("function<｜tool▁sep｜>", &["<｜tool▁sep｜>", "\n"]))];

pub const DSML: &[Body] = &[Body::Tagged(Tagged {
    name: ("<｜DSML｜invoke name=\"", "\">"),
    key: "<｜DSML｜parameter name=\"",
    key_ends: &[
        ("\" string=\"true\">", Reading::AsText),
        ("\" string=\"false\">", Reading::AsJson),
        ("\">", Reading::BySchema),
    ],
    value: ("", "</｜DSML｜parameter>"),
    end: "</｜DSML｜invoke>",
    ..TAGS
})];

pub const KIMI: &[Body] =
    &[Body::Named(Named { in_id: true, ..named("", &["<|tool_call_argument_begin|>"]) })];

pub const SOLAR: &[Body] =
    &[Body::Named(Named { id_first: "<|tool_call:name|>", ..named("", &["<|tool_call:args|>"]) })];

pub const KIMI_K3: &[Body] = &[Body::Tagged(Tagged {
    name: ("<|open|>call tool=\"", "\""),
    name_rest: "<|sep|>",
    key: "<|open|>argument key=\"",
    key_ends: &[
        ("\" type=\"string\"<|sep|>", Reading::AsText),
        ("\" type=\"number\"<|sep|>", Reading::AsJson),
        ("\" type=\"boolean\"<|sep|>", Reading::AsJson),
        ("\" type=\"object\"<|sep|>", Reading::AsJson),
        ("\" type=\"array\"<|sep|>", Reading::AsJson),
        ("\" type=\"null\"<|sep|>", Reading::AsJson),
        ("\"<|sep|>", Reading::BySchema),
    ],
    value: ("", "<|close|>argument<|sep|>"),
    end: "<|close|>call<|sep|>",
    ..TAGS
})];

pub const HUNYUAN: &[Body] = &[Body::Tagged(Tagged {
    name: ("<tool_call:opensource>", "<tool_sep:opensource>"),
    key: "<arg_key:opensource>",
    key_ends: &[("</arg_key:opensource>", Reading::BySchema)],
    value: ("<arg_value:opensource>", "</arg_value:opensource>"),
    end: "</tool_call:opensource>",
    ..TAGS
})];

pub const MINICPM: &[Body] = &[Body::Tagged(Tagged {
    name: ("<function name=\"", "\">"),
    key: "<param name=\"",
    key_ends: &[("\">", Reading::BySchema)],
    value: ("", "</param>"),
    verbatim: ("<![CDATA[", "]]></param>"),
    end: "</function>",
    ..TAGS
})];

pub const fn functions(lines: bool) -> Body {
    Body::Tagged(Tagged {
        name: ("<function=", ">"),
        key: "<parameter=",
        key_ends: &[(">", Reading::BySchema)],
        value: ("", "</parameter>"),
        end: "</function>",
        lines,
        ..TAGS
    })
}

pub const INVOKES: &[Body] = &[Body::Tagged(Tagged {
    name: ("<invoke name=\"", "\">"),
    key: "<parameter name=\"",
    key_ends: &[("\">", Reading::BySchema)],
    value: ("", "</parameter>"),
    end: "</invoke>",
    ..TAGS
})];

pub const MINIMAX_M3: &[Body] = &[Body::Elements(Elements {
    name: ("]<]minimax[>[<invoke name=\"", "\">"),
    mark: "]<]minimax[>[",
    end: "]<]minimax[>[</invoke>",
})];

pub const ARG_KEYS: &[Body] = &[Body::Tagged(Tagged {
    name: ("", ""),
    key: "<arg_key>",
    key_ends: &[("</arg_key>", Reading::BySchema)],
    value: ("<arg_value>", "</arg_value>"),
    ..TAGS
})];
