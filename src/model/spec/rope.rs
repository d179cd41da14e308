//! Rotary position embedding: its description from the metadata, and its frequencies.

use super::{Hparams, ModelError, RopePairing};

/// Rotary position embedding (RoPE, arXiv:2104.09864).
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Leading dimensions of a head that are rotated.
    pub n_rot: usize,
    /// Pairing of dimensions.
    pub pairing: RopePairing,
    /// Base of the frequencies: pair `i` turns by `freq_base^(-2 i / n_rot)` radians per position.
    pub freq_base: f32,
    /// Stretching to longer contexts.
    pub scaling: RopeScaling,
    /// Factor of cosine and sine, besides YaRN's own.
    pub magnitude: f32,
    /// Whether a tensor divides the frequencies, if there is one: `rope_freqs` or, as in LongRoPE
    /// (arXiv:2402.13753), `rope_factors_short` and, in contexts that may grow beyond `n_ctx_orig`,
    /// `rope_factors_long`.
    pub freq_factors: bool,
    /// Context before stretching, in tokens.
    pub n_ctx_orig: usize,
}

/// Stretching of rotations to contexts longer than those first trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by `factor` (arXiv:2306.15595).
    Linear {
        /// Ratio of the contexts, at least 1 in practice.
        factor: f32,
    },
    /// YaRN (arXiv:2309.00071): slow pairs are interpolated, fast ones are not.
    Yarn {
        /// Ratio of the contexts.
        factor: f32,
        /// Turns within the original context from which a pair is left alone.
        beta_fast: f32,
        /// Turns below which a pair is interpolated in full.
        beta_slow: f32,
        /// Weight of the correction, 1 in practice.
        ext_factor: f32,
    },
}

impl RopeSpec {
    pub(in crate::model) fn new(h: &Hparams<'_>, k_dim: usize) -> Result<RopeSpec, ModelError> {
        let n_rot = h.optional_length("rope.dimension_count")?.unwrap_or(k_dim);
        if n_rot > k_dim || !n_rot.is_multiple_of(2) {
            let problem = format!("is {n_rot}, not an even number up to the head's {k_dim}");
            return Err(h.bad("rope.dimension_count", problem));
        }
        let n_ctx_orig = h.optional_length("rope.scaling.original_context_length")?;
        Ok(RopeSpec {
            n_rot,
            pairing: RopePairing::Norm,
            freq_base: positive(h, "rope.freq_base", 10_000.0)?,
            scaling: RopeScaling::new(h)?,
            magnitude: positive(h, "rope.scaling.attn_factor", 1.0)?,
            freq_factors: true,
            n_ctx_orig: n_ctx_orig.unwrap_or(h.n_ctx_train).max(1),
        })
    }

    /// Radians per position of each of `n_rot / 2` pairs, and the factor of cosine and sine.
    /// `factors` divide the frequencies before they are stretched.
    pub fn frequencies(&self, factors: Option<&[f32]>) -> (Vec<f64>, f32) {
        let (n_rot, base) = (self.n_rot, f64::from(self.freq_base));
        let pair = |i: usize| {
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            base.powf(-2.0 * i as f64 / n_rot as f64) / factor
        };
        let pairs = (0..n_rot / 2).map(pair);
        let magnitude = self.magnitude * self.scaling.magnitude();
        match self.scaling {
            RopeScaling::None => (pairs.collect(), magnitude),
            RopeScaling::Linear { factor } => {
                (pairs.map(|freq| freq / f64::from(factor)).collect(), magnitude)
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, ext_factor } => {
                let factor = f64::from(factor);
                // The pair that makes `turns` turns within the original context.
                let pair_of = |turns: f32| {
                    let wavelength =
                        self.n_ctx_orig as f64 / (f64::from(turns) * std::f64::consts::TAU);
                    n_rot as f64 * wavelength.ln() / (2.0 * base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(n_rot as f64 - 1.0);
                let stretched = pairs.enumerate().map(|(i, freq)| {
                    let ramp = (i as f64 - low) / (high - low).max(0.001);
                    let keep = (1.0 - ramp.clamp(0.0, 1.0)) * f64::from(ext_factor);
                    freq / factor * (1.0 - keep) + freq * keep
                });
                (stretched.collect(), magnitude)
            }
        }
    }
}

impl RopeScaling {
    fn new(h: &Hparams<'_>) -> Result<RopeScaling, ModelError> {
        // Files before 2023-09 have `scale_linear`; 0 means none in both.
        let old = h.f32("rope.scale_linear")?;
        let factor = h.f32("rope.scaling.factor")?.or(old).filter(|&f| f != 0.0).unwrap_or(1.0);
        if factor <= 0.0 {
            return Err(h.bad("rope.scaling.factor", format!("is {factor}, not positive")));
        }
        let _ = h.bool("rope.scaling.finetuned")?;
        // Replaced by what the factor gives in the reference implementation too.
        let _ = h.f32("rope.scaling.yarn_attn_factor")?;
        // Negative: not set.
        let ext_factor = h.f32("rope.scaling.yarn_ext_factor")?.filter(|&x| x >= 0.0);
        let beta_fast = positive(h, "rope.scaling.yarn_beta_fast", 32.0)?;
        let beta_slow = positive(h, "rope.scaling.yarn_beta_slow", 1.0)?;
        match h.str("rope.scaling.type")?.unwrap_or("linear") {
            "none" => Ok(RopeScaling::None),
            // LongRoPE is the tensors that divide the frequencies.
            "linear" | "longrope" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" | "longrope" => Ok(RopeScaling::Linear { factor }),
            "yarn" => {
                let ext_factor = ext_factor.unwrap_or(1.0);
                Ok(RopeScaling::Yarn { factor, beta_fast, beta_slow, ext_factor })
            }
            other => Err(h.bad("rope.scaling.type", format!("is `{other}`, not supported yet"))),
        }
    }

    /// The factor of cosine and sine: YaRN's temperature.
    fn magnitude(&self) -> f32 {
        match *self {
            RopeScaling::Yarn { ext_factor: 0.0, .. } => 1.0,
            _ => self.mscale(1.0),
        }
    }

    /// `1 + 0.1 * by * ln(factor)`, if YaRN stretches at all.
    pub(in crate::model) fn mscale(&self, by: f32) -> f32 {
        match *self {
            RopeScaling::Yarn { factor, .. } if factor > 1.0 => 1.0 + 0.1 * by * factor.ln(),
            _ => 1.0,
        }
    }
}

fn positive(h: &Hparams<'_>, name: &str, default: f32) -> Result<f32, ModelError> {
    match h.f32(name)? {
        None => Ok(default),
        Some(x) if x > 0.0 => Ok(x),
        Some(x) => Err(h.bad(name, format!("is {x}, not positive"))),
    }
}
