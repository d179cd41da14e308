//! The tensors of the result that one of the checkpoint becomes, by its layout: rows and columns picked
//! anew.

use super::heads::{groups, pairs, pairs_of_half, untiled};
use super::{Fit, Piece, Planner};
use crate::convert::ConvertError;
use crate::convert::safetensors::Tensor;
use crate::convert::vocab::TOKENS_MAX;
use crate::model::checkpoint::{Layout, PerHead, Rows};

/// Elements of a vector that says which rows are picked: more rows than any matrix has.
const PICK_MAX: u64 = 1 << 28;

/// Dimensions and a piece of one of the tensors that a tensor becomes.
type Part = (String, Vec<u64>, Piece);

impl Planner<'_> {
    /// The tensors that one becomes.
    pub(super) fn lay(
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
        let scale = self.factor(fit.names.scales)?;
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
            Layout::Same
            | Layout::Drop
            | Layout::Metadata
            | Layout::Slopes
            | Layout::Number
            | Layout::SecondHalvesNegated
            | Layout::StateRuns(_) => one(shape.clone(), piece),
            Layout::AndHeadIfTied(to, entries) => {
                let mut parts = one(shape.clone(), piece.clone())?;
                if self.is_tied {
                    let piece = Piece { scale: self.factor(entries)?, ..piece };
                    parts.push((to.to_owned() + fit.suffix, shape.clone(), piece));
                }
                Ok(parts)
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
            Layout::PairHeads => {
                let pick = pairs(rows, rows / self.config.head_dim()?.max(1)).map_err(bad)?;
                one(shape.clone(), Piece { pick: Some(pick), ..piece })
            }
            Layout::PairHalfQ | Layout::PairHalfK => {
                let is_q = fit.names.layout == Layout::PairHalfQ;
                let heads = if is_q { self.config.heads()? } else { self.config.kv_heads()? };
                let pick = pairs_of_half(rows, heads).map_err(bad)?;
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
            Layout::RowsOfTokens(tokens) => {
                let (shape, piece) = self.rows_of(tokens, shape, piece)?;
                one(shape, piece)
            }
            Layout::AndRowsIfTied(to, tokens) => {
                let mut parts = one(shape.clone(), piece.clone())?;
                if self.config.flag(&["tie_word_embeddings"])? == Some(true) {
                    let (shape, piece) = self.rows_of(tokens, shape, piece)?;
                    parts.push((to.to_owned(), shape, piece));
                }
                Ok(parts)
            }
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
            Layout::UntiledRows(entry, default) => {
                let pick = self.untiled(entry, default, rows).map_err(bad)?;
                one(shape.clone(), Piece { pick: Some(pick), ..piece })
            }
            Layout::UntiledColumns(entry, default) => {
                let columns = self.untiled(entry, default, view[2]).map_err(bad)?;
                one(shape.clone(), Piece { columns: Some(columns), ..piece })
            }
            Layout::AtGroupEnds(entry, to) => {
                let is_end = self.config.ends_group(fit.layer.unwrap_or_default(), entry)?;
                let name = if is_end { fit.name(to) + fit.suffix } else { name };
                Ok(vec![(name, shape.clone(), piece)])
            }
            Layout::DeltaQkvz => self.delta_qkvz(fit, shape, piece).map_err(bad),
        }
    }

    /// Product of entries; those that are not there count as 1.
    fn factor(&self, entries: &[&str]) -> Result<f32, ConvertError> {
        entries.iter().try_fold(1.0, |product, entry| {
            Ok(product * self.config.float(&[entry])?.unwrap_or(1.0) as f32)
        })
    }

    /// [`untiled`] by the configuration.
    fn untiled(&self, entry: &str, default: u64, rows: u64) -> Result<Vec<u32>, String> {
        let counts = || -> Result<[u64; 2], ConvertError> {
            Ok([self.config.heads()?, self.config.int(&[entry])?.unwrap_or(default)])
        };
        let [heads, each] = counts().map_err(|error| error.to_string())?;
        untiled(rows, heads, each)
    }

    /// Rows of tokens of a matrix that has one for each.
    fn rows_of(
        &self,
        tokens: &[&str],
        shape: &[u64],
        piece: Piece,
    ) -> Result<(Vec<u64>, Piece), ConvertError> {
        let ids = tokens.iter().map(|token| self.config.token_id(token));
        let pick = ids.collect::<Result<Vec<u32>, ConvertError>>()?;
        match shape {
            &[rows, cols] if pick.iter().all(|&id| u64::from(id) < rows) => {
                Ok((vec![pick.len() as u64, cols], Piece { pick: Some(pick), ..piece }))
            }
            _ => Err(ConvertError::Vocabulary(format!("no rows of the tokens {tokens:?}"))),
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
            Rows::Quarter(n) if rows.is_multiple_of(4) => {
                run(rows / 4 * u64::from(n), rows / 4 * (u64::from(n) + 1))
            }
            Rows::Quarter(_) => Err("not four equal runs of rows".into()),
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
    pub(super) fn state_runs(&self, entry: &str, piece: &Piece) -> Result<Vec<Piece>, String> {
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

    /// Halves of heads, those that are second negated.
    pub(super) fn second_negated(&self, piece: &Piece) -> Result<Vec<Piece>, String> {
        let d = self.config.head_dim().map_err(|error| error.to_string())?;
        let rows = piece.view[1];
        if d == 0 || !d.is_multiple_of(2) || !rows.is_multiple_of(d) {
            return Err(format!("no heads of two halves of {d} rows"));
        }
        let half = d / 2;
        let of = |i: u64| {
            let scale = if i.is_multiple_of(2) { piece.scale } else { -piece.scale };
            let pick = Some(((i * half) as u32..((i + 1) * half) as u32).collect());
            Piece { pick, scale, ..piece.clone() }
        };
        Ok((0..rows / half).map(of).collect())
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
