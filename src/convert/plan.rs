//! Every tensor of a checkpoint gets its place in GGUF, or the conversion fails naming it.
//!
//! A tensor of the result is a list of [`Piece`]s: rows and columns picked from tensors of the
//! checkpoint, each seen as a stack of matrices that may be transposed. Nothing is read here.

use super::config::Config;
use super::safetensors::Tensor;
use super::vocab::TOKENS_MAX;
use super::{ConvertError, TargetType};
use crate::model::checkpoint::{
    BUFFERS, Checkpoint, Layout, Names, OTHER_PARTS, Op, PerHead, Rows,
};
use gguf_rs_lite::GgmlType;
use serde_json::Value;
use std::collections::HashMap;

/// Beginnings of names that say in which part of a class a tensor is, longest first; they are left
/// out of patterns.
const ROOTS: &[&str] = &[
    "model.language_model.model.",
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

/// Elements of a vector that says which rows are picked: more rows than any matrix has.
const PICK_MAX: u64 = 1 << 28;

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
}

impl Output {
    /// A vector of computed numbers.
    pub(super) fn computed(name: &str, values: Vec<f32>) -> Output {
        let shape = vec![values.len() as u64];
        let (pieces, values) = (Vec::new(), Some(values));
        Output { name: name.into(), ty: GgmlType::F32, shape, pieces, op: Op::Same, values }
    }

    /// A tensor of these pieces, its type still to be chosen.
    pub(super) fn laid(name: String, shape: Vec<u64>, pieces: Vec<Piece>) -> Output {
        Output { name, ty: GgmlType::F32, shape, pieces, op: Op::Same, values: None }
    }

    /// Dimensions in GGUF's order.
    pub fn dims(&self) -> Vec<u64> {
        let dims: Vec<u64> = self.shape.iter().rev().copied().collect();
        if dims.is_empty() { vec![1] } else { dims }
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
            [_, _] => block.ok_or_else(|| bad("blocks of unknown size"))?,
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
    };
    let is_tied = config.flag(&["tie_word_embeddings"])? == Some(true);
    let scales = scales(tensors, config)?;
    planner.blocks = scales.blocks;
    for (number, tensor) in tensors.iter().enumerate() {
        if scales.other.contains(&number) {
            continue;
        }
        let name = bare(&tensor.name);
        let is_other = OTHER_PARTS.iter().any(|part| name.starts_with(part));
        let fit = find(checkpoint, name);
        let is_buffer = BUFFERS.iter().any(|end| tensor.name.ends_with(end));
        match fit {
            None if is_other || is_buffer => planner.left_out.push(tensor.name.clone()),
            None => return Err(ConvertError::UnknownTensor(tensor.name.clone())),
            Some(fit) => {
                let beyond = fit.layer.is_some_and(|n| n >= config.n_layers);
                // With tied weights transformers takes the embedding, whatever the file has here.
                let is_copy = is_tied && fit.names.to == "output";
                if beyond || is_copy || fit.names.layout == Layout::Drop {
                    planner.left_out.push(tensor.name.clone());
                } else if fit.names.layout == Layout::Metadata {
                    let layer = fit.layer.unwrap_or_default();
                    planner.metadata.push((fit.names.to.to_owned(), layer, number));
                } else {
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
/// Ends of names of factors of activations, which are not quantized here.
const ACTIVATIONS: &[&str] = &[".input_scale", ".output_scale", ".activation_scale"];

fn scales(tensors: &[Tensor], config: &Config) -> Result<Scales, ConvertError> {
    let mut all = Scales { blocks: HashMap::new(), other: Vec::new() };
    let Some(quantization) = config.get("quantization_config") else { return Ok(all) };
    let block = block_size(quantization);
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
    Ok(all)
}

/// Rows and columns of a block, where the configuration says so.
fn block_size(quantization: &Value) -> Option<[u64; 2]> {
    let pair = |value: &Value| -> Option<[u64; 2]> {
        Some([value.get(0)?.as_u64()?, value.get(1)?.as_u64()?])
    };
    let own = quantization.get("weight_block_size").and_then(pair);
    let groups = quantization.get("config_groups").and_then(Value::as_object);
    let mut groups = groups
        .into_iter()
        .flatten()
        .filter_map(|(_, group)| group.pointer("/weights/block_structure").and_then(pair));
    own.or_else(|| groups.next())
}

/// Dimensions and a piece of one of the tensors that a tensor becomes.
type Part = (String, Vec<u64>, Piece);

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
                Layout::StateRuns(entry) => self.state_runs(entry, &piece).map_err(|problem| {
                    let (tensor, shape) = (tensor.name.clone(), shape.clone());
                    ConvertError::Shape { tensor, shape, problem }
                })?,
                _ => vec![piece],
            };
            self.outputs.push(Output { name, ty, shape, pieces, op, values: None });
        }
        Ok(())
    }

    /// The tensors that one becomes.
    fn lay(
        &self,
        number: usize,
        tensor: &Tensor,
        fit: &Fit<'_>,
    ) -> Result<Vec<Part>, ConvertError> {
        let shape = &tensor.shape;
        let bad = |problem: String| ConvertError::Shape {
            tensor: tensor.name.clone(),
            shape: shape.clone(),
            problem,
        };
        let view = view(shape);
        if view.iter().any(|&n| n > PICK_MAX) || shape.contains(&0) {
            return Err(bad("no tensor of a model".into()));
        }
        let mut scale = 1.0;
        for &entry in fit.names.scales {
            scale *= self.config.float(&[entry])?.unwrap_or(1.0) as f32;
        }
        let blocks = self.blocks.get(&number).copied();
        if blocks.is_none() && !tensor.dtype.is_float() {
            return Err(ConvertError::Type {
                tensor: tensor.name.clone(),
                ty: format!("{:?}", tensor.dtype),
                problem: "no type of weights",
            });
        }
        let piece = Piece { scale, blocks, ..Piece::whole(number, view) };
        let name = fit.name(fit.names.to) + fit.suffix;
        let one = |shape: Vec<u64>, piece: Piece| Ok(vec![(name.clone(), shape, piece)]);
        let rows = view[1];
        match fit.names.layout {
            Layout::Same | Layout::Drop | Layout::Metadata | Layout::StateRuns(_) => {
                one(shape.clone(), piece)
            }
            Layout::GroupsPaired => self.groups_paired(fit, shape, piece).map_err(bad),
            Layout::Stacked(names) | Layout::StackedTransposed(names) => {
                let n = self.config.need(names)?;
                if shape.len() != 2 || n == 0 || !rows.is_multiple_of(n) {
                    return Err(bad(format!("not a stack of {n} matrices")));
                }
                let view = [n, rows / n, view[2]];
                let transposed = matches!(fit.names.layout, Layout::StackedTransposed(_));
                let piece = Piece { view, transposed, ..piece };
                one(vec![n, piece.rows(), piece.cols()], piece)
            }
            Layout::BehindPadding => {
                let start = self.config.need(&["pad_token_id"])? + 1;
                if shape.len() != 2 || rows <= start {
                    return Err(bad(format!("no positions from {start}")));
                }
                let pick = Some((start as u32..rows as u32).collect());
                one(vec![rows - start, shape[1]], Piece { pick, ..piece })
            }
            Layout::Squeezed => one(squeezed(shape), piece),
            Layout::Column => one([&squeezed(shape)[..], &[1]].concat(), piece),
            Layout::Groups => {
                let groups = self.config.int(&["n_groups", "mamba_n_groups"])?.unwrap_or(1).max(1);
                if shape.len() != 1 || !shape[0].is_multiple_of(groups) {
                    return Err(bad(format!("not a vector of {groups} groups")));
                }
                one(vec![groups, shape[0] / groups], piece)
            }
            Layout::Transposed if shape.len() < 2 => one(shape.clone(), piece),
            Layout::Transposed => {
                let mut turned = shape.clone();
                let n = turned.len();
                turned.swap(n - 1, n - 2);
                one(turned, Piece { transposed: true, ..piece })
            }
            Layout::PairQ | Layout::PairK => {
                let is_q = fit.names.layout == Layout::PairQ;
                let heads = if is_q { self.config.heads()? } else { self.config.kv_heads()? };
                let pick = pairs(rows, heads).map_err(bad)?;
                one(shape.clone(), Piece { pick: Some(pick), ..piece })
            }
            Layout::PairQkv => {
                let [q, k, _] = self.qkv_rows(rows).map_err(&bad)?;
                let (heads, kv_heads) = (self.config.heads()?, self.config.kv_heads()?);
                let mut pick = pairs(q, heads).map_err(&bad)?;
                let keys = pairs(k, kv_heads).map_err(&bad)?;
                pick.extend(keys.into_iter().map(|row| row + q as u32));
                pick.extend((q + k) as u32..rows as u32);
                one(shape.clone(), Piece { pick: Some(pick), ..piece })
            }
            Layout::HeadsQkv => {
                let heads = self.config.heads()?;
                let pick = groups(rows, heads, 1).map_err(bad)?;
                one(shape.clone(), Piece { pick: Some(pick), ..piece })
            }
            Layout::GroupsQkv => {
                let (heads, kv_heads) = (self.config.heads()?, self.config.kv_heads()?);
                let pick = groups(rows, kv_heads, heads / kv_heads.max(1)).map_err(bad)?;
                one(shape.clone(), Piece { pick: Some(pick), ..piece })
            }
            Layout::Split(parts) => self.split(parts, fit, shape, piece).map_err(bad),
            Layout::ForAllTokens => {
                let n = self.config.need(&["vocab_size"])?;
                if shape.len() != 2 || n > TOKENS_MAX as u64 {
                    return Err(bad(format!("no table of {n} tokens")));
                }
                let pick =
                    (0..n.max(rows) as u32).map(|row| if row < rows as u32 { row } else { 0 });
                one(vec![n.max(rows), shape[1]], Piece { pick: Some(pick.collect()), ..piece })
            }
            Layout::SplitByColumns(entries, parts) if view[2] == self.config.need(entries)? => {
                self.split(parts, fit, shape, piece).map_err(bad)
            }
            Layout::TransposedSplit(parts) | Layout::SplitByColumns(_, parts) => {
                if shape.len() < 2 {
                    return Err(bad("not a matrix".into()));
                }
                let mut turned = shape.clone();
                let n = turned.len();
                turned.swap(n - 1, n - 2);
                let piece = Piece { transposed: true, ..piece };
                self.split(parts, fit, &turned, piece).map_err(bad)
            }
            Layout::SplitColumns(parts) => parts
                .iter()
                .map(|&(to, part)| {
                    let columns = self.part(part, view[2]).map_err(&bad)?;
                    let mut shape = shape.clone();
                    *shape.last_mut().expect("not empty") = columns.len() as u64;
                    let piece = Piece { columns: Some(columns), ..piece.clone() };
                    Ok((fit.name(to), shape, piece))
                })
                .collect(),
            Layout::TiledRows(_) | Layout::TiledBehindKeys | Layout::TiledColumns => {
                self.tile(fit.names.layout, shape, piece).map_err(bad).and_then(|(s, p)| one(s, p))
            }
            Layout::DeltaQkvz => self.delta_qkvz(fit, shape, piece).map_err(bad),
        }
    }

    /// Rows of queries, keys and values in a fused matrix.
    fn qkv_rows(&self, rows: u64) -> Result<[u64; 3], String> {
        let sizes = || -> Result<[u64; 3], ConvertError> {
            let (d, kv) = (self.config.head_dim()?, self.config.kv_heads()?);
            Ok([self.config.heads()? * d, kv * d, kv * d])
        };
        let sizes = sizes().map_err(|error| error.to_string())?;
        match sizes.iter().sum::<u64>() == rows {
            true => Ok(sizes),
            false => Err(format!("not the rows {sizes:?} of queries, keys and values")),
        }
    }

    /// Numbers of the rows of a part.
    fn part(&self, part: Rows, rows: u64) -> Result<Vec<u32>, String> {
        let run = |from: u64, to: u64| Ok((from as u32..to as u32).collect());
        let even = || {
            if rows.is_multiple_of(2) { Ok(()) } else { Err("an odd number of rows".to_owned()) }
        };
        match part {
            Rows::All => run(0, rows),
            Rows::Queries => self.qkv_rows(rows).and_then(|[q, ..]| run(0, q)),
            Rows::Keys => self.qkv_rows(rows).and_then(|[q, k, _]| run(q, q + k)),
            Rows::Values => self.qkv_rows(rows).and_then(|[q, k, v]| run(q + k, q + k + v)),
            Rows::FirstHalf => even().and_then(|()| run(0, rows / 2)),
            Rows::SecondHalf => even().and_then(|()| run(rows / 2, rows)),
            Rows::Even => even().map(|()| (0..rows as u32).step_by(2).collect()),
            Rows::Odd => even().map(|()| (1..rows as u32).step_by(2).collect()),
            Rows::PairedQueries | Rows::PairedKeys => {
                let is_q = part == Rows::PairedQueries;
                let run = self.part(if is_q { Rows::Queries } else { Rows::Keys }, rows)?;
                let heads = if is_q { self.config.heads() } else { self.config.kv_heads() };
                let heads = heads.map_err(|error| error.to_string())?;
                let order = pairs(run.len() as u64, heads)?;
                Ok(order.into_iter().map(|place| run[place as usize]).collect())
            }
            Rows::LatentKeys | Rows::LatentValues => Err("not a part of rows".into()),
        }
    }

    fn split(
        &self,
        parts: &[(&str, Rows)],
        fit: &Fit<'_>,
        shape: &[u64],
        piece: Piece,
    ) -> Result<Vec<Part>, String> {
        let (mats, rows) = (piece.view[0], piece.rows());
        let row_dim = if shape.len() == 1 { 0 } else { shape.len() - 2 };
        let mut all = Vec::new();
        for &(to, part) in parts {
            let name = fit.name(to);
            // A pattern with its own suffix is a whole name.
            let is_whole = name.ends_with(".weight") || name.ends_with(".bias");
            let name = if is_whole { name } else { name + fit.suffix };
            if matches!(part, Rows::LatentKeys | Rows::LatentValues) {
                let (shape, piece) = self.latent(part, piece.clone())?;
                all.push((name, shape, piece));
                continue;
            }
            let of_one = self.part(part, rows)?;
            let mut shape = shape.to_vec();
            shape[row_dim] = of_one.len() as u64;
            let mat = |mat: u64| of_one.iter().map(move |&row| row + (mat * rows) as u32);
            let pick = (0..mats).flat_map(mat).collect();
            all.push((name, shape, Piece { pick: Some(pick), ..piece.clone() }));
        }
        Ok(all)
    }

    /// Queries, keys and values by key head, as three tensors.
    fn groups_paired(
        &self,
        fit: &Fit<'_>,
        shape: &[u64],
        piece: Piece,
    ) -> Result<Vec<Part>, String> {
        let counts = || Ok::<_, ConvertError>([self.config.heads()?, self.config.kv_heads()?]);
        let [heads, kv] = counts().map_err(|error| error.to_string())?;
        let order = groups(piece.view[1], kv, heads / kv.max(1))?;
        let d = piece.view[1] / (heads + 2 * kv);
        let (q, k) = ((heads * d) as usize, (kv * d) as usize);
        let paired = |rows: &[u32], heads| -> Result<Vec<u32>, String> {
            Ok(pairs(rows.len() as u64, heads)?.into_iter().map(|i| rows[i as usize]).collect())
        };
        let parts = [
            ("blk.#.attn_q", paired(&order[..q], heads)?),
            ("blk.#.attn_k", paired(&order[q..q + k], kv)?),
            ("blk.#.attn_v", order[q + k..].to_vec()),
        ];
        let part = |(name, pick): (&str, Vec<u32>)| {
            let mut shape = shape.to_vec();
            shape[0] = pick.len() as u64;
            (fit.name(name) + fit.suffix, shape, Piece { pick: Some(pick), ..piece.clone() })
        };
        Ok(parts.into_iter().map(part).collect())
    }

    /// A state space's input, run by run.
    fn state_runs(&self, entry: &str, piece: &Piece) -> Result<Vec<Piece>, String> {
        let sizes = || -> Result<[u64; 5], ConvertError> {
            let inner = self.config.need(&["mamba_d_ssm"])?;
            let states = self.config.need(&["mamba_d_state"])?;
            let states = self.config.need(&["mamba_n_groups"])? * states;
            Ok([inner, inner, states, states, self.config.need(&["mamba_n_heads"])?])
        };
        let sizes = sizes().map_err(|error| error.to_string())?;
        if sizes.iter().sum::<u64>() != piece.view[1] {
            return Err(format!("not the rows {sizes:?} of a state space's input"));
        }
        let mut start = 0;
        let run = |(i, n): (usize, u64)| {
            let entry = format!("{entry}.{i}");
            let scale = self.config.float(&[&entry]).map_err(|error| error.to_string())?;
            let pick = Some((start as u32..(start + n) as u32).collect());
            start += n;
            let scale = piece.scale * scale.unwrap_or(1.0) as f32;
            Ok(Piece { pick, scale, ..piece.clone() })
        };
        sizes.into_iter().enumerate().map(run).collect()
    }

    /// A part of the matrix that gives heads their keys and values from latents.
    fn latent(&self, part: Rows, piece: Piece) -> Result<(Vec<u64>, Piece), String> {
        let sizes = || -> Result<[u64; 3], ConvertError> {
            let (heads, kv) = (self.config.heads()?, self.config.kv_heads()?);
            let nope = self.config.need(&["qk_nope_head_dim"])?;
            Ok([heads.min(kv), nope, self.config.need(&["v_head_dim"])?])
        };
        let [heads, nope, v] = sizes().map_err(|error| error.to_string())?;
        let [_, rows, rank] = piece.view;
        if rows != heads * (nope + v) {
            return Err(format!("not {heads} heads of {nope} + {v} rows"));
        }
        let view = [heads, nope + v, rank];
        if part == Rows::LatentKeys {
            let columns = Some((0..nope as u32).collect());
            let piece = Piece { view, transposed: true, columns, ..piece };
            return Ok((vec![heads, rank, nope], piece));
        }
        let head = |h: u64| (h * (nope + v) + nope) as u32..((h + 1) * (nope + v)) as u32;
        let pick = Some((0..heads).flat_map(head).collect());
        Ok((vec![heads, v, rank], Piece { view, pick, ..piece }))
    }

    /// Key heads, values of each, dimensions of a key and a value: of a delta rule.
    fn delta(&self) -> Result<[u64; 4], String> {
        let sizes = || -> Result<[u64; 4], ConvertError> {
            let keys = self.config.need(&["linear_num_key_heads"])?.max(1);
            let values = self.config.need(&["linear_num_value_heads"])?;
            let (dk, dv) = (&["linear_key_head_dim"], &["linear_value_head_dim"]);
            Ok([keys, values / keys, self.config.need(dk)?, self.config.need(dv)?])
        };
        sizes().map_err(|error| error.to_string())
    }

    fn tile(
        &self,
        layout: Layout,
        shape: &[u64],
        piece: Piece,
    ) -> Result<(Vec<u64>, Piece), String> {
        let [keys, each, dk, dv] = self.delta()?;
        let tiles = |d: u64, from: u64| -> Vec<u32> {
            let head = |j: u64, g: u64| (0..d).map(move |i| (from + (g * each + j) * d + i) as u32);
            (0..each).flat_map(|j| (0..keys).flat_map(move |g| head(j, g))).collect()
        };
        let check = |n: u64, wanted: u64| match n == wanted {
            true => Ok(()),
            false => Err(format!("{wanted} expected for {keys} key heads of {each} values")),
        };
        let shape = squeezed(shape);
        let piece = Piece { view: view(&shape), ..piece };
        let rows = piece.view[1];
        match layout {
            Layout::TiledColumns => {
                check(piece.view[2], keys * each * dv)?;
                Ok((shape, Piece { columns: Some(tiles(dv, 0)), ..piece }))
            }
            Layout::TiledBehindKeys => {
                let before = 2 * keys * dk;
                check(rows, before + keys * each * dv)?;
                let mut pick: Vec<u32> = (0..before as u32).collect();
                pick.extend(tiles(dv, before));
                Ok((shape, Piece { pick: Some(pick), ..piece }))
            }
            layout => {
                let d = if layout == Layout::TiledRows(PerHead::One) { 1 } else { dv };
                check(rows, keys * each * d)?;
                Ok((shape, Piece { pick: Some(tiles(d, 0)), ..piece }))
            }
        }
    }

    fn delta_qkvz(&self, fit: &Fit<'_>, shape: &[u64], piece: Piece) -> Result<Vec<Part>, String> {
        let [keys, each, dk, dv] = self.delta()?;
        let head = 2 * dk + 2 * each * dv;
        if shape.len() != 2 || shape[0] != keys * head {
            return Err(format!("not {keys} heads of {head} rows"));
        }
        let run = |from: u64, n: u64| {
            (0..keys).flat_map(move |g| (g * head + from) as u32..(g * head + from + n) as u32)
        };
        let qkv: Vec<u32> = run(0, dk).chain(run(dk, dk)).chain(run(2 * dk, each * dv)).collect();
        let gate: Vec<u32> = run(2 * dk + each * dv, each * dv).collect();
        let part = |name: &str, pick: Vec<u32>| {
            let shape = vec![pick.len() as u64, shape[1]];
            (fit.name(name) + fit.suffix, shape, Piece { pick: Some(pick), ..piece.clone() })
        };
        Ok(vec![part("blk.#.attn_qkv", qkv), part("blk.#.attn_gate", gate)])
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
        let Planner { outputs, left_out, metadata, .. } = self;
        Ok(Planned { outputs, left_out, metadata })
    }
}

/// A tensor as matrices, rows and columns; a vector is a column.
fn view(shape: &[u64]) -> [u64; 3] {
    match *shape {
        [] => [1, 1, 1],
        [n] => [1, n, 1],
        [.., rows, cols] => [shape[..shape.len() - 2].iter().product::<u64>().max(1), rows, cols],
    }
}

fn squeezed(shape: &[u64]) -> Vec<u64> {
    shape.iter().copied().filter(|&n| n != 1).collect()
}

/// Rows of heads from two halves to pairs.
fn pairs(rows: u64, heads: u64) -> Result<Vec<u32>, String> {
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        return Err(format!("no {heads} heads of an even number of rows"));
    }
    let d = rows / heads;
    let head = |h: u64| (0..d).map(move |i| (h * d + i % 2 * (d / 2) + i / 2) as u32);
    Ok((0..heads).flat_map(head).collect())
}

/// Rows of `groups` of queries, a key and a value: all queries, then all keys, then all values.
fn groups(rows: u64, groups: u64, queries: u64) -> Result<Vec<u32>, String> {
    let heads = queries + 2;
    if groups == 0 || !rows.is_multiple_of(groups * heads) {
        return Err(format!("no {groups} groups of {queries} queries, a key and a value"));
    }
    let d = rows / (groups * heads);
    let run = |from: u64, n: u64| {
        let start = move |g: u64| (g * heads + from) * d;
        (0..groups).flat_map(move |g| start(g) as u32..(start(g) + n * d) as u32)
    };
    Ok(run(0, queries).chain(run(queries, 1)).chain(run(queries + 1, 1)).collect())
}

/// Ends of names of matrices that stay in f32, as the reference has it.
const PLAIN: &[&str] = &[
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d.weight",
    "ssm_conv1d_q.weight",
    "ssm_conv1d_k.weight",
    "ssm_conv1d_v.weight",
    "shortconv.conv.weight",
    "indexer.proj.weight",
    "altup_correct_coef.weight",
    "altup_predict_coef.weight",
];

/// Gives every tensor its type: vectors, norms and small matrices that decide stay in f32.
pub(super) fn choose_types(outputs: &mut [Output], target: TargetType) {
    for output in outputs {
        let is_plain = output.shape.len() <= 1
            || output.name.ends_with("_norm.weight")
            || !output.name.ends_with(".weight")
            || PLAIN.iter().any(|end| output.name.ends_with(end));
        let cols = output.shape.last().copied().unwrap_or(1);
        output.ty = if is_plain { GgmlType::F32 } else { type_of_rows(target, cols) };
    }
}

/// The type of matrices with so many columns.
pub(super) fn type_of_rows(target: TargetType, columns: u64) -> GgmlType {
    match target {
        // As in the reference: rows that blocks do not divide.
        TargetType::Q8_0 if !columns.is_multiple_of(32) => GgmlType::F16,
        TargetType::Q8_0 => GgmlType::Q8_0,
        TargetType::F16 => GgmlType::F16,
        TargetType::Bf16 => GgmlType::BF16,
        TargetType::F32 => GgmlType::F32,
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

    #[test]
    fn heads_are_laid_anew() {
        assert_eq!(pairs(8, 2), Ok(vec![0, 2, 1, 3, 4, 6, 5, 7]));
        assert!(pairs(6, 2).is_err());
        // Two heads of [q, k, v] with two dimensions each.
        assert_eq!(groups(12, 2, 1), Ok(vec![0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]));
        // One key head with two queries.
        assert_eq!(groups(4, 1, 2), Ok(vec![0, 1, 2, 3]));
    }
}
