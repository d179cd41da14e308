//! The rules of the named mixes: for each role of a tensor, conditions and types.

use super::Mix;
use gguf_rs_lite::GgmlType::{self, *};

/// Part that a tensor has in a model, as far as mixes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Output,
    Embedding,
    /// Values, alone or with queries and keys, or expanded from a latent vector.
    Value,
    Key,
    Query,
    AttentionOutput,
    Up,
    Gate,
    Down,
    Other,
}

impl Role {
    pub(super) fn of(name: &str) -> Role {
        const PARTS: &[(&str, Role)] = &[
            ("attn_qkv.weight", Role::Value),
            ("attn_kv_b.weight", Role::Value),
            ("attn_v.weight", Role::Value),
            ("attn_k.weight", Role::Key),
            ("attn_q.weight", Role::Query),
            ("attn_output.weight", Role::AttentionOutput),
            ("ffn_up", Role::Up),
            ("ffn_gate", Role::Gate),
            ("ffn_down", Role::Down),
        ];
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Role::Embedding,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Role::Other, |p| p.1),
        }
    }
}

/// Condition of a rule.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    /// At least four heads of queries share one of keys and values.
    Grouped,
    /// That, or at least four experts.
    GroupedOrExperts,
    /// Eight experts.
    EightExperts,
    /// Another number of experts, or none.
    NotEightExperts,
    /// The tensor is among the first so many of its role.
    First(usize),
    /// The layer is in the first n-th of all.
    FirstPart(usize),
    /// The layer is in neither the first nor the last eighth.
    Middle,
    /// The layer is in the first or last eighth, or every third between.
    MoreBits,
    WithImatrix,
    WithoutImatrix,
    /// The architecture's projections get fewer bits than others'.
    Frugal,
    NotFrugal,
}

/// A type and the conditions that all have to hold for it.
pub(super) type Rule = (&'static [When], GgmlType);

const ALWAYS: &[When] = &[];
const GROUPED: &[When] = &[When::Grouped];
const MORE_BITS: &[When] = &[When::MoreBits];
const FIRST_EIGHTH: &[When] = &[When::FirstPart(8)];
const EIGHT_EXPERTS: &[When] = &[When::EightExperts];

/// The rules of a mix for a role; where none holds, a tensor gets the base type.
pub(super) fn rules(mix: Mix, role: Role) -> &'static [Rule] {
    match role {
        Role::Value if mix.is_low() => low_value_rules(mix),
        Role::Value => value_rules(mix),
        Role::Key if mix.is_low() => &[(EIGHT_EXPERTS, Q4_K)],
        Role::Key => key_rules(mix),
        Role::Query => query_rules(mix),
        Role::AttentionOutput => attention_output_rules(mix),
        Role::Down if mix.is_low() => low_down_rules(mix),
        Role::Down => down_rules(mix),
        Role::Gate | Role::Up if mix == Mix::IQ3_XS => &[(&[When::Middle], IQ3_XXS)],
        Role::Embedding => embedding_rules(mix),
        Role::Gate | Role::Up | Role::Output | Role::Other => &[],
    }
}

fn low_value_rules(mix: Mix) -> &'static [Rule] {
    const WIDE: Rule = (&[When::GroupedOrExperts], Q4_K);
    if mix.is_upper_low() { &[WIDE, (ALWAYS, IQ3_S)] } else { &[WIDE, (ALWAYS, Q2_K)] }
}

fn value_rules(mix: Mix) -> &'static [Rule] {
    match mix {
        Mix::Q2_K => &[(EIGHT_EXPERTS, Q8_0), (GROUPED, Q4_K), (ALWAYS, Q3_K)],
        Mix::Q2_K_S | Mix::IQ3_XS | Mix::IQ3_S => &[(EIGHT_EXPERTS, Q8_0), (GROUPED, Q4_K)],
        Mix::IQ3_XXS => &[
            (EIGHT_EXPERTS, Q8_0),
            (GROUPED, Q4_K),
            (&[When::WithoutImatrix], IQ3_S),
            (ALWAYS, IQ3_XXS),
        ],
        Mix::IQ3_M => &[(EIGHT_EXPERTS, Q8_0), (ALWAYS, Q4_K)],
        Mix::Q3_K_M => &[(EIGHT_EXPERTS, Q8_0), (&[When::First(2)], Q5_K), (ALWAYS, Q4_K)],
        Mix::Q3_K_L => &[(EIGHT_EXPERTS, Q8_0), (ALWAYS, Q5_K)],
        Mix::IQ4_NL | Mix::IQ4_XS => &[(EIGHT_EXPERTS, Q8_0), (GROUPED, Q5_K)],
        Mix::Q4_K_M | Mix::Q5_K_M => &[(EIGHT_EXPERTS, Q8_0), (MORE_BITS, Q6_K)],
        Mix::Q4_K_S => &[(EIGHT_EXPERTS, Q8_0), (&[When::First(4)], Q5_K)],
        _ => &[(EIGHT_EXPERTS, Q8_0)],
    }
}

fn key_rules(mix: Mix) -> &'static [Rule] {
    match mix {
        Mix::IQ3_XS => &[(EIGHT_EXPERTS, Q8_0), (ALWAYS, IQ3_XXS)],
        Mix::IQ3_XXS => &[(EIGHT_EXPERTS, Q8_0), (ALWAYS, IQ2_S)],
        _ => &[(EIGHT_EXPERTS, Q8_0)],
    }
}

fn query_rules(mix: Mix) -> &'static [Rule] {
    match mix {
        Mix::IQ3_XS => &[(ALWAYS, IQ3_XXS)],
        Mix::IQ3_XXS => &[(ALWAYS, IQ2_S)],
        _ => &[],
    }
}

fn attention_output_rules(mix: Mix) -> &'static [Rule] {
    /// Eight experts, and projections as most architectures'.
    const EXPERTS: Rule = (&[When::EightExperts, When::NotFrugal], Q5_K);
    const DENSE: &[When] = &[When::NotEightExperts, When::NotFrugal];
    match mix {
        Mix::IQ1_S | Mix::IQ1_M => &[(EIGHT_EXPERTS, Q5_K), (ALWAYS, IQ2_XXS)],
        Mix::IQ2_S | Mix::IQ2_M => &[(EIGHT_EXPERTS, Q5_K), (ALWAYS, IQ3_S)],
        Mix::IQ2_XXS | Mix::IQ2_XS => &[(EIGHT_EXPERTS, Q5_K)],
        Mix::Q2_K => &[EXPERTS, (DENSE, Q3_K)],
        Mix::IQ3_XXS => &[EXPERTS, (DENSE, IQ3_S)],
        Mix::Q3_K_M | Mix::IQ3_M => &[EXPERTS, (DENSE, Q4_K)],
        Mix::Q3_K_L => &[(DENSE, Q5_K), (&[When::Frugal], Q4_K)],
        Mix::IQ3_XS
        | Mix::Q3_K_S
        | Mix::IQ4_NL
        | Mix::Q4_K_S
        | Mix::Q4_K_M
        | Mix::IQ3_S
        | Mix::IQ4_XS => &[EXPERTS],
        _ => &[],
    }
}

fn low_down_rules(mix: Mix) -> &'static [Rule] {
    if mix.is_upper_low() { &[(FIRST_EIGHTH, IQ3_S)] } else { &[(FIRST_EIGHTH, Q2_K)] }
}

fn down_rules(mix: Mix) -> &'static [Rule] {
    match mix {
        Mix::Q2_K => &[(ALWAYS, Q3_K)],
        Mix::Q2_K_S => &[(FIRST_EIGHTH, Q4_K)],
        Mix::IQ3_XXS => {
            &[(&[When::FirstPart(8), When::WithoutImatrix], Q4_K), (&[When::WithoutImatrix], Q3_K)]
        }
        Mix::Q3_K_M => {
            &[(&[When::FirstPart(16)], Q5_K), (&[When::NotFrugal], Q4_K), (MORE_BITS, Q4_K)]
        }
        Mix::Q3_K_L => &[(&[When::Frugal], Q4_K), (ALWAYS, Q5_K)],
        Mix::IQ3_M => &[(FIRST_EIGHTH, Q4_K), (&[When::EightExperts, When::MoreBits], Q4_K)],
        Mix::Q4_K_M => &[
            (&[When::MoreBits, When::NotFrugal], Q6_K),
            (&[When::FirstPart(16), When::Frugal], Q6_K),
            (&[When::MoreBits, When::Frugal], Q5_K),
        ],
        Mix::Q5_K_M => &[(MORE_BITS, Q6_K)],
        Mix::Q4_K_S => &[(&[When::FirstPart(8), When::NotFrugal], Q5_K)],
        Mix::IQ4_NL | Mix::IQ4_XS => &[(&[When::FirstPart(8), When::WithoutImatrix], Q5_K)],
        // Four and five bits without a minimum go wrong there, even with importances.
        Mix::Q4_0 => &[(&[When::FirstPart(8), When::WithImatrix], Q4_1)],
        Mix::Q5_0 => &[(&[When::FirstPart(8), When::WithImatrix], Q5_1)],
        _ => &[],
    }
}

/// An embedding that is not also the head.
fn embedding_rules(mix: Mix) -> &'static [Rule] {
    match mix {
        Mix::IQ1_S | Mix::IQ1_M | Mix::IQ2_XXS | Mix::IQ2_XS => &[(ALWAYS, Q2_K)],
        Mix::IQ2_S | Mix::IQ2_M | Mix::IQ3_XXS => &[(ALWAYS, IQ3_S)],
        Mix::TQ1_0 | Mix::TQ2_0 | Mix::Q2_0 => &[(ALWAYS, Q4_K)],
        _ => &[],
    }
}
