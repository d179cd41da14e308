//! The table of formats. A template has the first row whose marks it has, so rows with rarer marks
//! come first; the last is for templates without any.

use super::bodies::*;
use super::format::{AnswerFormat, Body, CallForm, Named, Reasoning};
use super::ids::IdForm;

const THINK: Reasoning = Reasoning { open: "<think>", close: "</think>", anywhere: false };

const fn tags(open: &'static str, close: &'static str, bodies: &'static [Body]) -> CallForm {
    CallForm { open, keeps_open: false, item: ("", ""), bodies, close }
}

/// Calls that open with their own first mark.
const fn bare(open: &'static str, bodies: &'static [Body]) -> CallForm {
    CallForm { open, keeps_open: true, item: ("", ""), bodies, close: "" }
}

/// What a row has unless it says otherwise.
const ROW: AnswerFormat = AnswerFormat {
    name: "",
    aliases: &[],
    about: "",
    signs: &[],
    architectures: &[],
    reasoning: &[THINK],
    calls: &[],
    hidden: &[],
    ends: &["<|im_end|>"],
    prefills: &[],
    messages: false,
    ids: IdForm::Call24,
};

/// All formats.
pub(super) static FORMATS: &[AnswerFormat] = &[
    AnswerFormat {
        name: "gpt-oss",
        aliases: &["harmony"],
        about: "messages with channels: analysis, commentary to=functions.name, final",
        signs: &[&["<|channel|>", "<|message|>"]],
        architectures: &["gpt-oss"],
        reasoning: &[],
        ends: &[],
        messages: true,
        ..ROW
    },
    AnswerFormat {
        name: "functionary",
        about: "Functionary 3.2: >>>name, a line break, arguments; >>>all before text",
        signs: &[&[">>>all"]],
        calls: &[tags(">>>", "", &[Body::Named(named("", &["\n"]))])],
        hidden: &[">>>all\n"],
        ends: &["<|eot_id|>"],
        prefills: &[">>>"],
        ..ROW
    },
    AnswerFormat {
        name: "kimi-k2",
        aliases: &["kimi"],
        about: "Kimi K2: ids that hold the names, in sections",
        signs: &[&["<|tool_calls_section_begin|>"]],
        calls: &[
            CallForm {
                item: ("<|tool_call_begin|>", "<|tool_call_end|>"),
                ..tags("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", KIMI)
            },
            CallForm {
                item: ("<|tool_call_begin|>", "<|tool_call_end|>"),
                ..bare("<|tool_call_begin|>", KIMI)
            },
        ],
        ..ROW
    },
    AnswerFormat {
        name: "kimi-k3",
        about: "Kimi K3: channels, calls and typed arguments between <|open|> and <|close|>",
        signs: &[&["'<|open|>'", "'<|close|>'"]],
        reasoning: &[Reasoning {
            open: "<|open|>think<|sep|>",
            close: "<|close|>think<|sep|>",
            anywhere: true,
        }],
        calls: &[tags("<|open|>tools<|sep|>", "<|close|>tools<|sep|>", KIMI_K3)],
        hidden: &["<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"],
        ends: &["<|end_of_msg|>"],
        ..ROW
    },
    AnswerFormat {
        name: "hunyuan-3",
        aliases: &["hy3"],
        about: "Hunyuan 3: names, keys and values in tags that end in :opensource",
        signs: &[&["<tool_calls{}>", "<arg_key{}>"]],
        reasoning: &[
            Reasoning { open: "<think:opensource>", close: "</think:opensource>", anywhere: false },
            THINK,
        ],
        calls: &[tags("<tool_calls:opensource>", "</tool_calls:opensource>", HUNYUAN)],
        ends: &["<｜hy_eos:opensource｜>"],
        ..ROW
    },
    AnswerFormat {
        name: "solar-open",
        about: "Solar Open: channels, ids and names before the arguments",
        signs: &[&["<|tool_call:args|>"]],
        reasoning: &[Reasoning { open: "<|think|>", close: "<|end|>", anywhere: true }],
        calls: &[CallForm {
            item: ("<|tool_call:begin|>", "<|tool_call:end|>"),
            ..tags("<|tool_calls|>", "<|calls|>", SOLAR)
        }],
        hidden: &["<|begin|>assistant", "<|content|>"],
        ends: &["<|end|>", "<|flush|>"],
        ..ROW
    },
    AnswerFormat {
        name: "minicpm5",
        about: "MiniCPM 5: functions with parameters in tags, some in CDATA",
        signs: &[&["<function name=", "<param name="]],
        calls: &[bare("<function name=\"", MINICPM)],
        ..ROW
    },
    AnswerFormat {
        name: "command-r7b",
        aliases: &["command-a"],
        about: "Command R7B and A: actions as JSON, thinking and responses in tags",
        signs: &[&["<|START_ACTION|>"]],
        architectures: &["cohere2"],
        reasoning: &[
            Reasoning { open: "<|START_THINKING|>", close: "<|END_THINKING|>", anywhere: true },
            THINK,
        ],
        calls: &[tags("<|START_ACTION|>", "<|END_ACTION|>", &[Body::Json])],
        hidden: &["<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"],
        ends: &["<|END_OF_TURN_TOKEN|>"],
        ..ROW
    },
    AnswerFormat {
        name: "command-r",
        about: "Command R and R+: Action: and a JSON array in a code block",
        signs: &[&["Action:", "\"tool_name\""], &["Action: ```json"]],
        architectures: &["command-r"],
        calls: &[
            tags("Action: ```json", "```", &[Body::Json]),
            tags("Action:\n```json", "```", &[Body::Json]),
            tags("Action:```json", "```", &[Body::Json]),
        ],
        hidden: &["<|CHATBOT_TOKEN|>"],
        ends: &["<|END_OF_TURN_TOKEN|>"],
        ..ROW
    },
    AnswerFormat {
        name: "gemma",
        aliases: &["gemma3", "gemma4", "functiongemma"],
        about: "Gemma 3 (```tool_code python), Gemma 4 and FunctionGemma (call:name{key:value})",
        signs: &[&["<|tool_call>"], &["<start_function_call>"], &["<start_of_turn>"]],
        architectures: &["gemma", "gemma2", "gemma3", "gemma3n", "gemma4"],
        reasoning: &[
            Reasoning { open: "<|channel>thought", close: "<channel|>", anywhere: true },
            THINK,
        ],
        calls: &[
            tags("<|tool_call>", "<tool_call|>", &[Body::Braces { quote: "<|\"|>" }]),
            tags(
                "<start_function_call>",
                "<end_function_call>",
                &[Body::Braces { quote: "<escape>" }],
            ),
            tags("```tool_code", "```", &[Body::Python]),
        ],
        // Gemma 4 opens and closes channels that hold nothing.
        hidden: &["<|channel>", "<channel|>"],
        ends: &["<end_of_turn>", "<turn|>", "<|tool_response>", "<start_function_response>"],
        ..ROW
    },
    AnswerFormat {
        name: "lfm2",
        about: "LFM2: Python calls between marks",
        signs: &[&["<|tool_call_start|>"], &["<|tool_list_start|>"], &["List of tools: ["]],
        architectures: &["lfm2", "lfm2moe"],
        calls: &[tags("<|tool_call_start|>", "<|tool_call_end|>", &[Body::Json, Body::Python])],
        ..ROW
    },
    AnswerFormat {
        name: "deepseek",
        about: "DeepSeek R1, V3 (fenced), V3.1 (bare), V3.2 (tagged parameters)",
        signs: &[
            &["<｜tool▁calls▁begin｜>"],
            &["<｜DSML｜"],
            &["dsml_token"],
            &["<｜Assistant｜>"],
        ],
        architectures: &["deepseek2"],
        calls: &[
            CallForm {
                item: ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
                ..tags("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", DEEPSEEK)
            },
            CallForm {
                item: ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
                ..bare("<｜tool▁call▁begin｜>", DEEPSEEK)
            },
            tags("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", DSML),
            tags("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>", DSML),
        ],
        ends: &["<｜end▁of▁sentence｜>"],
        ..ROW
    },
    AnswerFormat {
        name: "seed-oss",
        about: "Seed-OSS: parameters in tags, <seed:think>",
        signs: &[&["<seed:tool_call>"]],
        architectures: &["seed_oss"],
        reasoning: &[
            Reasoning { open: "<seed:think>", close: "</seed:think>", anywhere: false },
            THINK,
        ],
        calls: &[tags("<seed:tool_call>", "</seed:tool_call>", &[functions(true)])],
        ends: &["<seed:eos>"],
        ..ROW
    },
    AnswerFormat {
        name: "minimax-m2",
        about: "MiniMax M2: invocations with parameters in tags",
        signs: &[&["<minimax:tool_call>"]],
        calls: &[tags("<minimax:tool_call>", "</minimax:tool_call>", INVOKES)],
        ends: &["[e~["],
        ..ROW
    },
    AnswerFormat {
        name: "minimax-m3",
        about: "MiniMax M3: invocations with parameters as elements, which may be nested",
        signs: &[&["]<]minimax[>["]],
        reasoning: &[
            Reasoning { open: "<mm:think>", close: "</mm:think>", anywhere: false },
            THINK,
        ],
        calls: &[tags("]<]minimax[>[<tool_call>", "]<]minimax[>[</tool_call>", MINIMAX_M3)],
        ends: &["[e~["],
        ..ROW
    },
    AnswerFormat {
        name: "glm",
        aliases: &["glm-4.5", "glm-4.6", "glm-4.7", "ling", "laguna"],
        about: "GLM 4.5 to 4.7, Ling 3, Laguna: names, and keys and values in tags",
        signs: &[&["<arg_key>"]],
        architectures: &["glm4moe"],
        calls: &[tags("<tool_call>", "</tool_call>", ARG_KEYS)],
        ends: &["<|user|>", "<|observation|>", "<|endoftext|>", "<|role_end|>", "</assistant>"],
        ..ROW
    },
    AnswerFormat {
        name: "qwen3-coder",
        aliases: &["qwen3.5", "nemotron3", "step3.5"],
        about: "Qwen3-Coder, Qwen 3.5, Nemotron 3, Step 3.5: functions with parameters in tags",
        signs: &[&["<function=", "<parameter="]],
        calls: &[
            tags("<tool_call>", "</tool_call>", &[Body::Json, functions(true)]),
            // The models forget the tag that opens, and write the one that closes.
            CallForm { close: "</tool_call>", ..bare("<function=", &[functions(true)]) },
        ],
        ..ROW
    },
    AnswerFormat {
        name: "apertus",
        about: "Apertus: a JSON array of names with their arguments",
        signs: &[&["<|tools_prefix|>"]],
        architectures: &["apertus"],
        reasoning: &[Reasoning {
            open: "<|inner_prefix|>",
            close: "<|inner_suffix|>",
            anywhere: true,
        }],
        calls: &[tags("<|tools_prefix|>", "<|tools_suffix|>", &[Body::ShortJson])],
        ends: &["<|assistant_end|>"],
        ..ROW
    },
    AnswerFormat {
        name: "nemotron",
        about: "Nemotron Nano 2: a JSON array between <TOOLCALL> tags",
        signs: &[&["<TOOLCALL>"]],
        calls: &[tags("<TOOLCALL>", "</TOOLCALL>", &[Body::Json])],
        ..ROW
    },
    AnswerFormat {
        name: "mistral",
        aliases: &["magistral", "devstral"],
        about: "Mistral: [TOOL_CALLS] with a JSON array (old) or name[ARGS]{} (2506 on)",
        signs: &[&["[TOOL_CALLS]"], &["[INST]"]],
        reasoning: &[Reasoning { open: "[THINK]", close: "[/THINK]", anywhere: false }, THINK],
        calls: &[tags(
            "[TOOL_CALLS]",
            "",
            &[Body::Json, Body::Named(Named { id_sep: "[CALL_ID]", ..named("", &["[ARGS]"]) })],
        )],
        ends: &["</s>"],
        ids: IdForm::Plain9,
        ..ROW
    },
    AnswerFormat {
        name: "granite",
        aliases: &["phi4-mini"],
        about: "Granite 3 (<|tool_call|>[..]) and 4 (hermes tags), Phi 4 mini",
        signs: &[&["<|tool_call|>"], &["<|start_of_role|>"], &["<|tool|>"]],
        architectures: &["granite", "granitemoe", "granitehybrid"],
        calls: &[
            tags("<|tool_call|>", "", &[Body::Json]),
            tags("<tool_call>", "</tool_call>", &[Body::Json]),
        ],
        hidden: &["<|/tool_call|>"],
        ends: &["<|end_of_text|>", "<|end|>"],
        ..ROW
    },
    AnswerFormat {
        name: "firefunction",
        about: "FireFunction 2: functools and a JSON array",
        signs: &[&["functools["]],
        calls: &[tags("functools", "", &[Body::Json])],
        ends: &["<|eot_id|>"],
        ..ROW
    },
    AnswerFormat {
        name: "gigachat",
        about: "GigaChat 3 (function call, then JSON) and 3.1 (<|function_call|>)",
        signs: &[&["<|role_sep|>", "<|message_sep|>"]],
        calls: &[
            tags("<|message_sep|>\n\nfunction call<|role_sep|>", "", &[Body::Json]),
            tags("function call<|role_sep|>", "", &[Body::Json]),
            tags("<|function_call|>", "", &[Body::Json]),
        ],
        ends: &["<|message_sep|>"],
        ..ROW
    },
    AnswerFormat {
        name: "apriel",
        aliases: &["jamba", "minimax-m1"],
        about: "Apriel, Jamba, MiniMax M1: JSON between <tool_calls> tags",
        signs: &[&["<tool_calls>"]],
        reasoning: &[
            Reasoning {
                open: "Here are my reasoning steps:\n",
                close: "[BEGIN FINAL RESPONSE]",
                anywhere: false,
            },
            THINK,
        ],
        calls: &[tags("<tool_calls>", "</tool_calls>", &[Body::Json])],
        hidden: &["[END FINAL RESPONSE]"],
        ends: &["<|end|>"],
        ..ROW
    },
    AnswerFormat {
        name: "hermes",
        aliases: &["qwen", "qwen2.5", "qwen3", "smollm3"],
        about: "Qwen 2.5 and 3, Hermes 2 Pro and 3: JSON between <tool_call> tags",
        signs: &[&["<tool_call>"]],
        architectures: &["qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3"],
        calls: &[tags("<tool_call>", "</tool_call>", &[Body::Json])],
        ..ROW
    },
    AnswerFormat {
        name: "internlm",
        about: "InternLM 2.5 and 3: JSON between <|action_start|><|plugin|> and <|action_end|>",
        signs: &[&["<|action_start|>"]],
        calls: &[tags("<|action_start|><|plugin|>", "<|action_end|>", &[Body::Json])],
        ..ROW
    },
    AnswerFormat {
        name: "olmo3",
        about: "OLMo 3: Python calls between <function_calls> tags",
        signs: &[&["<function_calls>"]],
        architectures: &["olmo3"],
        calls: &[tags("<function_calls>", "</function_calls>", &[Body::Python])],
        ..ROW
    },
    AnswerFormat {
        name: "functionary-3.1",
        aliases: &["functionary3.1"],
        about: "Functionary 3.1: <function=name>, arguments as JSON, </function>",
        signs: &[&["<function="]],
        calls: &[tags("<function=", "</function>", &[Body::Named(named("", &[">"]))])],
        ends: &["<|eot_id|>", "<|eom_id|>"],
        ..ROW
    },
    AnswerFormat {
        name: "llama4",
        about: "Llama 4: a list of Python calls, or bare JSON",
        signs: &[&["<|python_start|>"], &["<|header_start|>"]],
        architectures: &["llama4"],
        calls: &[
            tags("<|python_start|>", "<|python_end|>", &[Body::Json, Body::Python]),
            tags("", "", &[Body::Json, Body::Python]),
        ],
        ends: &["<|eot|>", "<|eom|>"],
        ..ROW
    },
    AnswerFormat {
        name: "llama3",
        aliases: &["llama3.1", "llama3.2"],
        about: "Llama 3.1 to 3.3: bare JSON, which <|python_tag|> may precede",
        signs: &[&["<|python_tag|>"], &["<|start_header_id|>"]],
        calls: &[
            tags("<|python_tag|>", "", &[Body::Json]),
            tags("", "", &[Body::Json]),
            tags("<function=", "</function>", &[Body::Named(named("", &[">"]))]),
        ],
        ends: &["<|eot_id|>", "<|eom_id|>"],
        ..ROW
    },
    AnswerFormat {
        name: "generic",
        about: "any template without tools: {\"tool_calls\": [..]} or {\"response\": \"..\"}; \
                Functionary's >>>name",
        calls: &[
            tags("", "", &[Body::WrappedJson]),
            tags(">>>", "", &[Body::Named(named("", &["\n"]))]),
        ],
        hidden: &[">>>all\n"],
        ends: &["<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "</s>"],
        ..ROW
    },
];
