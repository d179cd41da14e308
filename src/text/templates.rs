//! Chat templates of usual families, for models whose files carry none. Each is the family's plain
//! form: system message, turns, the beginning of an answer; no tools.

/// A template by the name of its family.
#[derive(Clone, Copy, Debug)]
pub struct BuiltinTemplate {
    /// Name, as users write it.
    pub name: &'static str,
    /// Models that were trained with it.
    pub about: &'static str,
    /// Jinja source.
    pub source: &'static str,
}

/// All built-in templates.
pub const BUILTIN_TEMPLATES: &[BuiltinTemplate] = &[
    BuiltinTemplate {
        name: "chatml",
        about: "Qwen, Hermes, SmolLM, many fine-tuned models",
        source: "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                 {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    },
    BuiltinTemplate {
        name: "llama2",
        about: "Llama 2 Chat",
        source: "{% set ns = namespace(system='') %}{% for m in messages %}\
                 {% if m.role == 'system' %}\
                 {% set ns.system = '<<SYS>>\n' ~ m.content ~ '\n<</SYS>>\n\n' %}\
                 {% elif m.role == 'user' %}{{ bos_token }}[INST] {{ ns.system }}{{ m.content }} [/INST]\
                 {% set ns.system = '' %}\
                 {% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
    },
    BuiltinTemplate {
        name: "llama3",
        about: "Llama 3 to 3.3",
        source: "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n\
                 {{ m.content | trim }}<|eot_id|>{% endfor %}\
                 {% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    },
    BuiltinTemplate {
        name: "gemma",
        about: "Gemma 1 to 3",
        source: "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}\
                 {% if m.role == 'system' %}{% set ns.system = m.content ~ '\n\n' %}\
                 {% else %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n\
                 {{ ns.system }}{{ m.content | trim }}<end_of_turn>\n{% set ns.system = '' %}{% endif %}\
                 {% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    },
    BuiltinTemplate {
        name: "mistral",
        about: "Mistral with [SYSTEM_PROMPT] (v7), Mixtral and older without",
        source: "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}\
                 [SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]\
                 {% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]\
                 {% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    },
    BuiltinTemplate {
        name: "phi3",
        about: "Phi 3 and 3.5",
        source: "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}\
                 {% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    },
    BuiltinTemplate {
        name: "deepseek",
        about: "DeepSeek V2.5 to R1",
        source: "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\
                 {% elif m.role == 'user' %}<｜User｜>{{ m.content }}\
                 {% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}\
                 {% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
    },
    BuiltinTemplate {
        name: "zephyr",
        about: "Zephyr, StableLM, TinyLlama",
        source: "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}\
                 {% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    },
    BuiltinTemplate {
        name: "vicuna",
        about: "Vicuna and its kin",
        source: "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n\
                 {% elif m.role == 'user' %}USER: {{ m.content }}\n\
                 {% else %}ASSISTANT: {{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}\
                 {% if add_generation_prompt %}ASSISTANT:{% endif %}",
    },
    BuiltinTemplate {
        name: "alpaca",
        about: "Alpaca and models tuned for instructions in plain text",
        source: "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n\
                 {% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n\
                 {% else %}### Response:\n{{ m.content }}{{ eos_token }}\n\n{% endif %}{% endfor %}\
                 {% if add_generation_prompt %}### Response:\n{% endif %}",
    },
];

/// Names of the built-in templates, for people.
pub fn builtin_names() -> String {
    BUILTIN_TEMPLATES.iter().map(|template| template.name).collect::<Vec<_>>().join(", ")
}

/// The built-in template of a family.
pub fn builtin_template(name: &str) -> Option<&'static BuiltinTemplate> {
    BUILTIN_TEMPLATES.iter().find(|template| template.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::ChatTemplate;
    use serde_json::json;

    #[test]
    fn every_template_shows_every_message_in_its_order() {
        let texts = ["Be terse.", "First?", "One.", "Second?"];
        let roles = ["system", "user", "assistant", "user"];
        let turn = |(role, text): (&str, &str)| json!({ "role": role, "content": text });
        let messages: Vec<_> = roles.into_iter().zip(texts).map(turn).collect();
        let input = json!({
            "messages": messages, "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"
        });
        for template in BUILTIN_TEMPLATES {
            let compiled = ChatTemplate::new(template.source).unwrap();
            let rendered = compiled.render_json(&input).unwrap();
            let places: Vec<_> = texts.iter().map(|text| rendered.find(text)).collect();
            assert!(places.is_sorted() && !places.contains(&None), "{}: {rendered}", template.name);
            assert!(!rendered.ends_with(texts[3]), "{}: {rendered}", template.name);
            assert_eq!(builtin_template(template.name).unwrap().source, template.source);
        }
    }

    #[test]
    fn templates_write_what_their_families_do() {
        let input = json!({
            "messages": [
                { "role": "system", "content": "S" }, { "role": "user", "content": "U" },
                { "role": "assistant", "content": "A" }, { "role": "user", "content": "V" },
            ],
            "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"
        });
        for (name, expected) in [
            ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]"),
            (
                "zephyr",
                "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\n",
            ),
            ("vicuna", "<s>S\n\nUSER: U\nASSISTANT: A</s>\nUSER: V\nASSISTANT:"),
            (
                "alpaca",
                "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
            ),
            (
                "llama3",
                "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
        ] {
            let template = ChatTemplate::new(builtin_template(name).unwrap().source).unwrap();
            assert_eq!(template.render_json(&input).unwrap(), expected, "{name}");
        }
    }
}
