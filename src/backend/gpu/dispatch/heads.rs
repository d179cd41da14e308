//! Norms and rotation of heads, their way to the cache, and attention.

use super::{
    Bound, Builder, GROUPS_FROM, Grid, Kernel, Segments, Shape, head_segment, norm_kind, outputs,
};
use crate::backend::gpu::pages::page_words;
use crate::backend::gpu::shader::{Form, SHARED_HEADS, Shader};
use crate::backend::gpu::submission::Work;
use crate::backend::program::{Attention, HeadNorm, RopeKv, Tokens};
use teff_kernels::RopePairing;

/// A head's norm as `rope.wgsl` takes it: kind, weight, bias, segment; and the epsilon.
type NormParams = ([u32; 4], f32);

impl Builder<'_> {
    pub(super) fn rope_kv(&mut self, op: &RopeKv) {
        let shape = self.program.kv[op.layer];
        let q_len = op.n_heads * shape.k_dim;
        let k_len = if op.stores { shape.n_kv_heads * shape.k_dim } else { 0 };
        // Norms of more or fewer elements than a head has come before, in a dispatch of their own.
        let q_norm = self.norm_apart(op, op.q_norm.as_ref(), [0, q_len], shape.k_dim);
        let k_norm = self.norm_apart(op, op.k_norm.as_ref(), [q_len, k_len], shape.k_dim);
        let v_len = shape.n_kv_heads * shape.v_dim;
        let v_norm = op.v_norm.as_ref().filter(|_| op.stores);
        let v_norm = self.norm_apart(op, v_norm, [q_len + k_len, v_len], shape.v_dim);
        let mut params = vec![
            op.n_heads as u32,
            if op.stores { shape.n_kv_heads as u32 } else { 0 },
            shape.k_dim as u32,
            shape.v_dim as u32,
            self.width(op.qkv) as u32,
            self.group_word(op.layer),
            page_words(&shape, self.shape.kv) as u32,
            u32::from(op.stores),
        ];
        let norms = [q_norm, k_norm, v_norm].map(|norm| self.norm_params(norm));
        norms.iter().for_each(|(words, _)| params.extend(words));
        let (n_pairs, neox, angles) = match op.rope {
            None => (0, 0, 0),
            Some((rope, pairing)) => {
                let before = self.program.ropes[..rope.0].iter();
                let first: usize = before.map(|rope| 2 * rope.inv_freq.len()).sum();
                let n_pairs = self.program.ropes[rope.0].inv_freq.len();
                let neox = u32::from(pairing == RopePairing::Neox);
                (n_pairs as u32, neox, (first * self.shape.max_tokens) as u32)
            }
        };
        params.extend([u32::from(op.norm_after_rope), n_pairs, op.rope_from as u32, neox, angles]);
        params.push(op.temperature.map_or(0, |t| t.period));
        let clamp = op.clamp.unwrap_or(0.0);
        let floats = [op.temperature.map_or(0.0, |t| t.scale), clamp, norms[0].1, norms[1].1];
        params.extend(floats.map(f32::to_bits));
        params.push(norms[2].1.to_bits());
        let n = op.n_heads + if op.stores { 2 * shape.n_kv_heads } else { 0 };
        let shader = Shader::Rope { kv: self.shape.kv, head_max: self.shape.head_max };
        let buffers = vec![Bound::Angles, Bound::Buf(op.qkv), Bound::Pages(op.layer)];
        let grid = Grid::Rows { x: n as u32, per_token: 1 };
        self.push(Kernel::One(shader), params, buffers, grid, Tokens::All);
    }

    /// A norm that is one of heads of `dim` elements; any other is taken in place here.
    fn norm_apart<'n>(
        &mut self,
        op: &RopeKv,
        norm: Option<&'n HeadNorm>,
        [from, len]: [usize; 2],
        dim: usize,
    ) -> Option<&'n HeadNorm> {
        let norm = norm?;
        if norm.dim == dim {
            return Some(norm);
        }
        let segments = Segments {
            n: len / norm.dim,
            from: (from, norm.dim),
            to: (from, norm.dim),
            norm: Some(&norm.norm),
            weight_segment: head_segment(norm),
            ..Segments::row(norm.dim)
        };
        if segments.n > 0 {
            self.segments_in_place(op.qkv, segments, Tokens::All);
        }
        None
    }

    fn norm_params(&mut self, norm: Option<&HeadNorm>) -> NormParams {
        let [weight, bias] = self.norm_constants(norm.map(|norm| &norm.norm));
        let kind = norm_kind(norm.map(|norm| &norm.norm));
        let segment = norm.map_or(0, head_segment);
        ([kind, weight, bias, segment as u32], norm.map_or(0.0, |norm| norm.norm.eps))
    }

    /// Word of the step's header that says where the part of a layer's group lies.
    fn group_word(&self, layer: usize) -> u32 {
        let of_layer = self.groups.iter().position(|group| group.layers.contains(&layer));
        (GROUPS_FROM + of_layer.expect("every layer is in a group")) as u32
    }

    pub(super) fn attention(&mut self, op: &Attention) {
        let shape = self.program.kv[op.layer];
        let slopes = self.constant(op.slopes.as_deref());
        let sinks = self.constant(op.sinks.as_deref());
        let params = vec![
            outputs(op.rows),
            op.n_heads as u32,
            (op.n_heads / shape.n_kv_heads) as u32,
            shape.n_kv_heads as u32,
            shape.k_dim as u32,
            shape.v_dim as u32,
            self.width(op.qkv) as u32,
            self.group_word(op.layer),
            page_words(&shape, self.shape.kv) as u32,
            slopes,
            sinks,
            op.scale.to_bits(),
            op.softcap.unwrap_or(0.0).to_bits(),
        ];
        let Shape { kv, head_max, form, .. } = self.shape;
        let (shader, n_groups) = match form {
            Form::Plain | Form::Subgroups(_) => (Shader::Attention { kv, head_max }, op.n_heads),
            Form::Lanes(_) => {
                let of_each = (op.n_heads / shape.n_kv_heads).div_ceil(SHARED_HEADS);
                (Shader::HeadGroups { kv, head_max }, shape.n_kv_heads * of_each)
            }
        };
        let buffers = vec![Bound::Pages(op.layer), Bound::Buf(op.qkv), Bound::Buf(op.out)];
        let grid = Grid::Rows { x: n_groups as u32, per_token: 1 };
        self.push(Kernel::One(shader), params, buffers, grid, op.rows);
        self.set_work(Work::PerKey((op.n_heads * (shape.k_dim + shape.v_dim)) as u64));
    }
}
