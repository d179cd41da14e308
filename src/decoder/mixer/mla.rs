//! Multi-head latent attention. Where the cache holds latent vectors, the matrices that would make
//! keys and values of them are applied to queries and results instead; the vector is then key and
//! value of a single head, and stored as both.

use super::attention::temperature;
use crate::backend::program::{
    Attention, BoundWeight, Buf, CopyPieces, Epilogue, HeadLinear, KvShape, Norm, Op, Part, Piece,
    RopeKv, Tokens,
};
use crate::decoder::lower::{Lowering, Place};
use crate::model::{MlaCache, MlaSpec, ModelError};
use teff_kernels::Activation;

/// `n` pieces of `len` elements, copied as they are.
fn piece(
    input: Buf,
    from: usize,
    from_stride: usize,
    to: usize,
    to_stride: usize,
    len: usize,
    n: usize,
) -> Piece {
    Piece { input, from, from_stride, to, to_stride, len, n, norm: None, act: None }
}

fn unscaled(part: Part) -> Part {
    Part { scale: 1.0, ..part }
}

impl Lowering<'_> {
    pub(super) fn mla(&mut self, at: Place<'_>, spec: &MlaSpec) -> Result<(Buf, Part), ModelError> {
        let &MlaSpec { n_heads, rank, n_content, n_position, v_dim, .. } = spec;
        let n_embd = self.spec.n_embd;
        let head = n_content + n_position;
        let norm = self.layer_norm(at, at.layer.norms.before_mixer)?;
        let queries = self.buffer(n_heads * head);
        self.mla_queries(at, spec, &norm, queries)?;
        let latent = self.buffer(rank + n_position);
        let part = self.part(&at.name("attn_kv_a_mqa"), rank + n_position, n_embd)?;
        self.read_stream(norm.clone(), vec![part], Epilogue::None, latent, Tokens::All);
        let kv_norm = self.norm(&at.name("attn_kv_a_norm"), rank)?;

        // Pieces of `n_kv_heads` keys, of a part from the latent vector and one for the position.
        let (n_kv_heads, k_dim, cached_v_dim) = spec.cached();
        let (keys, values) = (n_heads * k_dim, (n_heads + n_kv_heads) * k_dim);
        let qkv = self.buffer(values + n_kv_heads * cached_v_dim);
        let content = k_dim - n_position;
        let mut pieces = vec![
            piece(queries, n_content, head, content, k_dim, n_position, n_heads),
            piece(latent, rank, 0, keys + content, k_dim, n_position, n_kv_heads),
        ];
        match spec.cache {
            MlaCache::Latent => {
                for to in [keys, values] {
                    let norm = Some(kv_norm.clone());
                    pieces.push(Piece { norm, ..piece(latent, 0, 0, to, 0, rank, 1) });
                }
                let shape = [n_heads, rank, n_content];
                let weight = self.stack(&at.name("attn_k_b.weight"), shape)?;
                self.head_product(queries, head, weight, (qkv, k_dim), Tokens::All);
            }
            MlaCache::Heads => {
                let stride = n_content + v_dim;
                let part = self.part(&at.name("attn_kv_b"), n_heads * stride, rank)?;
                let kv = self.buffer(n_heads * stride);
                self.store_product(latent, Some(kv_norm), part, kv, Tokens::All);
                pieces.extend([
                    piece(queries, 0, head, 0, k_dim, n_content, n_heads),
                    piece(kv, 0, stride, keys, k_dim, n_content, n_heads),
                    piece(kv, n_content, stride, values, v_dim, v_dim, n_heads),
                ]);
            }
        }
        self.program.ops.push(Op::CopyPieces(CopyPieces { pieces, out: qkv, rows: Tokens::All }));

        let shape = KvShape { n_kv_heads, k_dim, v_dim: cached_v_dim, window: None };
        self.program.kv.push(shape);
        let layer = self.program.kv.len() - 1;
        let rope = match &spec.rope {
            Some(rope) => Some((self.rope(rope)?, rope.pairing)),
            None => None,
        };
        self.program.ops.push(Op::RopeKv(RopeKv {
            qkv,
            n_heads,
            layer,
            clamp: None,
            q_norm: None,
            k_norm: None,
            norm_after_rope: false,
            v_norm: None,
            stores: true,
            rope,
            rope_from: content,
            temperature: spec.temperature.map(temperature),
        }));
        let attended = self.buffer(n_heads * cached_v_dim);
        self.program.ops.push(Op::Attention(Attention {
            qkv,
            n_heads,
            layer,
            scale: spec.scale,
            softcap: None,
            slopes: None,
            sinks: None,
            out: attended,
            rows: at.rows,
        }));
        let out = match spec.cache {
            MlaCache::Heads => attended,
            MlaCache::Latent => {
                let weight = self.stack(&at.name("attn_v_b.weight"), [n_heads, v_dim, rank])?;
                let out = self.buffer(n_heads * v_dim);
                self.head_product(attended, rank, weight, (out, v_dim), at.rows);
                out
            }
        };
        let mut part = self.part(&at.name("attn_output"), n_embd, n_heads * v_dim)?;
        if spec.gate {
            let heads = unscaled(self.part(&at.name("attn_gate"), n_heads, n_embd)?);
            let gate = self.buffer(n_heads);
            self.read_stream(norm, vec![heads], Epilogue::Act(Activation::Sigmoid), gate, at.rows);
            self.program.ops.push(Op::MulBroadcast { gate, buf: out, rows: at.rows });
            // The reference implementation ignores the scale here too.
            part.scale = 1.0;
        }
        Ok((out, part))
    }

    /// Queries of all heads, straight from the stream or by way of a vector of low rank.
    fn mla_queries(
        &mut self,
        at: Place<'_>,
        spec: &MlaSpec,
        norm: &Option<Norm>,
        queries: Buf,
    ) -> Result<(), ModelError> {
        let n_embd = self.spec.n_embd;
        let width = spec.n_heads * (spec.n_content + spec.n_position);
        match spec.q_rank {
            None => {
                // The reference implementation ignores the scale.
                let part = unscaled(self.part(&at.name("attn_q"), width, n_embd)?);
                self.read_stream(norm.clone(), vec![part], Epilogue::None, queries, Tokens::All);
            }
            Some(q_rank) => {
                let part = self.part(&at.name("attn_q_a"), q_rank, n_embd)?;
                let low = self.buffer(q_rank);
                self.read_stream(norm.clone(), vec![part], Epilogue::None, low, Tokens::All);
                let q_norm = self.norm(&at.name("attn_q_a_norm"), q_rank)?;
                let part = self.part(&at.name("attn_q_b"), width, q_rank)?;
                self.store_product(low, Some(q_norm), part, queries, Tokens::All);
            }
        }
        Ok(())
    }

    /// A product for each head with a matrix of its own.
    fn head_product(
        &mut self,
        input: Buf,
        input_stride: usize,
        weight: BoundWeight,
        (out, out_stride): (Buf, usize),
        rows: Tokens,
    ) {
        let scale = 1.0;
        let op = HeadLinear { input, input_stride, weight, scale, out, out_stride, rows };
        self.program.ops.push(Op::HeadLinear(op));
    }
}
