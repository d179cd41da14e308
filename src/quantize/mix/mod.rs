//! Named mixes: which type each tensor of a model gets for `Q4_K_M`, `IQ2_XS` and so on.
//!
//! A mix has a base type, and rules for tensors that are more or less sensitive than others: values
//! and down projections more, above all in the first and last layers. The rules are those of
//! llama.cpp's `llama-quantize` (`src/llama-quant.cpp`), so that a name means the same file everywhere;
//! they are data here: for each `Role` and mix a list of conditions and types, of which the first
//! that holds counts. `tests/golden/mixes.json.xz` has that program's choices for all of them.
//!
//! Rows that are no multiple of a type's block get another type at the end (`fallback`).

mod error;
mod rules;
mod wishes;

pub use error::MixError;
pub use wishes::{TensorType, Wishes};

use crate::model::mix_exceptions::MixExceptions;
use gguf_rs_lite::{GgmlType, GgufFile, TensorInfo};
use rules::{Role, Rule, When, rules};
use std::fmt;

use GgmlType::*;

/// The enum of mixes: `name = file type in metadata, base type`.
macro_rules! mixes {
    ($($name:ident = $id:literal, $base:ident;)*) => {
        /// A named mix; `COPY` (all types as they are) is none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, missing_docs, reason = "the field's own spelling")]
        pub enum Mix {
            $($name,)*
        }

        impl Mix {
            /// Every mix.
            pub const ALL: &[Mix] = &[$(Mix::$name),*];

            /// The name that users say.
            pub fn name(self) -> &'static str {
                match self {
                    $(Mix::$name => stringify!($name),)*
                }
            }

            /// Number that metadata has for it, `general.file_type`.
            pub fn file_type(self) -> u32 {
                match self {
                    $(Mix::$name => $id,)*
                }
            }

            /// Type of the tensors that no rule is for.
            pub fn base(self) -> GgmlType {
                match self {
                    $(Mix::$name => GgmlType::$base,)*
                }
            }
        }
    };
}

mixes! {
    F32 = 0, F32;
    F16 = 1, F16;
    Q4_0 = 2, Q4_0;
    Q4_1 = 3, Q4_1;
    Q8_0 = 7, Q8_0;
    Q5_0 = 8, Q5_0;
    Q5_1 = 9, Q5_1;
    Q2_K = 10, Q2_K;
    Q3_K_S = 11, Q3_K;
    Q3_K_M = 12, Q3_K;
    Q3_K_L = 13, Q3_K;
    Q4_K_S = 14, Q4_K;
    Q4_K_M = 15, Q4_K;
    Q5_K_S = 16, Q5_K;
    Q5_K_M = 17, Q5_K;
    Q6_K = 18, Q6_K;
    IQ2_XXS = 19, IQ2_XXS;
    IQ2_XS = 20, IQ2_XS;
    Q2_K_S = 21, Q2_K;
    IQ3_XS = 22, IQ3_S;
    IQ3_XXS = 23, IQ3_XXS;
    IQ1_S = 24, IQ1_S;
    IQ4_NL = 25, IQ4_NL;
    IQ3_S = 26, IQ3_S;
    IQ3_M = 27, IQ3_S;
    IQ2_S = 28, IQ2_XS;
    IQ2_M = 29, IQ2_S;
    IQ4_XS = 30, IQ4_XS;
    IQ1_M = 31, IQ1_M;
    BF16 = 32, BF16;
    TQ1_0 = 36, TQ1_0;
    TQ2_0 = 37, TQ2_0;
    MXFP4_MOE = 38, MXFP4;
    Q1_0 = 40, Q1_0;
    Q2_0 = 41, Q2_0;
}

impl Mix {
    /// The mix of a name in any case, short forms such as `Q4_K` included.
    pub fn from_name(name: &str) -> Option<Mix> {
        let name = match &*name.to_ascii_uppercase() {
            "Q3_K" => "Q3_K_M",
            "Q4_K" => "Q4_K_M",
            "Q5_K" => "Q5_K_M",
            "MXFP4" => "MXFP4_MOE",
            other => return Mix::ALL.iter().copied().find(|mix| mix.name() == other),
        };
        Mix::from_name(name)
    }

    /// Whether the base type is one of floats: then all tensors get it.
    pub fn is_float(self) -> bool {
        matches!(self.base(), GgmlType::F32 | GgmlType::F16 | GgmlType::BF16)
    }

    /// Mixes of two bits and less, which have rules of their own.
    fn is_low(self) -> bool {
        use Mix::*;
        matches!(self, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ2_M)
    }

    /// The larger two of those.
    fn is_upper_low(self) -> bool {
        matches!(self, Mix::IQ2_S | Mix::IQ2_M)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type of the head, or of the embedding that is the head, too.
fn head_type(mix: Mix, cols: u64, facts: &Facts) -> GgmlType {
    let fits = cols.is_multiple_of(mix.base().block_len() as u64);
    if mix == Mix::MXFP4_MOE || mix == Mix::Q8_0 || facts.exceptions.frugal_projections || !fits {
        Q8_0
    } else if mix.is_low() || mix == Mix::IQ3_XXS {
        Q5_K
    } else {
        Q6_K
    }
}

/// The choice of a type, or of another for rows that are no multiple of its block.
pub(super) fn of_type(wanted: GgmlType, cols: u64) -> Choice {
    Choice { ty: fallback(wanted, cols), wanted }
}

/// A type for rows that are no multiple of `ty`'s block.
fn fallback(ty: GgmlType, cols: u64) -> GgmlType {
    let fits = |ty: GgmlType| cols.is_multiple_of(ty.block_len() as u64);
    let smaller = match ty {
        _ if fits(ty) => return ty,
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ4_XS => IQ4_NL,
        Q2_K | Q3_K | TQ1_0 | TQ2_0 | Q1_0 | Q2_0 => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        NVFP4 => MXFP4,
        _ => F16,
    };
    if fits(smaller) { smaller } else { F16 }
}

/// Numbers of a model that rules ask for.
#[derive(Clone, Debug)]
pub struct Facts {
    exceptions: MixExceptions,
    layers: u64,
    experts: u64,
    /// Heads of queries to each of keys in the first layer; 0 without any.
    group: u64,
    /// It is the architecture's model of 70 billion parameters.
    is_large: bool,
}

impl Facts {
    /// Reads the metadata of a model.
    ///
    /// # Errors
    /// The architecture or the number of layers is missing.
    pub fn of(file: &GgufFile) -> Result<Facts, MixError> {
        const ARCHITECTURE: &str = "general.architecture";
        let architecture = file
            .get(ARCHITECTURE)
            .and_then(|value| value.as_str())
            .ok_or_else(|| MixError::Key(ARCHITECTURE.to_owned()))?;
        // Of a number for each layer, the first layer's.
        let number = |key: &str| {
            let value = file.get(&format!("{architecture}.{key}"))?;
            let first = value.as_array().and_then(|array| array.iter().next()).unwrap_or(value);
            first.as_u64()
        };
        const LAYERS: &str = "block_count";
        let layers =
            number(LAYERS).ok_or_else(|| MixError::Key(format!("{architecture}.{LAYERS}")))?;
        let heads = number("attention.head_count").unwrap_or(0);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let experts = number("expert_count").unwrap_or(0);
        let exceptions = MixExceptions::of(architecture);
        Ok(Facts {
            exceptions,
            layers,
            experts,
            group: heads.checked_div(kv_heads).unwrap_or(0),
            is_large: exceptions.is_large(layers, heads != kv_heads && experts != 8),
        })
    }
}

/// A tensor's place among those of its role.
struct Place {
    /// Number among those that were seen.
    index: u64,
    /// How many there are, or the number of layers.
    of: u64,
}

impl Place {
    fn holds(&self, when: When, facts: &Facts, has_imatrix: bool) -> bool {
        let Place { index, of } = *self;
        match when {
            When::Grouped => facts.group >= 4,
            When::GroupedOrExperts => facts.group >= 4 || facts.experts >= 4,
            When::EightExperts => facts.experts == 8,
            When::NotEightExperts => facts.experts != 8,
            When::First(n) => index < n as u64,
            When::FirstPart(n) => index < of / n as u64,
            When::Middle => index >= of / 8 && index < 7 * of / 8,
            When::MoreBits => index < of / 8 || index >= 7 * of / 8 || (index - of / 8) % 3 == 2,
            When::WithImatrix => has_imatrix,
            When::WithoutImatrix => !has_imatrix,
            When::Frugal => facts.exceptions.frugal_projections,
            When::NotFrugal => !facts.exceptions.frugal_projections,
        }
    }
}

/// A tensor whose type is to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Name.
    pub name: &'a str,
    /// Lengths in GGUF order, rows first.
    pub dims: &'a [u64],
    /// Type that it has.
    pub ty: GgmlType,
}

impl<'a> From<&'a TensorInfo> for Shape<'a> {
    fn from(tensor: &'a TensorInfo) -> Shape<'a> {
        Shape { name: &tensor.name, dims: &tensor.dims, ty: tensor.ty }
    }
}

/// The type of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Type that it gets.
    pub ty: GgmlType,
    /// Type that it would have, were its rows a multiple of that type's block.
    pub wanted: GgmlType,
}

/// Chooses a type for every tensor of a model, in their order. The model's tensors are visited layer
/// by layer, by their names, whatever their order in the file.
///
/// # Errors
/// Metadata that a rule asks for is missing, or a tensor of experts is in no layer.
pub fn choose(
    mix: Mix,
    facts: &Facts,
    has_imatrix: bool,
    wishes: &Wishes,
    tensors: &[Shape<'_>],
) -> Result<Vec<Choice>, MixError> {
    let is_tied = !tensors.iter().any(|tensor| tensor.name == "output.weight");
    let values = tensors.iter().filter(|t| Role::of(t.name) == Role::Value).count() as u64;
    let mut chooser =
        Chooser { mix, facts, has_imatrix, wishes, is_tied, values, seen: [0; Seen::COUNT] };
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (layer_of(tensors[i].name), tensors[i].name));
    let mut choices: Vec<Choice> =
        tensors.iter().map(|tensor| Choice { ty: tensor.ty, wanted: tensor.ty }).collect();
    for i in order {
        if is_quantized(&tensors[i], facts, wishes) {
            let wanted = chooser.wanted(&tensors[i])?;
            choices[i] = Choice { ty: fallback(wanted, tensors[i].dims[0]), wanted };
        }
    }
    Ok(choices)
}

/// The types that tensors have whatever the mix: those that are wanted, and their own where a tensor
/// is no matrix or too sensitive; `None` where there is a choice.
pub(super) fn fixed(
    facts: &Facts,
    wishes: &Wishes,
    tensors: &[Shape<'_>],
) -> Vec<Option<GgmlType>> {
    let is_tied = !tensors.iter().any(|tensor| tensor.name == "output.weight");
    let type_of = |tensor: &Shape<'_>| {
        if !is_quantized(tensor, facts, wishes) {
            return Some(tensor.ty);
        }
        let role = Role::of(tensor.name);
        let as_head = || wishes.output.filter(|_| is_tied && role == Role::Embedding);
        let eight_bits = facts.exceptions.eight_bits.iter().any(|part| tensor.name.contains(part));
        let ty = wishes.of(tensor.name, role).or(eight_bits.then_some(Q8_0)).or_else(as_head);
        ty.map(|ty| fallback(ty, tensor.dims[0]))
    };
    tensors.iter().map(type_of).collect()
}

/// The types of a file whose tensors stay as they are but for those that are wanted otherwise.
pub(super) fn copied(facts: &Facts, wishes: &Wishes, tensors: &[Shape<'_>]) -> Vec<Choice> {
    let choice = |tensor: &Shape<'_>| {
        let wish = wishes.of(tensor.name, Role::of(tensor.name));
        let wanted = wish.filter(|_| is_quantized(tensor, facts, wishes)).unwrap_or(tensor.ty);
        Choice { ty: fallback(wanted, tensor.dims[0]), wanted }
    };
    tensors.iter().map(choice).collect()
}

/// Whether a tensor is a matrix that a layer multiplies activations by: no embedding or head, norm or router.
pub(super) fn is_product_of_layer(tensor: &Shape<'_>, facts: &Facts) -> bool {
    /// Parts of the names of others, embeddings and heads of layers for several tokens included.
    const OTHERS: &[&str] = &["ffn_gate_inp", "nextn.embed", "nextn.shared_head"];
    layer_of(tensor.name).is_some()
        && is_quantized(tensor, facts, &Wishes::default())
        && !OTHERS.iter().any(|part| tensor.name.contains(part))
}

/// Whether a tensor may get another type, and none is named for it.
pub(super) fn may_change(facts: &Facts, wishes: &Wishes, tensor: &Shape<'_>) -> bool {
    wishes.of(tensor.name, Role::of(tensor.name)).is_none() && is_quantized(tensor, facts, wishes)
}

/// The number in `blk.N.`; `None` sorts before all layers.
fn layer_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("blk.")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Whether a tensor gets another type at all: matrices of weights that are neither tiny nor such that
/// a small error in them does much harm.
fn is_quantized(tensor: &Shape<'_>, facts: &Facts, wishes: &Wishes) -> bool {
    /// Parts of the names of tensors that stay as they are.
    const KEPT: &[&str] = &[
        "_norm.weight",
        // Routers of experts.
        "ffn_gate_inp.weight",
        "ffn_gate_tid2eid.weight",
        // Small projections of Gemma 3n.
        "altup",
        "laurel",
        "per_layer_model_proj",
        // Convolutions of recurrent layers.
        "ssm_conv1d",
        "shortconv.conv.weight",
        // Small projections of indexers.
        "indexer.k_proj.weight",
        "indexer.q_proj.weight",
        // Small weights of RWKV.
        "time_mix_first.weight",
        "time_mix_w0.weight",
        "time_mix_w1.weight",
        "time_mix_w2.weight",
        "time_mix_v0.weight",
        "time_mix_v1.weight",
        "time_mix_v2.weight",
        "time_mix_a0.weight",
        "time_mix_a1.weight",
        "time_mix_a2.weight",
        "time_mix_g1.weight",
        "time_mix_g2.weight",
        "time_mix_decay_w1.weight",
        "time_mix_decay_w2.weight",
        "time_mix_lerp_fused.weight",
        // Biases of relative positions.
        "attn_rel_b.weight",
        // Of encoders of images and sound.
        ".position_embd",
        "sam.pos_embd",
        "sam.neck.",
        "sam.net_",
        ".rel_pos",
        ".patch_embd",
        ".patch_merger",
        "a.rvq.codebook",
        "mm.a.code_embd",
    ];
    const KEPT_NAMES: &[&str] = &["position_embd.weight", "token_types.weight"];
    let Shape { name, dims, ty } = *tensor;
    let is_matrix = dims.iter().skip(1).any(|&n| n > 1);
    let is_number = !matches!(ty, I8 | I16 | I32 | I64 | F64);
    is_matrix
        && is_number
        && name.ends_with("weight")
        && !(wishes.leave_output && name == "output.weight")
        && !KEPT_NAMES.contains(&name)
        && !KEPT.iter().chain(facts.exceptions.kept).any(|part| name.contains(part))
}

/// Roles whose tensors are counted.
enum Seen {
    Value,
    Down,
    Gate,
    Up,
}

impl Seen {
    const COUNT: usize = 4;
}

struct Chooser<'a> {
    mix: Mix,
    facts: &'a Facts,
    has_imatrix: bool,
    wishes: &'a Wishes,
    /// The embedding is the head, too.
    is_tied: bool,
    /// Tensors of values in the model.
    values: u64,
    /// Tensors so far of each role that is counted.
    seen: [u64; Seen::COUNT],
}

impl Chooser<'_> {
    fn wanted(&mut self, tensor: &Shape<'_>) -> Result<GgmlType, MixError> {
        let role = Role::of(tensor.name);
        if let Some(ty) = self.wishes.of(tensor.name, role) {
            return Ok(ty);
        }
        if self.mix.is_float() || self.wishes.pure {
            return Ok(self.mix.base());
        }
        self.by_rules(tensor, role)
    }

    fn by_rules(&mut self, tensor: &Shape<'_>, role: Role) -> Result<GgmlType, MixError> {
        let (mix, facts) = (self.mix, self.facts);
        if facts.exceptions.eight_bits.iter().any(|part| tensor.name.contains(part)) {
            return Ok(Q8_0);
        }
        if role == Role::Output || (role == Role::Embedding && self.is_tied) {
            let by_mix = || head_type(mix, tensor.dims[0], facts);
            return Ok(self.wishes.output.unwrap_or_else(by_mix));
        }
        if mix == Mix::MXFP4_MOE {
            let is_stack = tensor.dims.get(2).is_some_and(|&n| n > 1);
            let is_ffn = matches!(role, Role::Up | Role::Gate | Role::Down);
            let is_expert = is_stack && (is_ffn || !facts.exceptions.stacks_projections);
            return Ok(if is_expert { MXFP4 } else { Q8_0 });
        }
        let place = self.place(tensor.name, role)?;
        let holds = |&&(conditions, _): &&Rule| {
            conditions.iter().all(|&when| place.holds(when, facts, self.has_imatrix))
        };
        let ty = rules(mix, role).iter().find(holds).map_or(mix.base(), |&(_, ty)| ty);
        // Eight heads share these: more bits for them cost next to nothing.
        let is_cheap = role == Role::Value && facts.is_large && !mix.is_low();
        Ok(if is_cheap && matches!(ty, Q3_K | Q4_K) { Q5_K } else { ty })
    }

    /// A tensor's place among those of its role, which it is counted with from now on. Experts, whose
    /// tensors may come one by one, have their layer's number.
    fn place(&mut self, name: &str, role: Role) -> Result<Place, MixError> {
        let layers = self.facts.layers;
        let (seen, of) = match role {
            Role::Value => (Seen::Value, self.values),
            Role::Down => (Seen::Down, layers),
            Role::Gate => (Seen::Gate, layers),
            Role::Up => (Seen::Up, layers),
            _ => return Ok(Place { index: 0, of: 0 }),
        };
        let is_counted = matches!(seen, Seen::Value);
        let seen = &mut self.seen[seen as usize];
        let index = *seen;
        *seen += 1;
        if self.facts.experts <= 1 || is_counted || self.mix.is_low() {
            return Ok(Place { index, of });
        }
        match layer_of(name) {
            Some(index) if index < layers => Ok(Place { index, of }),
            _ => Err(MixError::Layer { name: name.to_owned(), layers }),
        }
    }
}
