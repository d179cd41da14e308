//! Multi-head latent attention, and what turns attention into it.

use super::*;

/// Multi-head latent attention (MLA, arXiv:2405.04434): keys and values are projections of one
/// latent vector per token; a few dimensions of the keys, the same for all heads, carry positions.
#[derive(Clone, Debug, PartialEq)]
pub struct MlaSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Elements of the vector that queries are projected from; `None`: from the stream.
    pub q_rank: Option<usize>,
    /// Elements of the latent vector.
    pub rank: usize,
    /// Elements of a head's query and key that are projected from the latent vector.
    pub n_content: usize,
    /// Elements behind those that carry the position.
    pub n_position: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// Content of the cache.
    pub cache: MlaCache,
    /// Rotation of the elements that carry the position.
    pub rope: Option<RopeSpec>,
    /// Factor of the scores.
    pub scale: f32,
    /// Factor of the queries by position.
    pub temperature: Option<TemperatureSpec>,
    /// Whether each head's result is multiplied by the sigmoid of a row of `attn_gate`.
    pub gate: bool,
}

/// Content of the cache of a layer with latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlaCache {
    /// The latent vector, as one head that all queries share: `attn_k_b` is applied to the queries
    /// and `attn_v_b` to attention's result.
    Latent,
    /// Keys and values of all heads, the product of `attn_kv_b`.
    Heads,
}

impl MlaSpec {
    /// Heads, elements of a key and elements of a value in the cache.
    pub fn cached(&self) -> (usize, usize, usize) {
        match self.cache {
            MlaCache::Latent => (1, self.rank + self.n_position, self.rank),
            MlaCache::Heads => (self.n_heads, self.n_content + self.n_position, self.v_dim),
        }
    }
}

impl ModelSpec {
    /// Latent attention in place of attention. The cache holds heads if the metadata does not tell
    /// their lengths from those of latent vectors.
    ///
    /// # Errors
    /// A length is missing, or the rotated dimensions are more than a key has.
    pub fn mla(mut self, h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
        let rank = h.length("attention.kv_lora_rank")?;
        let q_rank = h.u64("attention.q_lora_rank")?.filter(|&n| n > 0).map(|n| n as usize);
        let own = [
            h.optional_length("attention.key_length_mla")?,
            h.optional_length("attention.value_length_mla")?,
        ];
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let Mixer::Attention(attention) = &layer.mixer else { continue };
            let cache = if own == [None; 2] { MlaCache::Heads } else { MlaCache::Latent };
            let k_dim = own[0].unwrap_or(attention.k_dim);
            let v_dim = own[1].unwrap_or(attention.v_dim);
            let n_position = match &attention.rope {
                Some(rope) => rope.n_rot,
                None => h.length("rope.dimension_count")?,
            };
            let Some(n_content) = k_dim.checked_sub(n_position) else {
                return Err(h.bad("rope.dimension_count", "exceeds the length of keys"));
            };
            // Lite models have queries without a rank, whatever the metadata says.
            let has_rank = !h.has_tensor(&format!("blk.{i}.attn_q.weight"));
            layer.mixer = Mixer::Mla(MlaSpec {
                n_heads: attention.n_heads,
                q_rank: q_rank.filter(|_| has_rank),
                rank,
                n_content,
                n_position,
                v_dim,
                cache,
                rope: attention.rope.clone(),
                scale: 1.0 / (k_dim as f32).sqrt(),
                temperature: None,
                gate: false,
            });
        }
        Ok(self)
    }

    /// Changes every latent attention.
    pub fn each_mla(mut self, mut f: impl FnMut(usize, &mut MlaSpec)) -> ModelSpec {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Mixer::Mla(latent) = &mut layer.mixer {
                f(i, latent);
            }
        }
        self
    }

    /// Bounds contexts to the tokens that a sparse attention's indexer would choose all of, so that
    /// dense attention gives the same.
    ///
    /// # Errors
    /// The indexer's count of tokens is missing.
    pub fn dense_within(&mut self, h: &Hparams<'_>) -> Result<(), ModelError> {
        for key in ["attention.indexer.head_count", "attention.indexer.key_length"] {
            h.hide(key);
        }
        self.n_ctx_max = Some(h.length("attention.indexer.top_k")?);
        self.unused = &["indexer."];
        Ok(())
    }
}
