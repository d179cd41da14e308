//! Rotary position embedding as the metadata describes it, and its frequencies.

use super::{Hparams, ModelError, RopePairing, RopeScaling, RopeSpec};

impl RopeSpec {
    pub(super) fn new(h: &Hparams<'_>, k_dim: usize) -> Result<RopeSpec, ModelError> {
        let n_rot = h.optional_length("rope.dimension_count")?.unwrap_or(k_dim);
        if n_rot > k_dim || !n_rot.is_multiple_of(2) {
            let problem = format!("is {n_rot}, not an even number up to the head's {k_dim}");
            return Err(h.bad("rope.dimension_count", problem));
        }
        let positive = |name: &str, default: f32| match h.f32(name)? {
            None => Ok(default),
            Some(x) if x > 0.0 => Ok(x),
            Some(x) => Err(h.bad(name, format!("is {x}, not positive"))),
        };
        Ok(RopeSpec {
            n_rot,
            pairing: RopePairing::Norm,
            freq_base: positive("rope.freq_base", 10_000.0)?,
            scaling: RopeScaling::new(h, positive)?,
            freq_factors: true,
        })
    }
}

impl RopeScaling {
    fn new(
        h: &Hparams<'_>,
        positive: impl Fn(&str, f32) -> Result<f32, ModelError>,
    ) -> Result<RopeScaling, ModelError> {
        // Files before 2023-09 have `scale_linear`; 0 means none in both.
        let old = h.f32("rope.scale_linear")?;
        let factor = h.f32("rope.scaling.factor")?.or(old).filter(|&f| f != 0.0).unwrap_or(1.0);
        if factor <= 0.0 {
            return Err(h.bad("rope.scaling.factor", format!("is {factor}, not positive")));
        }
        let n_ctx_orig = h.optional_length("rope.scaling.original_context_length")?;
        let _ = h.bool("rope.scaling.finetuned")?;
        let attn_factor = positive("rope.scaling.attn_factor", 1.0)?;
        let attn_factor = positive("rope.scaling.yarn_attn_factor", attn_factor)?;
        let ext_factor = h.f32("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0);
        let beta_fast = positive("rope.scaling.yarn_beta_fast", 32.0)?;
        let beta_slow = positive("rope.scaling.yarn_beta_slow", 1.0)?;
        match h.str("rope.scaling.type")?.unwrap_or("linear") {
            "none" => Ok(RopeScaling::None),
            "linear" if factor == 1.0 => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor }),
            "yarn" => Ok(RopeScaling::Yarn {
                factor,
                n_ctx_orig: n_ctx_orig.unwrap_or(h.n_ctx_train).max(1),
                beta_fast,
                beta_slow,
                ext_factor,
                attn_factor,
            }),
            "longrope" => {
                let n_ctx_orig = n_ctx_orig.unwrap_or(h.n_ctx_train);
                Ok(RopeScaling::LongRope { n_ctx_orig, attn_factor })
            }
            other => Err(h.bad("rope.scaling.type", format!("is `{other}`, not supported yet"))),
        }
    }

    /// Radians per position of each of `n_rot / 2` pairs, and the factor of cosine and sine.
    /// `factors` divide the frequencies before they are stretched.
    pub fn frequencies(
        &self,
        n_rot: usize,
        freq_base: f32,
        factors: Option<&[f32]>,
    ) -> (Vec<f64>, f32) {
        let base = f64::from(freq_base);
        let pair = |i: usize| {
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            base.powf(-2.0 * i as f64 / n_rot as f64) / factor
        };
        let pairs = (0..n_rot / 2).map(pair);
        match *self {
            RopeScaling::None => (pairs.collect(), 1.0),
            RopeScaling::LongRope { attn_factor, .. } => (pairs.collect(), attn_factor),
            RopeScaling::Linear { factor } => (pairs.map(|f| f / f64::from(factor)).collect(), 1.0),
            RopeScaling::Yarn {
                factor,
                n_ctx_orig,
                beta_fast,
                beta_slow,
                ext_factor,
                attn_factor,
            } => {
                let factor = f64::from(factor);
                // The pair that makes `turns` turns within the original context.
                let pair_of = |turns: f32| {
                    let wavelength = n_ctx_orig as f64 / (f64::from(turns) * std::f64::consts::TAU);
                    n_rot as f64 * wavelength.ln() / (2.0 * base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(n_rot as f64 - 1.0);
                let stretched = pairs.enumerate().map(|(i, freq)| {
                    let ramp = (i as f64 - low) / (high - low).max(0.001);
                    let keep = (1.0 - ramp.clamp(0.0, 1.0)) * f64::from(ext_factor);
                    freq / factor * (1.0 - keep) + freq * keep
                });
                let stretch = if ext_factor == 0.0 { 1.0 } else { 1.0 + 0.1 * factor.ln() };
                (stretched.collect(), stretch as f32 * attn_factor)
            }
        }
    }
}
