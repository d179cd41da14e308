//! Vocabulary in which an architecture says how its Hugging Face checkpoints become GGUF: names of
//! classes, of tensors and of entries of `config.json`, as data beside the description.
//!
//! In patterns of names `#` stands for the number of a layer and `@` for that of an expert. Roots
//! such as `model.` are left out. A pattern is the whole name of a tensor, or that
//! name without its `.weight` or `.bias`, which the new name then gets, too.

mod common;

pub use common::{
    BUFFERS, DECODER, EXPERTS, GATE_UP_EXPERTS, OTHER_PARTS, PAIRS, ROTARY_ALL, VOCAB,
};

/// Checkpoints of one or more classes of transformers that have one architecture in GGUF.
#[derive(Debug)]
pub struct Checkpoint {
    /// Values of `architectures` in `config.json`.
    pub classes: &'static [&'static str],
    /// Value of `general.architecture`.
    pub arch: &'static str,
    /// Condition that chooses among the checkpoints of the classes: the first that is so counts.
    pub when: When,
    /// Names of tensors, special ones before common ones: the first that fits counts.
    pub tensors: &'static [&'static [Names]],
    /// Metadata beyond what all architectures have, in order: later ones overwrite.
    pub keys: &'static [&'static [Key]],
}

/// A condition on `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All checkpoints.
    Always,
    /// Those where an integer is missing or 0.
    Zero(&'static str),
    /// Those where the text of an entry is this.
    Is(&'static str, &'static str),
    /// Those whose folder, `_name_or_path` or README's title has this in its name, in small letters.
    Named(&'static str),
    /// Those where a list, the first of these entries, has none of these texts.
    Without(&'static [&'static str], &'static [&'static str]),
}

/// Names of a tensor, or of one in each layer: the checkpoint's and ours.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Pattern of the name in the checkpoint.
    pub from: &'static str,
    /// Pattern of the name in GGUF; unused for layouts that name several.
    pub to: &'static str,
    /// Order and shape of the elements.
    pub layout: Layout,
    /// Change of each element.
    pub op: Op,
    /// Entries of `config.json` that all elements are multiplied by; `.N` behind a name is a place in
    /// a list.
    pub scales: &'static [&'static str],
    /// Entries whose first one that is there is how many layers of the result come before the layers
    /// that these names number; none: they are numbered alike.
    pub behind: &'static [&'static str],
    /// Order of the parts that the files of ranks have of the tensor.
    pub join: Join,
}

/// Order of the parts of a matrix that have its name, one in each file of a rank of tensor parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// There are none.
    Never,
    /// One below the other.
    Rows,
    /// Side by side.
    Columns,
}

/// Names of a tensor whose elements stay as they are.
pub const fn same(from: &'static str, to: &'static str) -> Names {
    laid(from, to, Layout::Same)
}

/// Names of a tensor whose elements get another order or shape.
pub const fn laid(from: &'static str, to: &'static str, layout: Layout) -> Names {
    Names { from, to, layout, op: Op::Same, scales: &[], behind: &[], join: Join::Never }
}

/// Names of a tensor that becomes several.
pub const fn split(from: &'static str, parts: &'static [(&'static str, Rows)]) -> Names {
    laid(from, "", Layout::Split(parts))
}

/// Names of a tensor whose elements change.
pub const fn changed(from: &'static str, to: &'static str, op: Op) -> Names {
    same(from, to).op(op)
}

/// Name of a tensor that GGUF has no use for.
pub const fn dropped(from: &'static str) -> Names {
    laid(from, "", Layout::Drop)
}

impl Names {
    /// These names with a change of each element.
    pub const fn op(self, op: Op) -> Names {
        Names { op, ..self }
    }

    /// These names with entries that all elements are multiplied by.
    pub const fn scaled(self, scales: &'static [&'static str]) -> Names {
        Names { scales, ..self }
    }

    /// These names of layers behind as many others as an entry says.
    pub const fn behind(self, behind: &'static [&'static str]) -> Names {
        Names { behind, ..self }
    }

    /// These names of a tensor that may come in parts.
    pub const fn joined(self, join: Join) -> Names {
        Names { join, ..self }
    }
}

/// Order and shape of a tensor's elements in GGUF, by those in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As they are; experts (`@`) are stacked.
    Same,
    /// The tensor has no counterpart.
    Drop,
    /// Rows of each head from two halves to pairs, as rotation wants them that turns neighbours.
    PairQ,
    /// [`Layout::PairQ`] for as many heads as keys have.
    PairK,
    /// [`Layout::PairQ`] of the first half of each head, the only one that turns.
    PairHalfQ,
    /// [`Layout::PairHalfQ`] for as many heads as keys have.
    PairHalfK,
    /// [`Layout::PairQ`] and [`Layout::PairK`] of the first two parts of fused queries, keys and
    /// values.
    PairQkv,
    /// Rows of `[key head][its queries.., key, value][dimension]` as three tensors, queries and keys
    /// in pairs: `attn_q`, `attn_k`, `attn_v`.
    GroupsPaired,
    /// Matrices of all experts, one below the other, as a stack of as many as the entries say.
    Stacked(&'static [&'static str]),
    /// [`Layout::Stacked`], each matrix transposed.
    StackedTransposed(&'static [&'static str]),
    /// Without the rows before the first position, which is one behind the padding's id.
    BehindPadding,
    /// [`Layout::PairQ`] for as many heads of the usual size as there are rows.
    PairHeads,
    /// As it is, and where the head is the embedding, all of it under this name, multiplied by these
    /// entries instead of its own. It is, unless the configuration says that it is not.
    AndHeadIfTied(&'static str, &'static [&'static str]),
    /// Slopes of ALiBi, of which the first gives the exponent: a number of metadata under the new name.
    Slopes,
    /// A number of metadata under the new name.
    Number,
    /// Rows of heads, the second half of each with the other sign: rotations that turn back.
    SecondHalvesNegated,
    /// Numbers of metadata: an array of one for each layer under the new name.
    Metadata,
    /// Runs of rows of a state space's input, each multiplied by its element of the entry: gates,
    /// inner values, two times the groups' states, heads.
    StateRuns(&'static str),
    /// Matrices, or each of a stack, transposed; vectors stay.
    Transposed,
    /// Without dimensions of 1.
    Squeezed,
    /// [`Layout::Squeezed`] with a further dimension of 1: `[n]` becomes `[n][1]`.
    Column,
    /// Rows of `[head][query, key, value][dimension]` become all queries, all keys, all values.
    HeadsQkv,
    /// Rows of `[key head][its queries.., key, value][dimension]`, likewise.
    GroupsQkv,
    /// Runs of rows become tensors of their own; of a stack those of each matrix.
    Split(&'static [(&'static str, Rows)]),
    /// [`Layout::Split`] behind [`Layout::Transposed`] unless there are as many columns as the first
    /// of these entries says.
    SplitByColumns(&'static [&'static str], &'static [(&'static str, Rows)]),
    /// Rows of these tokens, which `tokenizer.json` numbers.
    RowsOfTokens(&'static [&'static str]),
    /// As it is, and where the head is the embedding, rows of these tokens under this name.
    AndRowsIfTied(&'static str, &'static [&'static str]),
    /// A row for each token of the vocabulary; those that the tensor lacks are as its first.
    ForAllTokens,
    /// [`Layout::Split`] behind [`Layout::Transposed`].
    TransposedSplit(&'static [(&'static str, Rows)]),
    /// [`Layout::Split`] of columns.
    SplitColumns(&'static [(&'static str, Rows)]),
    /// `[group × n]` as `[group][n]`: the norm of a state space, by `n_groups`.
    Groups,
    /// Heads of values of a delta rule from grouped by their key's head to tiled: rows, each head of
    /// so many.
    TiledRows(PerHead),
    /// [`Layout::TiledRows`] behind queries and keys, which stay.
    TiledBehindKeys,
    /// [`Layout::TiledRows`] of columns.
    TiledColumns,
    /// Rows of heads of queries, of which every nth one shares a head of keys, to those that share one
    /// beside each other: as many as the entry says, or else this number.
    UntiledRows(&'static str, u64),
    /// [`Layout::UntiledRows`] of columns.
    UntiledColumns(&'static str, u64),
    /// As it is; under the second name in layers that end a group, by [`Key::OneAtGroupEnds`].
    AtGroupEnds(&'static str, &'static str),
    /// Queries, keys, values and gates by key head, of a delta rule: two tensors, `attn_qkv` and
    /// `attn_gate`.
    DeltaQkvz,
}

/// Rows that a head of a delta rule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerHead {
    /// One.
    One,
    /// As many as a value has elements.
    Value,
}

/// Rows of a matrix, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// All heads of queries.
    Queries,
    /// All heads of keys.
    Keys,
    /// All heads of values.
    Values,
    /// All heads of queries, in pairs.
    PairedQueries,
    /// All heads of keys, in pairs.
    PairedKeys,
    /// First half of all rows.
    FirstHalf,
    /// Second half of all rows.
    SecondHalf,
    /// This quarter of all rows, counted from 0.
    Quarter(u8),
    /// Every second row, from the first.
    Even,
    /// Every second row, from the second.
    Odd,
    /// Of each head, the part that latents give the keys, transposed.
    LatentKeys,
    /// Of each head, the part that latents give the values.
    LatentValues,
}

/// Change of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// None.
    Same,
    /// One more: norms that multiply by 1 + w.
    PlusOne,
    /// 5^(-n/2) more: norms that multiply by that plus w.
    PlusFifth(u8),
    /// -e^x: decays that are kept as their logarithms.
    NegExp,
    /// e^x: likewise, of another sign.
    Exp,
    /// -1, 0 or 1 times the mean of all magnitudes: floats that a model makes ternary when it runs. A
    /// matrix that is ternary stays as it is.
    Ternary,
}

/// An entry of metadata, its key behind the architecture's name unless it begins with `general.` or
/// `tokenizer.`. An entry that `config.json` does not have is left out, where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// An integer, the first of these entries; a list of integers stays one.
    Int(&'static str, &'static [&'static str]),
    /// A float, likewise.
    Float(&'static str, &'static [&'static str]),
    /// A boolean, likewise.
    Flag(&'static str, &'static [&'static str]),
    /// An integer as given.
    IntIs(&'static str, u32),
    /// A float as given.
    FloatIs(&'static str, f32),
    /// A boolean as given.
    FlagIs(&'static str, bool),
    /// A string as given.
    TextIs(&'static str, &'static str),
    /// Strings as given.
    TextsAre(&'static str, &'static [&'static str]),
    /// Labels of classes, by `id2label`: none if there are two without a name.
    Labels(&'static str),
    /// An integer if no entry has it.
    IntElse(&'static str, &'static [&'static str], u32),
    /// A float if no entry has it.
    FloatElse(&'static str, &'static [&'static str], f32),
    /// A boolean if no entry has it.
    FlagElse(&'static str, &'static [&'static str], bool),
    /// No such entry after all.
    Without(&'static str),
    /// Product of the first entry that is there of each list.
    Product(&'static str, &'static [&'static str], &'static [&'static str]),
    /// Sum likewise.
    Sum(&'static str, &'static [&'static str], &'static [&'static str]),
    /// True if the text of an entry is this.
    FlagWhen(&'static str, &'static str, &'static str),
    /// [`Key::RotaryShare`] where `partial_rotary_factor` is there.
    RotaryIfSaid,
    /// [`Key::RotaryShare`] by `rope_parameters` only, which say it anew.
    RotaryRope(f32),
    /// Quotient likewise, rounded down.
    Quotient(&'static str, &'static [&'static str], &'static [&'static str]),
    /// Multiple of an entry.
    Times(&'static str, &'static [&'static str], u32),
    /// `rope.dimension_count`: the dimensions of a head, times the first of these entries (or of
    /// `partial_rotary_factor`), else this share.
    RotaryShare(&'static [&'static str], f32),
    /// Booleans, one for each layer: whether the list has this text there.
    Pattern(&'static str, &'static str, &'static str),
    /// [`Key::Pattern`] where the first entry is there.
    PatternWhen(&'static str, &'static str, &'static str, &'static str),
    /// Integers, one for each layer: an entry where the list, the first of these entries, has one of
    /// these texts, 0 elsewhere. A string is a list of its letters.
    WhereIs(
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
        &'static [&'static str],
    ),
    /// Integers, one for each layer: an entry in every layer of a period from an offset, which are
    /// entries, too; 0 elsewhere.
    EveryNth(&'static str, &'static [&'static str], &'static str, &'static str),
    /// Integers, one for each layer: an entry where the numbers in a list say so, 0 elsewhere.
    WhereNumbered(&'static str, &'static [&'static str], &'static str),
    /// Booleans, one for each layer: whether it has a window, by `layer_types` or by a list with a 1
    /// there (`hybrid_layer_pattern`).
    Windows(&'static str),
    /// Integers, one for each layer: an entry, or for those with a window the first of other ones, or
    /// else so many times that of the others.
    WindowInts(&'static str, &'static [&'static str], &'static [&'static str], u32),
    /// Booleans, one for each layer: whether the list has a 0 there.
    Zeros(&'static str, &'static str),
    /// Booleans, one for each layer that turns, by a list with a 0 for those that do not; all others
    /// in it are alike. Left out if all layers turn.
    Turning(&'static str, &'static str),
    /// `rope.dimension_count_swa`: the dimensions of a head, times the share that the rotation of layers
    /// with a window says.
    WindowRotary,
    /// An entry and this.
    Plus(&'static str, &'static [&'static str], u32),
    /// Layers that two stacks of so many run through: outer passes, of each inner ones and one more.
    Passes(&'static str, &'static [&'static str], &'static str, &'static str),
    /// An entry that has to be there, though another rule reads it.
    Needs(&'static str),
    /// An integer that is set if none is yet.
    IntDefault(&'static str, u32),
    /// The first of a list, or the one integer.
    FirstInt(&'static str, &'static [&'static str]),
    /// A float if a flag is true, else 0.
    FloatWhen(&'static str, &'static str, &'static str),
    /// Quotient as a float.
    Ratio(&'static str, &'static [&'static str], &'static [&'static str]),
    /// One over an entry.
    Reciprocal(&'static str, &'static str),
    /// A float over the square root of the number of layers.
    OverRootOfLayers(&'static str, &'static [&'static str]),
    /// One over the square root of an entry, where that is not the dimension of a head.
    InverseRoot(&'static str, &'static str),
    /// A float, the first of these entries, or else one over the square root of a head's dimensions.
    ScaleOfHeads(&'static str, &'static [&'static str]),
    /// YaRN described by entries beside each other, where the text of the first one is one of these: all of
    /// `scaling_factor`, `original_max_position_embeddings`, `extrapolation_factor`, `beta_fast` and
    /// `beta_slow`. Another text is refused.
    YarnBeside(&'static str, &'static [&'static str]),
    /// Positions behind the padding's: an entry less one more than the padding's id.
    PositionsBehindPadding(&'static str, &'static str),
    /// Length of a list.
    Count(&'static str, &'static str),
    /// Of each share in a list the number of deviations below which a normal distribution has it.
    NormalQuantiles(&'static str, &'static str),
    /// An integer of layers without windows: an entry, or one that `per_layer_config` has for the
    /// first of them.
    FullLayersInt(&'static str, &'static str, &'static str),
    /// Integers, one for each layer: an entry, [`Key::FullLayersInt`] for those without windows.
    FullLayersInts(&'static str, &'static [&'static str], &'static str, &'static str),
    /// Integers, one for each layer, if a flag is set: an entry, twice that in as many last layers as
    /// another entry says.
    WiderLastLayers(&'static str, &'static str, &'static [&'static str], &'static str),
    /// Integers, one for each layer: 1 where the first list has this text, or whose number, counted
    /// from 1, is in the second one; else 0.
    OneWhere(&'static str, &'static str, &'static str, &'static str),
    /// Integers, one for each layer: 1 in the last of each group of as many as an entry says, and in all
    /// behind the last whole group; else 0.
    OneAtGroupEnds(&'static str, &'static str),
    /// Floats, one for each layer, of a list: 0 where it has null or ends.
    FloatsOrZero(&'static str, &'static str),
    /// `rope.dimension_sections` by a list of three numbers of pairs.
    Sections(&'static str),
    /// How many elements at the start of a list are this text.
    Leading(&'static str, &'static str, &'static str),
    /// How many elements at the start of a list are 0.
    LeadingZeros(&'static str, &'static str),
    /// A number that has to be so where it is said: the architecture knows nothing else.
    MustEqual(&'static str, f64),
    /// A list whose elements have to be the same: the architecture knows no difference of layers.
    MustBeUniform(&'static str),
    /// Two numbers that have to be the same.
    MustAgree(&'static str, &'static str),
    /// [`Key::MustAgree`] where the first one is there.
    MustAgreeIfThere(&'static str, &'static str),
    /// A text that has to be so where it is said.
    MustBeText(&'static str, &'static str),
    /// A flag that has to be so where another one is set.
    MustBeWhen(&'static str, &'static str, bool),
    /// A flag that has to be so: the architecture knows nothing else.
    MustBe(&'static str, bool),
    /// A text of an entry.
    Text(&'static str, &'static str),
    /// An integer if the text of an entry is this.
    IntWhen(&'static str, &'static str, &'static str, u32),
    /// A float of `rope_parameters`, multiplied.
    Rope(&'static str, &'static str, f32),
    /// An integer if a flag is set.
    IntIfSet(&'static str, &'static str, u32),
    /// An entry if a list has something else than 0.
    IntWhereAny(&'static str, &'static str, &'static str),
    /// A float as given, one for each layer.
    FloatsAre(&'static str, f32),
    /// Two thirds of four times an entry, up to the next multiple of this.
    TwoThirds(&'static str, &'static str, u32),
    /// Integers, one for each layer: multiples that a list has of an entry, rounded to multiples of
    /// another one, as OpenELM does.
    DivisibleWidths(&'static str, &'static str, &'static str, &'static str),
    /// Feed-forward width adjusted as LFM 2 does, unless the entries say that it is not.
    AdjustedWidth(&'static [&'static str]),
    /// The dimensions of a head.
    HeadDim(&'static str),
    /// A share of an entry: times the first number, over the second one.
    Share(&'static str, &'static [&'static str], u64, u64),
    /// Heads and widths of each layer, by a list of blocks of Llama-Nemotron.
    BlockConfigs(&'static str),
    /// Pooling of a text's vectors, by the folder's `modules.json`.
    Pooling,
}
