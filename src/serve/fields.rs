//! Fields of requests, described once: bodies are checked against these tables before anything reads them,
//! nothing else of a body is read, and `/openapi.json` tells them.

use super::body::Fields;
use super::fault::Fault;
use crate::sample::{Field as SamplerField, Param, Value, params};
use serde_json::{Map, Value as Json, json};

/// The last whole number that a float has exactly.
const EXACT_MAX: f64 = (1u64 << 53) as f64;

/// A field of a request.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// Kind of its value.
    pub kind: Kind,
    /// Whether a request has to have it.
    pub is_required: bool,
    /// For people.
    pub about: &'static str,
}

/// Kinds of values that a field may have.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number, which may be written as `3.0`.
    Whole(i64, i64),
    /// A number.
    Number,
    /// A text, or a list of texts.
    Texts,
    /// A list.
    List(&'static Kind),
    /// An object with these fields, among others.
    Object(&'static [Field]),
    /// The same, and fields of the sampler.
    Options(&'static [Field]),
    /// Any object.
    Map,
    /// A JSON schema.
    Schema,
    /// One of these.
    Either(&'static [Kind]),
    /// Anything.
    Any,
}

/// A field that may be missing.
pub const fn field(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, is_required: false, about }
}

impl Field {
    /// The same field, which has to be there.
    pub const fn required(self) -> Field {
        Field { is_required: true, ..self }
    }
}

/// A number of tokens or other things.
pub const COUNT: Kind = Kind::Whole(0, i64::MAX);
/// Any whole number.
pub const WHOLE: Kind = Kind::Whole(i64::MIN, i64::MAX);

/// The body of a route.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// Its fields.
    pub tables: &'static [&'static [Field]],
    /// Whether the sampler's fields are among them.
    pub samples: bool,
}

impl Body {
    /// The known fields of a body, each of its kind; numbers that are whole are written so.
    ///
    /// # Errors
    /// A field is of another kind, or missing.
    pub fn checked(&self, fields: Fields) -> Result<Fields, Fault> {
        let mut known = Fields::new();
        for (name, value) in fields {
            let is_known = self.fields().any(|field| field.name == name)
                || (self.samples && param(&name).is_some());
            if is_known && !value.is_null() {
                known.insert(name, value);
            }
        }
        check_fields(self.fields(), &mut known, "")?;
        Ok(known)
    }

    /// All fields but the sampler's.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> {
        self.tables.iter().flat_map(|table| table.iter())
    }

    /// The JSON schema of the body.
    pub fn schema(&self) -> Json {
        object_schema(self.fields(), self.samples)
    }
}

/// Other names of the sampler's fields: (theirs, ours).
pub const SAMPLER_NAMES: &[(&str, &str)] = &[
    ("repetition_penalty", "repeat_penalty"),
    ("penalty_last_n", "repeat_last_n"),
    ("typ_p", "typical_p"),
];

/// The sampler's parameter of a field, under any of its names.
pub fn param(name: &str) -> Option<&'static Param> {
    let other = SAMPLER_NAMES.iter().find(|(theirs, _)| *theirs == name);
    let name = other.map_or(name, |(_, ours)| ours);
    params().find(|param| param.name == name)
}

/// Checks fields that stand in an object at this place.
fn check_fields(
    table: impl Iterator<Item = &'static Field>,
    fields: &mut Fields,
    place: &str,
) -> Result<(), Fault> {
    for field in table {
        let at =
            if place.is_empty() { field.name.into() } else { format!("{place}.{}", field.name) };
        match fields.get_mut(field.name).filter(|value| !value.is_null()) {
            Some(value) => field.kind.check(value, &at)?,
            None if field.is_required => return Err(Fault::field(at, "is missing")),
            None => {}
        }
    }
    Ok(())
}

impl Kind {
    /// Checks a value, which is at this place.
    fn check(&self, value: &mut Json, at: &str) -> Result<(), Fault> {
        let fits = match (self, &mut *value) {
            (Kind::Any, _) | (Kind::Bool, Json::Bool(_)) | (Kind::Number, Json::Number(_)) => true,
            (Kind::Text | Kind::Texts, Json::String(_)) => true,
            (Kind::Word(words), Json::String(text)) => words.contains(&text.as_str()),
            // Seeds have 64 bits without a sign.
            (Kind::Whole(i64::MIN, _), Json::Number(number)) if number.is_u64() => true,
            (Kind::Whole(min, max), Json::Number(number)) => match whole(number) {
                Some(n) if (*min..=*max).contains(&n) => {
                    *value = n.into();
                    true
                }
                _ => false,
            },
            (Kind::Texts, Json::Array(list)) => list.iter().all(Json::is_string),
            (Kind::List(kind), Json::Array(list)) => {
                for (i, value) in list.iter_mut().enumerate() {
                    kind.check(value, &format!("{at}[{i}]"))?;
                }
                true
            }
            (Kind::Object(table) | Kind::Options(table), Json::Object(fields)) => {
                check_fields(table.iter(), fields, at)?;
                true
            }
            (Kind::Map, Json::Object(_)) | (Kind::Schema, Json::Object(_) | Json::Bool(_)) => true,
            (Kind::Either(kinds), value) => return either(kinds, value, at),
            _ => false,
        };
        if fits { Ok(()) } else { Err(Fault::field(at, format!("must be {}", self.need()))) }
    }

    /// What a value must be, in words.
    fn need(&self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Text => "a text".into(),
            Kind::Word(words) => words.join(", "),
            Kind::Whole(i64::MIN, i64::MAX) => "a whole number".into(),
            Kind::Whole(min, i64::MAX) => format!("a whole number from {min}"),
            Kind::Whole(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Number => "a number".into(),
            Kind::Texts => "a text or a list of texts".into(),
            Kind::List(_) => "a list".into(),
            Kind::Object(_) | Kind::Options(_) | Kind::Map => "an object".into(),
            Kind::Schema => "a JSON schema".into(),
            Kind::Either(kinds) => {
                let needs: Vec<String> = kinds.iter().map(Kind::need).collect();
                needs.join(" or ")
            }
            Kind::Any => "anything".into(),
        }
    }

    /// Whether a value is of the JSON type, whatever is in it.
    fn has_type(&self, value: &Json) -> bool {
        match self {
            Kind::Text | Kind::Word(_) => value.is_string(),
            Kind::Whole(..) | Kind::Number => value.is_number(),
            Kind::List(_) => value.is_array(),
            Kind::Object(_) | Kind::Options(_) | Kind::Map => value.is_object(),
            _ => false,
        }
    }

    /// The JSON schema of such a value.
    fn schema(&self) -> Json {
        match self {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::Text => json!({ "type": "string" }),
            Kind::Word(words) => json!({ "type": "string", "enum": words }),
            Kind::Whole(min, max) => {
                let mut schema = json!({ "type": "integer" });
                if *min > i64::MIN {
                    schema["minimum"] = (*min).into();
                }
                if *max < i64::MAX {
                    schema["maximum"] = (*max).into();
                }
                schema
            }
            Kind::Number => json!({ "type": "number" }),
            Kind::Texts => json!({ "anyOf": [
                { "type": "string" }, { "type": "array", "items": { "type": "string" } },
            ] }),
            Kind::List(kind) => json!({ "type": "array", "items": kind.schema() }),
            Kind::Object(table) => object_schema(table.iter(), false),
            Kind::Options(table) => object_schema(table.iter(), true),
            Kind::Map => json!({ "type": "object" }),
            Kind::Schema => json!({ "type": ["object", "boolean"] }),
            Kind::Either(kinds) => {
                json!({ "anyOf": kinds.iter().map(Kind::schema).collect::<Vec<_>>() })
            }
            Kind::Any => json!({}),
        }
    }
}

/// Checks a value that may be of several kinds: the fault is that of the kind whose type it has.
fn either(kinds: &[Kind], value: &mut Json, at: &str) -> Result<(), Fault> {
    let mut told = None;
    for kind in kinds {
        match kind.check(value, at) {
            Ok(()) => return Ok(()),
            Err(fault) if kind.has_type(value) => told = Some(fault),
            Err(_) => {}
        }
    }
    let need = Kind::need;
    let needs = || kinds.iter().map(need).collect::<Vec<_>>().join(" or ");
    Err(told.unwrap_or_else(|| Fault::field(at, format!("must be {}", needs()))))
}

/// The whole number that a number is.
fn whole(number: &serde_json::Number) -> Option<i64> {
    let exact = |x: &f64| x.fract() == 0.0 && x.abs() <= EXACT_MAX;
    // Of limits the largest means the same.
    let large = || number.as_u64().map(|_| i64::MAX);
    number.as_i64().or_else(large).or_else(|| number.as_f64().filter(exact).map(|x| x as i64))
}

fn object_schema(table: impl Iterator<Item = &'static Field>, samples: bool) -> Json {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in table {
        let mut schema = field.kind.schema();
        if !field.about.is_empty() {
            schema["description"] = field.about.into();
        }
        properties.insert(field.name.into(), schema);
        if field.is_required {
            required.push(field.name);
        }
    }
    if samples {
        for param in params() {
            let schema = param_schema(param);
            properties.entry(param.name).or_insert_with(|| schema.clone());
            let others = SAMPLER_NAMES.iter().filter(|(_, ours)| *ours == param.name);
            others
                .for_each(|(theirs, _)| drop(properties.insert((*theirs).into(), schema.clone())));
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn param_schema(param: &Param) -> Json {
    let mut schema = match &param.field {
        _ if param.name == "logit_bias" => json!({ "type": ["object", "array"] }),
        SamplerField::Number { min, max, .. } => {
            json!({ "type": "number", "minimum": min, "maximum": max })
        }
        SamplerField::Integer { min, max, .. } => {
            // Below it stands for what has no limit, as llama.cpp's clients say.
            json!({ "type": "integer", "minimum": (*min).min(-1), "maximum": max })
        }
        SamplerField::Bool { .. } => json!({ "type": "boolean" }),
        SamplerField::Text { .. } => json!({ "type": "string" }),
        SamplerField::List { .. } => json!({ "anyOf": [
            { "type": "string" }, { "type": "array", "items": { "type": "string" } },
        ] }),
    };
    schema["description"] = param.help.into();
    if let Value::Number(x) = param.get(&Default::default()) {
        schema["default"] = json!(x as f32);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: &[Field] = &[field("a", Kind::Bool, "").required(), field("n", COUNT, "")];
    const TABLE: &[Field] = &[
        field("word", Kind::Word(&["low", "high"]), ""),
        field("n", Kind::Whole(-1, 9), "A number"),
        field("inner", Kind::Object(INNER), ""),
        field("list", Kind::List(&Kind::Object(INNER)), ""),
        field("either", Kind::Either(&[Kind::Bool, Kind::Word(&["x"]), Kind::Object(INNER)]), ""),
        field("seed", WHOLE, ""),
    ];
    const BODY: Body = Body { tables: &[TABLE], samples: true };

    fn checked(body: Json) -> Result<Json, (String, String)> {
        let checked = BODY.checked(body.as_object().unwrap().clone());
        let told = |fault: Fault| (fault.param.unwrap_or_default(), fault.message);
        checked.map(Json::Object).map_err(told)
    }

    #[test]
    fn known_fields_pass_and_others_are_left_out() {
        let body = json!({ "n": 3.0, "seed": u64::MAX, "word": null, "user": 1, "top_k": 7.0,
            "typ_p": 1, "inner": { "a": true, "n": 2.0, "more": 1 } });
        let made = checked(body).unwrap();
        let expected = json!({ "n": 3, "seed": u64::MAX, "top_k": 7.0, "typ_p": 1,
            "inner": { "a": true, "n": 2, "more": 1 } });
        assert_eq!(made, expected);
    }

    #[test]
    fn wrong_fields_are_named_with_what_they_must_be() {
        for (body, param, need) in [
            (json!({ "word": "ultra" }), "word", "low, high"),
            (json!({ "word": 1 }), "word", "low, high"),
            (json!({ "n": 10 }), "n", "a whole number from -1 to 9"),
            (json!({ "n": 1.5 }), "n", "a whole number from -1 to 9"),
            (json!({ "n": true }), "n", "a whole number from -1 to 9"),
            (json!({ "inner": [] }), "inner", "an object"),
            (json!({ "inner": {} }), "inner.a", "is missing"),
            (json!({ "list": [{ "a": true }, { "a": 1 }] }), "list[1].a", "true or false"),
            (json!({ "either": 1 }), "either", "true or false or x or an object"),
            (json!({ "either": "y" }), "either", "must be x"),
            (json!({ "either": { "a": false, "n": -1 } }), "either.n", "a whole number from 0"),
        ] {
            let (at, message) = checked(body.clone()).unwrap_err();
            assert_eq!(at, param, "{body}");
            assert!(message.ends_with(need), "{body}: {message}");
        }
    }

    #[test]
    fn tables_are_schemas() {
        let schema = BODY.schema();
        let properties = &schema["properties"];
        assert_eq!(
            properties["n"],
            json!({ "type": "integer", "minimum": -1, "maximum": 9,
            "description": "A number" })
        );
        assert_eq!(properties["inner"]["required"], json!(["a"]));
        assert_eq!(properties["temperature"]["type"], "number");
        assert!(properties["typ_p"].is_object() && schema.get("required").is_none());
    }
}
