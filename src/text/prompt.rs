//! The one room where prompts are made: from a conversation by way of the model's chat template, or
//! from a text that the model continues. The command line, servers and bindings call it alike.
//!
//! What holds:
//!
//! - **Nobody's text forges a control token.** The tokenizer turns the names of control tokens into
//!   those tokens only where every byte of the name is the template's own. Texts of messages, names,
//!   tools and tool results never are, whatever the template does to them: trims, slices, joins,
//!   JSON. Trusted are the template, the names of BOS and EOS, and roles that are plain names.
//!   User-defined tokens (kind 4 of a file's vocabulary, as `<think>` in some) are found in any text,
//!   as with every tokenizer of these models: they are vocabulary, not structure.
//! - **The text is Python's**, byte for byte; control tokens apart, its tokens are those of the whole
//!   text, so that words merge across the borders of what is trusted.
//! - **BOS stands once at the front** if the file asks for it or the template writes it. White space
//!   that a template has before BOS is dropped. **EOS is never appended**: the text is to be continued.
//! - **No message is lost.** Where a template reads contents as lists of parts and shows nothing of a
//!   string, it gets parts (and the other way round); if the text of a system or user message still
//!   is not there, that is an error.

use std::ops::Range;

use serde_json::{Map, Value as Json, json};

use super::{ChatTemplate, Message, Rendered, TextError, Tokenizer};

/// Makes prompts for one model.
#[derive(Debug)]
pub struct Prompter<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    /// Source of the template for conversations with tools, if that is another.
    with_tools: Option<&'a str>,
    lossy: bool,
    /// Tokens that a prompt may have.
    tokens_max: usize,
}

/// A prompt in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids that the model reads.
    pub ids: Vec<u32>,
    /// The text that they spell, but for a BOS that the template does not write.
    pub rendered: Rendered,
}

impl<'a> Prompter<'a> {
    /// With the file's template, if it has one, and the one that it has for conversations with tools.
    ///
    /// # Errors
    /// [`TextError::Template`] if it does not parse.
    pub fn new(tokenizer: &'a Tokenizer) -> Result<Self, TextError> {
        let template = tokenizer.chat_template().map(ChatTemplate::new).transpose()?;
        let with_tools = tokenizer.chat_template_for(true);
        let with_tools = with_tools.filter(|_| with_tools != tokenizer.chat_template());
        Ok(Self { with_tools, ..Self::with_template(tokenizer, template) })
    }

    /// With a template in the place of the file's; `None` for none.
    pub fn with_template(tokenizer: &'a Tokenizer, template: Option<ChatTemplate>) -> Self {
        Self { tokenizer, template, with_tools: None, lossy: false, tokens_max: usize::MAX }
    }

    /// Prompts for a context of so many tokens: a text that cannot fit, however it is cut, is refused
    /// before it is read. A prompt may still be too long.
    pub fn within(self, tokens_max: usize) -> Self {
        Self { tokens_max, ..self }
    }

    /// Prompts even where the template shows nothing of a message, instead of
    /// [`TextError::MessageLost`]: for looking at what a template does, not for answers.
    pub fn lossy(self) -> Self {
        Self { lossy: true, ..self }
    }

    /// Whether there is a template.
    pub fn has_template(&self) -> bool {
        self.template.is_some() || self.with_tools.is_some()
    }

    /// A text that the model continues: nothing in it is a control token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn text(&self, text: &str) -> Result<Prompt, TextError> {
        let untrusted = Some(0..text.len()).filter(|range| !range.is_empty()).into_iter().collect();
        self.encode(Rendered { text: text.to_owned(), untrusted })
    }

    /// A conversation, up to where the model is to answer. Without a template, a single user message
    /// is continued as [`text`](Self::text).
    ///
    /// # Errors
    /// As [`conversation`](Self::conversation).
    pub fn messages(&self, messages: &[Message]) -> Result<Prompt, TextError> {
        if let (None, [Message { role, content, .. }]) = (&self.template, messages)
            && role == "user"
        {
            return self.text(content);
        }
        let messages: Vec<Json> = messages.iter().map(Message::to_json).collect();
        self.conversation(&json!({ "messages": messages, "add_generation_prompt": true }))
    }

    /// The prompt of a template for an object with `messages` (`tools`, `add_generation_prompt`,
    /// ..). The names of BOS and EOS are the vocabulary's.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`], [`TextError::Template`], [`TextError::MessageLost`], and those of
    /// [`Tokenizer::encode`].
    pub fn conversation(&self, input: &Json) -> Result<Prompt, TextError> {
        self.encode(self.render(input)?)
    }

    /// Number of the first tokens of the prompt for `input` that say nothing of its first user message
    /// or what follows: instructions and tools, with which other conversations begin, too. Tokens that
    /// another message there would leave the same may be among them.
    pub fn head(&self, input: &Json, prompt: &Prompt) -> usize {
        let mut other = input.clone();
        let Some(messages) = other.get_mut("messages").and_then(Json::as_array_mut) else {
            return 0;
        };
        let Some(at) = messages.iter().position(|message| message["role"] == "user") else {
            return 0;
        };
        let is_a =
            texts(&messages[at]["content"]).first().is_some_and(|text| text.starts_with('A'));
        messages.truncate(at + 1);
        messages[at]["content"] = Json::from(if is_a { "B" } else { "A" });
        // What cannot be rendered has nothing in common with others.
        let Ok(other) = self.conversation(&other) else { return 0 };
        prompt.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count()
    }

    /// The text of [`conversation`](Self::conversation).
    ///
    /// # Errors
    /// As there, but for the tokenizer's.
    pub fn render(&self, input: &Json) -> Result<Rendered, TextError> {
        let has_tools = input["tools"].as_array().is_some_and(|tools| !tools.is_empty());
        let own = self.with_tools.filter(|_| has_tools).map(ChatTemplate::new).transpose()?;
        let template = own.as_ref().or(self.template.as_ref()).ok_or(TextError::NoTemplate)?;
        let mut fields = input.as_object().cloned().unwrap_or_default();
        for (name, id) in [("bos_token", self.tokenizer.bos()), ("eos_token", self.tokenizer.eos())]
        {
            let spelled = id.and_then(|id| self.tokenizer.token_str(id)).unwrap_or_default();
            fields.insert(name.to_owned(), Json::from(spelled));
        }
        let as_given = whole(template, &fields);
        if as_given.is_ok() {
            return as_given;
        }
        // The other form of contents; if it fares no better, the first answer is told.
        match other_contents(&fields).map(|other| whole(template, &other)) {
            Some(Ok(rendered)) => Ok(rendered),
            _ if self.lossy => template.render_marked(&Json::Object(fields)),
            _ => as_given,
        }
    }

    /// Tokens of a rendered text, with BOS where it belongs.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and [`TextError::TooManyTokens`].
    pub fn encode(&self, mut rendered: Rendered) -> Result<Prompt, TextError> {
        let at_least = self.tokenizer.tokens_at_least(rendered.text.len());
        if at_least > self.tokens_max {
            return Err(TextError::TooManyTokens { at_least, max: self.tokens_max });
        }
        let bos = self.tokenizer.bos();
        let name = bos.and_then(|id| self.tokenizer.token_str(id)).filter(|name| !name.is_empty());
        if let Some(name) = name {
            drop_space_before(&mut rendered, name);
        }
        let mut ids = self.tokenizer.encode_around(&rendered.text, &rendered.untrusted)?;
        if let Some(bos) = bos {
            let written = ids.iter().take_while(|&&id| id == bos).count();
            ids.drain(..written.saturating_sub(1));
            if written == 0 && self.tokenizer.adds_bos() {
                ids.insert(0, bos);
            }
        }
        Ok(Prompt { ids, rendered })
    }
}

/// Drops a template's white space before the BOS that it writes.
fn drop_space_before(rendered: &mut Rendered, bos: &str) {
    let space = rendered.text.len() - rendered.text.trim_start().len();
    let end = space + bos.len();
    let own = rendered.untrusted.first().is_none_or(|first| first.start >= end);
    if space == 0 || !own || !rendered.text[space..].starts_with(bos) {
        return;
    }
    rendered.text.drain(..space);
    for Range { start, end } in &mut rendered.untrusted {
        (*start, *end) = (*start - space, *end - space);
    }
}

/// The rendering, unless a message is lost in it.
fn whole(template: &ChatTemplate, fields: &Map<String, Json>) -> Result<Rendered, TextError> {
    let input = Json::Object(fields.clone());
    let rendered = template.render_marked(&input)?;
    let messages = fields.get("messages").and_then(Json::as_array).map_or(&[][..], |m| &m[..]);
    for (i, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        let texts = texts(&message["content"]);
        // Templates drop answers and reasoning on purpose.
        if !matches!(role, "system" | "developer" | "user") || texts.is_empty() {
            continue;
        }
        if texts.iter().all(|text| rendered.text.contains(text)) {
            continue;
        }
        // Changed on its way, as JSON or in capitals? Then some of its bytes are there.
        if template.render_where(&input, &|at| at == i)?.untrusted.is_empty() {
            return Err(TextError::MessageLost { message: i, role: role.to_owned() });
        }
    }
    Ok(rendered)
}

/// The texts of a content, without what is blank, trimmed as templates do.
fn texts(content: &Json) -> Vec<&str> {
    let parts: Vec<&str> = match content {
        Json::String(text) => vec![text],
        Json::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => Vec::new(),
    };
    parts.into_iter().map(str::trim).filter(|text| !text.is_empty()).collect()
}

/// Messages whose contents are parts where they were strings, and strings where they were parts that
/// are all text; `None` if there is nothing to change.
fn other_contents(fields: &Map<String, Json>) -> Option<Map<String, Json>> {
    let mut fields = fields.clone();
    let mut changed = false;
    for message in fields.get_mut("messages")?.as_array_mut()? {
        let Some(content) = message.get_mut("content") else { continue };
        let other = match content {
            Json::String(text) => Some(json!([{ "type": "text", "text": text }])),
            Json::Array(parts) => {
                let texts: Option<Vec<&str>> = parts
                    .iter()
                    .map(|part| part["text"].as_str().filter(|_| part["type"] == "text"))
                    .collect();
                texts.map(|texts| Json::from(texts.concat()))
            }
            _ => None,
        };
        if let Some(other) = other {
            (*content, changed) = (other, true);
        }
    }
    changed.then_some(fields)
}
