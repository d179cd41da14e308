//! Norms and rotation of queries and keys, and the write of keys and values to the cache.
//!
//! An item is a token: its row of the buffer is changed in place, its keys and values are copied to
//! its place in the pages. For many tokens a ticket is a page, so that each page has one writer.

use super::pages::WriteScratch;
use super::pool::{Phase, Ticket};
use super::{Context, WorkerScratch};
use crate::backend::pages::PAGE_TOKENS;
use crate::backend::program::{HeadNorm, NormKind, RopeKv};

/// Tokens per worker from which on a page is rotated and written to the cache by one worker: tokens
/// of a page share its cache lines.
const PAGED_TOKENS_MIN: usize = 4 * PAGE_TOKENS;

/// Memory of one worker.
#[derive(Default)]
pub(super) struct Scratch {
    /// Keys and values of a token.
    kv: Vec<f32>,
    /// A head before it is normed.
    head: Vec<f32>,
    write: WriteScratch,
}

/// The part of a norm's parameters that belongs to head `i`: the same for all, or `dim` for each.
fn of_head(parameters: &Option<Vec<f32>>, dim: usize, i: usize) -> Option<&[f32]> {
    let parameters = parameters.as_ref()?;
    let first = if parameters.len() == dim { 0 } else { i * dim };
    Some(&parameters[first..][..dim])
}

impl Context<'_> {
    pub(super) fn rope_kv(&self, op: &RopeKv, scratch: &mut WorkerScratch) {
        let n_tokens = self.input.tokens.len();
        let enough = n_tokens >= PAGED_TOKENS_MIN * self.worker.n_threads();
        let chunk = if enough { PAGE_TOKENS } else { 1 };
        self.worker.phase(|phase| {
            for mut ticket in phase.tickets(n_tokens, chunk) {
                for token in ticket.items() {
                    self.rope_kv_of(op, token, &mut ticket, phase, &mut scratch.rope_kv);
                }
            }
        });
    }

    fn rope_kv_of(
        &self,
        op: &RopeKv,
        token: usize,
        ticket: &mut Ticket<'_>,
        phase: &Phase<'_>,
        scratch: &mut Scratch,
    ) {
        let qkv = &self.backend.buffers[op.qkv.0];
        let shape = &self.backend.program.kv[op.layer];
        let q_len = op.n_heads * shape.k_dim;
        let k_len = if op.stores { shape.n_kv_heads * shape.k_dim } else { 0 };
        let Scratch { kv, head, write } = scratch;
        let row = qkv.write_cell(ticket, qkv.width(), token);
        if let Some(clamp) = op.clamp {
            row.iter_mut().for_each(|x| *x = x.clamp(-clamp, clamp));
        }
        let (q, k) = row[..q_len + k_len].split_at_mut(q_len);
        if !op.norm_after_rope {
            self.norm_heads(op.q_norm.as_ref(), q, head);
            self.norm_heads(op.k_norm.as_ref(), k, head);
        }
        if let Some((rope, pairing)) = op.rope {
            let table = self.backend.ropes[rope.0].read_row(phase, token);
            let (cos, sin) = table.split_at(table.len() / 2);
            for head in row[..q_len + k_len].chunks_exact_mut(shape.k_dim) {
                (self.ops.rope)(&mut head[op.rope_from..], cos, sin, pairing);
            }
        }
        if op.norm_after_rope {
            let (q, k) = row[..q_len + k_len].split_at_mut(q_len);
            self.norm_heads(op.q_norm.as_ref(), q, head);
            self.norm_heads(op.k_norm.as_ref(), k, head);
        }
        if let Some(temperature) = op.temperature {
            let factor = temperature.at(self.input.positions[token]);
            row[..q_len].iter_mut().for_each(|x| *x *= factor);
        }
        let kind = self.arena.kind();
        let (qk, v) = row.split_at_mut(q_len + k_len);
        kind.rotate(qk, shape.k_dim, self.ops);
        if !op.stores {
            return;
        }
        self.norm_heads(op.v_norm.as_ref(), v, head);
        kind.rotate(v, shape.v_dim, self.ops);
        kv.clear();
        kv.extend_from_slice(&row[q_len..]);
        let (keys, values) = kv.split_at(k_len);
        let page = self.page(op.layer, token, self.input.positions[token] as usize / PAGE_TOKENS);
        let heads = keys.chunks_exact(shape.k_dim).zip(values.chunks_exact(shape.v_dim));
        for (head, key_value) in heads.enumerate() {
            let kernels = self.backend.kernels;
            self.arena.write((op.layer, page), ticket, (token, head), key_value, kernels, write);
        }
    }

    fn norm_heads(&self, norm: Option<&HeadNorm>, x: &mut [f32], head: &mut Vec<f32>) {
        let Some(HeadNorm { norm, dim }) = norm else { return };
        head.resize(*dim, 0.0);
        for (i, x) in x.chunks_exact_mut(*dim).enumerate() {
            let (weight, bias) = (of_head(&norm.weight, *dim, i), of_head(&norm.bias, *dim, i));
            match norm.kind {
                NormKind::Rms => (self.ops.rms_norm)(x, weight, norm.eps, head),
                NormKind::Layer => (self.ops.layer_norm)(x, weight, bias, norm.eps, head),
            }
            x.copy_from_slice(head);
        }
    }
}
