//! Every tensor of a checkpoint gets its place in GGUF, or the conversion fails naming it.
//!
//! A tensor of the result is a list of [`Piece`]s: rows and columns picked from tensors of the
//! checkpoint, each seen as a stack of matrices that may be transposed. Nothing is read here. What a
//! tensor of some layout becomes is the affair of `layout.rs`.

mod heads;
mod layout;
mod types;

pub(super) use types::{choose_types, is_plain, type_of_rows};

use super::ConvertError;
use super::config::Config;
use super::dtype::Dtype;
use super::packed::{Repack, said};
use super::safetensors::Tensor;
use super::ternary::Ternary;
use crate::grid::Found;
use crate::model::arch::text_parts;
use crate::model::checkpoint::{BUFFERS, Checkpoint, Join, Layout, Names, OTHER_PARTS, Op};
use gguf_rs_lite::GgmlType;
use std::collections::HashMap;

/// Beginnings of names that say in which part of a class a tensor is, longest first; they are left
/// out of patterns.
const ROOTS: &[&str] = &[
    "model.language_model.model.",
    "thinker.model.",
    "thinker.",
    "model.llm.model.",
    "llm.model.",
    "llm.",
    "model.text_model.",
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.model.",
    "model.transformer.",
    "model.decoder.",
    "model.backbone.",
    "model.",
    "transformer.",
    "gpt_neox.",
    "backbone.",
    "decoder.",
    "bert.",
    "roberta.",
    "nomic_bert.",
    "distilbert.transformer.",
    "distilbert.",
    "ernie.",
    "text_model.",
];

/// Entries with the number of a layer's experts.
pub(super) const EXPERT_COUNTS: &[&str] = &["num_local_experts", "num_experts", "n_routed_experts"];

/// A tensor of the result.
#[derive(Clone, Debug)]
pub struct Output {
    /// Name in GGUF.
    pub name: String,
    /// Type of its elements.
    pub ty: GgmlType,
    /// Dimensions, rows before columns.
    pub shape: Vec<u64>,
    /// Rows, one piece behind the other.
    pub(super) pieces: Vec<Piece>,
    /// Change of each element.
    pub(super) op: Op,
    /// Numbers that are no tensor of the checkpoint, instead of pieces.
    pub(super) values: Option<Vec<f32>>,
    /// Fate of the checkpoint's codes, if it has them as codes.
    pub(super) repack: Option<Repack>,
    /// The grid that its values lie on, if it gets the codes of that.
    pub(super) grid: Option<Found>,
    /// What its elements become, if they become ternary.
    pub(super) ternary: Option<Ternary>,
}

impl Output {
    /// A vector of computed numbers.
    pub(super) fn computed(name: &str, values: Vec<f32>) -> Output {
        let shape = vec![values.len() as u64];
        Output { values: Some(values), ..Output::laid(name.into(), shape, Vec::new()) }
    }

    /// A tensor of these pieces, its type still to be chosen.
    pub(super) fn laid(name: String, shape: Vec<u64>, pieces: Vec<Piece>) -> Output {
        let (ty, op) = (GgmlType::F32, Op::Same);
        let (values, repack, grid, ternary) = Default::default();
        Output { name, ty, shape, pieces, op, values, repack, grid, ternary }
    }

    /// Dimensions in GGUF's order.
    pub fn dims(&self) -> Vec<u64> {
        let dims: Vec<u64> = self.shape.iter().rev().copied().collect();
        if dims.is_empty() { vec![1] } else { dims }
    }

    /// Whether it was codes in the checkpoint: then, whether they stay as they are.
    pub fn keeps_codes(&self) -> Option<bool> {
        self.repack.map(|repack| matches!(repack, Repack::Codes(_)))
    }

    /// The grid that its values lie on, if it gets the codes of that.
    pub fn grid(&self) -> Option<&Found> {
        self.grid.as_ref()
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Rows of one tensor of the checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    /// Its place among the tensors.
    pub tensor: usize,
    /// Matrices, rows of each and columns, as stored.
    pub view: [u64; 3],
    /// Whether each matrix is transposed first.
    pub transposed: bool,
    /// Rows in the new order, counted through all matrices; `None`: all as they are.
    pub pick: Option<Vec<u32>>,
    /// Columns in the new order; `None`: all as they are.
    pub columns: Option<Vec<u32>>,
    /// Factor of all elements.
    pub scale: f32,
    /// Factors of blocks of the stored matrix.
    pub blocks: Option<Blocks>,
}

/// Factors of a quantized matrix, one for each block of it as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Place of the factors among the tensors.
    pub tensor: usize,
    /// Rows and columns of a block; those at the end may be smaller.
    pub size: [u64; 2],
    /// Blocks side by side.
    pub across: u64,
}

impl Blocks {
    /// The factors that belong to a matrix, by their shapes.
    fn of(
        number: usize,
        tensor: &Tensor,
        scales: &Tensor,
        block: Option<[u64; 2]>,
    ) -> Result<Blocks, ConvertError> {
        let bad = |problem: &str| ConvertError::Shape {
            tensor: scales.name.clone(),
            shape: scales.shape.clone(),
            problem: format!("{problem} of a matrix {:?}", tensor.shape),
        };
        let [rows, cols] = tensor.shape[..] else { return Err(bad("no factors")) };
        let n: u64 = scales.shape.iter().product();
        let size = match scales.shape[..] {
            _ if n == 1 => [rows, cols],
            [n] | [n, 1] if n == rows => [1, cols],
            [_, _] if block.is_some() => block.unwrap_or_default(),
            [n, across] if n == rows && across > 0 && cols.is_multiple_of(across) => {
                [1, cols / across]
            }
            [_, _] => return Err(bad("blocks of unknown size")),
            _ => return Err(bad("no factors")),
        };
        let [down, across] =
            [(rows, size[0]), (cols, size[1])].map(|(n, block)| n.div_ceil(block.max(1)));
        match down * across == n && !size.contains(&0) {
            true => Ok(Blocks { tensor: number, size, across }),
            false => Err(bad("another number of blocks than")),
        }
    }
}

impl Piece {
    /// All of a tensor, as it is stored.
    pub fn whole(tensor: usize, view: [u64; 3]) -> Piece {
        let (transposed, pick, columns, blocks) = (false, None, None, None);
        Piece { tensor, view, transposed, pick, columns, scale: 1.0, blocks }
    }

    /// Rows of each matrix, once it may be transposed.
    pub fn rows(&self) -> u64 {
        if self.transposed { self.view[2] } else { self.view[1] }
    }

    /// Columns likewise, before some are picked.
    pub fn cols(&self) -> u64 {
        if self.transposed { self.view[1] } else { self.view[2] }
    }
}

/// The tensors of the result, and what was left out.
pub(super) struct Planned {
    pub outputs: Vec<Output>,
    /// Tensors without a counterpart, which change nothing.
    pub left_out: Vec<String>,
    /// Tensors whose one number belongs to an array of metadata: its key, layer and place.
    pub metadata: Vec<(String, usize, usize)>,
    /// The key of the exponent of ALiBi, and the place of the slopes that give it.
    pub slopes: Option<(&'static str, usize)>,
    /// The key of a number, and the place of its tensor.
    pub number: Option<(&'static str, usize)>,
}

/// A name that a pattern fits.
struct Fit<'n> {
    names: &'n Names,
    layer: Option<usize>,
    expert: Option<usize>,
    /// `.weight` or `.bias` behind the pattern.
    suffix: &'static str,
}

impl Fit<'_> {
    /// The new name by its pattern.
    fn name(&self, pattern: &str) -> String {
        let layer = self.layer.map_or_else(String::new, |n| n.to_string());
        pattern.replace('#', &layer)
    }
}

/// Plans all tensors.
///
/// # Errors
/// A tensor has no place, or none of its shape; two would have one name; an expert is missing.
pub(super) fn plan(
    tensors: &[Tensor],
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<Planned, ConvertError> {
    let mut planner = Planner {
        config,
        outputs: Vec::new(),
        places: HashMap::new(),
        experts: HashMap::new(),
        left_out: Vec::new(),
        metadata: Vec::new(),
        blocks: HashMap::new(),
        is_tied: false,
        slopes: None,
        number: None,
    };
    let said = config.flag(&["tie_word_embeddings"])?;
    let mut all = checkpoint.tensors.iter().flat_map(|names| names.iter());
    let ties = all.any(|names| matches!(names.layout, Layout::AndHeadIfTied(..)));
    let is_tied = said.unwrap_or(ties);
    planner.is_tied = is_tied;
    let scales = scales(tensors, config)?;
    planner.blocks = scales.blocks;
    for (number, tensor) in tensors.iter().enumerate() {
        if scales.other.contains(&number) {
            continue;
        }
        let name = bare(&tensor.name);
        let is_text = |root: &&str| tensor.name.starts_with(root);
        if config.is_wrapped && !text_parts::ROOTS.iter().any(is_text) {
            planner.left_out.push(tensor.name.clone());
            continue;
        }
        let is_other = OTHER_PARTS.iter().any(|part| name.starts_with(part));
        let fit = find(checkpoint, name);
        let is_buffer = BUFFERS.iter().any(|end| tensor.name.ends_with(end));
        match fit {
            None if is_other || is_buffer => planner.left_out.push(tensor.name.clone()),
            None => return Err(ConvertError::UnknownTensor(tensor.name.clone())),
            Some(mut fit) => {
                let beyond = fit.layer.is_some_and(|n| n >= config.n_layers);
                // With tied weights transformers takes the embedding, whatever the file has here.
                let is_head = fit.names.to.trim_end_matches(".weight") == "output";
                let is_copy = is_tied && is_head;
                if beyond || is_copy || fit.names.layout == Layout::Drop {
                    planner.left_out.push(tensor.name.clone());
                } else if fit.names.layout == Layout::Slopes {
                    planner.slopes = Some((fit.names.to, number));
                } else if fit.names.layout == Layout::Number {
                    planner.number = Some((fit.names.to, number));
                } else if fit.names.layout == Layout::Metadata {
                    let layer = fit.layer.unwrap_or_default();
                    planner.metadata.push((fit.names.to.to_owned(), layer, number));
                } else {
                    if let (Some(layer), [_, ..]) = (&mut fit.layer, fit.names.behind) {
                        *layer += config.need(fit.names.behind)? as usize;
                    }
                    planner.place(number, tensor, &fit)?;
                }
            }
        }
    }
    planner.finish()
}

/// A name without its root.
fn bare(name: &str) -> &str {
    ROOTS.iter().find_map(|root| name.strip_prefix(root)).unwrap_or(name)
}

/// Order in which parts of the tensor of this name lie in it.
pub(super) fn join(checkpoint: &Checkpoint, name: &str) -> Join {
    find(checkpoint, bare(name)).map_or(Join::Never, |fit| fit.names.join)
}

/// Whether the matrix of this name is stored with its inputs as rows.
pub(super) fn is_stored_transposed(checkpoint: &Checkpoint, name: &str) -> bool {
    let layout = find(checkpoint, bare(name)).map(|fit| fit.names.layout);
    matches!(layout, Some(Layout::Transposed | Layout::TransposedSplit(_)))
}

fn find<'n>(checkpoint: &'n Checkpoint, name: &str) -> Option<Fit<'n>> {
    let all = checkpoint.tensors.iter().flat_map(|names| names.iter());
    let mut all = all.filter_map(|names| {
        if let Some((layer, expert)) = fits(names.from, name) {
            return Some(Fit { names, layer, expert, suffix: "" });
        }
        [".weight", ".bias"].iter().find_map(|suffix| {
            let (layer, expert) = fits(names.from, name.strip_suffix(suffix)?)?;
            Some(Fit { names, layer, expert, suffix })
        })
    });
    all.next()
}

/// Numbers of a layer and an expert.
type Numbers = (Option<usize>, Option<usize>);

fn fits(pattern: &str, name: &str) -> Option<Numbers> {
    let (mut layer, mut expert) = (None, None);
    let mut words = name.split('.');
    for part in pattern.split('.') {
        let word = words.next()?;
        let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        match part {
            "#" | "@" if !is_number => return None,
            "#" => layer = Some(word.parse().ok()?),
            "@" => expert = Some(word.parse().ok()?),
            part if part != word => return None,
            _ => {}
        }
    }
    words.next().is_none().then_some((layer, expert))
}

struct Planner<'a> {
    config: &'a Config,
    outputs: Vec<Output>,
    /// Place of each output, and the tensor that it is first of.
    places: HashMap<String, (usize, String)>,
    /// Numbers of the experts in each stack, beside its pieces.
    experts: HashMap<String, Vec<usize>>,
    left_out: Vec<String>,
    metadata: Vec<(String, usize, usize)>,
    /// Factors of quantized matrices.
    blocks: HashMap<usize, Blocks>,
    /// Whether the head is the embedding.
    is_tied: bool,
    slopes: Option<(&'static str, usize)>,
    number: Option<(&'static str, usize)>,
}

/// Factors of quantized matrices, and the tensors that are no weights.
struct Scales {
    /// By the matrix that they are of.
    blocks: HashMap<usize, Blocks>,
    /// Places of the factors, and of those for activations.
    other: Vec<usize>,
}

/// Ends of names of factors that stand beside `.weight`.
const SCALES: &[&str] = &["_scale_inv", "_scale"];
/// Ends of names of what belongs to activations and to caches, which are not quantized here.
const ACTIVATIONS: &[&str] = &[
    ".input_scale",
    ".input_scale_ub",
    ".input_global_scale",
    ".input_zero_point",
    ".output_scale",
    ".output_zero_point",
    ".activation_scale",
    ".q_scale",
    ".k_scale",
    ".k_zero_point",
    ".v_scale",
    ".v_zero_point",
    ".kv_scale",
];

fn scales(tensors: &[Tensor], config: &Config) -> Result<Scales, ConvertError> {
    let mut all = Scales { blocks: HashMap::new(), other: Vec::new() };
    let Some(quantization) = config.get("quantization_config") else { return Ok(all) };
    let block = said::block_size(quantization);
    let places: HashMap<&str, usize> =
        tensors.iter().enumerate().map(|(place, t)| (&t.name[..], place)).collect();
    for (number, tensor) in tensors.iter().enumerate() {
        if ACTIVATIONS.iter().any(|end| tensor.name.ends_with(end)) {
            all.other.push(number);
        }
        let weight = SCALES.iter().find_map(|end| tensor.name.strip_suffix(end));
        let Some(&place) = weight.and_then(|name| places.get(name)) else { continue };
        let blocks = Blocks::of(number, &tensors[place], tensor, block)?;
        all.blocks.insert(place, blocks);
        all.other.push(number);
    }
    let is_bare = |(place, tensor): &(usize, &Tensor)| {
        matches!(tensor.dtype, Dtype::F8E4M3 | Dtype::F8E5M2)
            && tensor.shape.len() > 1
            && !all.blocks.contains_key(place)
            && !all.other.contains(place)
    };
    if let Some((_, tensor)) = tensors.iter().enumerate().find(is_bare) {
        return Err(ConvertError::Unpackable {
            tensor: tensor.name.clone(),
            problem: "its factors (`weight_scale`, `weight_scale_inv`) are missing".into(),
        });
    }
    Ok(all)
}

impl Planner<'_> {
    fn place(&mut self, number: usize, tensor: &Tensor, fit: &Fit<'_>) -> Result<(), ConvertError> {
        for (name, shape, piece) in self.lay(number, tensor, fit)? {
            let expert = fit.expert;
            if let Some(&(place, ref first)) = self.places.get(&name) {
                let Some(expert) = expert else {
                    let (first, second) = (first.clone(), tensor.name.clone());
                    return Err(ConvertError::SameName { to: name, first, second });
                };
                let output = &mut self.outputs[place];
                if output.shape.get(1..) != Some(&shape[..]) {
                    let problem = format!("the others are a stack {:?}", output.shape);
                    let (tensor, shape) = (tensor.name.clone(), shape);
                    return Err(ConvertError::Shape { tensor, shape, problem });
                }
                output.shape[0] += 1;
                output.pieces.push(piece);
                self.experts.entry(name).or_default().push(expert);
                continue;
            }
            self.places.insert(name.clone(), (self.outputs.len(), tensor.name.clone()));
            let mut shape = shape;
            if let Some(expert) = expert {
                shape.insert(0, 1);
                self.experts.insert(name.clone(), vec![expert]);
            }
            let (ty, op) = (GgmlType::F32, fit.names.op);
            let pieces = match fit.names.layout {
                Layout::StateRuns(entry) => self.state_runs(entry, &piece),
                Layout::SecondHalvesNegated => self.second_negated(&piece),
                _ => Ok(vec![piece]),
            };
            let pieces = pieces.map_err(|problem| {
                let (tensor, shape) = (tensor.name.clone(), shape.clone());
                ConvertError::Shape { tensor, shape, problem }
            })?;
            self.outputs.push(Output { ty, op, ..Output::laid(name, shape, pieces) });
        }
        Ok(())
    }

    /// Puts experts in order.
    fn finish(mut self) -> Result<Planned, ConvertError> {
        for (name, numbers) in &self.experts {
            let output = &mut self.outputs[self.places[name].0];
            let mut order: Vec<usize> = (0..numbers.len()).collect();
            order.sort_by_key(|&place| numbers[place]);
            if let Some(expert) = (0..order.len()).find(|&n| numbers[order[n]] != n) {
                return Err(ConvertError::MissingExpert { to: name.clone(), expert });
            }
            output.pieces = order.iter().map(|&place| output.pieces[place].clone()).collect();
        }
        let Planner { outputs, left_out, metadata, slopes, number, .. } = self;
        Ok(Planned { outputs, left_out, metadata, slopes, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_whole_words() {
        let layer = |n| Some((Some(n), None));
        assert_eq!(fits("layers.#.mlp.up_proj", "layers.12.mlp.up_proj"), layer(12));
        assert_eq!(fits("layers.#.e.@.w1", "layers.1.e.7.w1"), Some((Some(1), Some(7))));
        for name in ["layers.x.mlp.up_proj", "layers.1.mlp", "layers.1.mlp.up_proj.weight"] {
            assert_eq!(fits("layers.#.mlp.up_proj", name), None, "{name}");
        }
        assert_eq!(bare("model.language_model.norm.weight"), "norm.weight");
        assert_eq!(bare("lm_head.weight"), "lm_head.weight");
    }
}
