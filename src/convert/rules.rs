//! What the rules of a family make of `config.json`: one short function for each kind of rule.

use super::ConvertError;
use super::config::whole;
use super::files::{json, malformed};
use super::keys::Writer;
use super::modules;
use crate::model::checkpoint::Key;
use gguf_rs_lite::{OwnedArray, OwnedValue};
use serde_json::Value;

/// Result of a rule: nothing but an error.
pub(super) type Done = Result<(), ConvertError>;

impl Writer<'_> {
    /// Writes what a rule says.
    ///
    /// # Errors
    /// An entry is missing or not what it should be.
    pub(super) fn rule(&mut self, key: &Key) -> Done {
        match *key {
            Key::Int(key, names) => self.int_or_list(key, names),
            Key::IntElse(key, names, n) => self.int_else(key, names, n),
            Key::Float(key, names) => self.float(key, names, None),
            Key::FloatElse(key, names, x) => self.float(key, names, Some(x)),
            Key::Flag(key, names) => self.flag(key, names, None),
            Key::FlagElse(key, names, on) => self.flag(key, names, Some(on)),
            Key::IntIs(key, n) => self.given(key, n),
            Key::FloatIs(key, x) => self.given(key, x),
            Key::FlagIs(key, on) => self.given(key, on),
            Key::TextIs(key, text) => self.given(key, text),
            Key::TextsAre(key, texts) => {
                let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
                self.given(key, texts)
            }
            Key::HeadDim(key) => self.set_int(key, self.config.head_dim()?),
            Key::Share(key, names, times, over) => match self.config.int(names)? {
                Some(n) => self.set_int(key, n.saturating_mul(times) / over),
                None => Ok(()),
            },
            Key::BlockConfigs(list) => self.block_configs(list),
            Key::Labels(key) => self.labels(key),
            Key::Without(key) => self.without(key),
            Key::Product(key, a, b) => self.of_two(key, a, b, u64::saturating_mul),
            Key::Sum(key, a, b) => self.of_two(key, a, b, u64::saturating_add),
            Key::Quotient(key, a, b) => self.of_two(key, a, b, |a, b| a / b.max(1)),
            Key::Times(key, names, n) => self.times(key, names, n),
            Key::FlagWhen(key, entry, text) => {
                self.given(key, self.config.text(entry) == Some(text))
            }
            Key::RotaryIfSaid => match self.config.rope_float("partial_rotary_factor") {
                Some(_) => self.rotary_share(&[], 1.0),
                None => Ok(()),
            },
            Key::RotaryRope(default) => self.rotary_share(&[], default),
            Key::RotaryShare(names, default) => self.rotary_share(names, default),
            Key::Pattern(key, list, text) => self.pattern(key, list, text),
            Key::PatternWhen(entry, key, list, text) => match self.config.get(entry) {
                Some(_) => self.pattern(key, list, text),
                None => Ok(()),
            },
            Key::WhereIs(key, names, list, texts) => self.where_is(key, names, list, texts),
            Key::EveryNth(key, names, period, offset) => self.every_nth(key, names, period, offset),
            Key::WhereNumbered(key, names, list) => self.where_numbered(key, names, list),
            Key::Windows(key) => self.windows(key),
            Key::WindowInts(key, names, own, n) => self.window_ints(key, names, own, n),
            Key::Zeros(key, list) => {
                let flags = |list: &Vec<Value>| list.iter().map(|v| whole(v) == Some(0)).collect();
                let flags = self.config.list(list).map(flags);
                self.some(key, flags.map(|flags| OwnedValue::Array(OwnedArray::Bool(flags))))
            }
            Key::Turning(key, list) => self.turning(key, list),
            Key::WindowRotary => self.window_rotary(),
            Key::Plus(key, names, n) => match self.config.int(names)? {
                Some(m) => self.set_int(key, m + u64::from(n)),
                None => Ok(()),
            },
            Key::Passes(key, layers, outer, inner) => self.passes(key, layers, outer, inner),
            Key::Needs(entry) => match self.config.get(entry) {
                Some(_) => Ok(()),
                None => Err(ConvertError::MissingEntry(entry.into())),
            },
            Key::IntDefault(key, n) => self.int_default(key, n),
            Key::FirstInt(key, names) => self.first_int(key, names),
            Key::FloatWhen(key, name, flag) => self.float_when(key, name, flag),
            Key::Ratio(key, a, b) => self.ratio(key, a, b),
            Key::Reciprocal(key, entry) => {
                let x = self.config.float(&[entry])?.filter(|&x| x != 0.0);
                self.some(key, x.map(|x| (1.0 / x) as f32))
            }
            Key::OverRootOfLayers(key, names) => self.over_root_of_layers(key, names),
            Key::InverseRoot(key, name) => self.inverse_root(key, name),
            Key::ScaleOfHeads(key, names) => {
                let usual = 1.0 / (self.config.head_dim()? as f64).sqrt();
                self.given(key, self.config.float(names)?.unwrap_or(usual) as f32)
            }
            Key::YarnBeside(entry, texts) => self.yarn_beside(entry, texts),
            Key::PositionsBehindPadding(key, name) => self.behind_padding(key, name),
            Key::Count(key, entry) => {
                let n = self.config.list(entry).map(Vec::len);
                n.map_or(Ok(()), |n| self.set_int(key, n as u64))
            }
            Key::NormalQuantiles(key, list) => self.normal_quantiles(key, list),
            Key::FullLayersInt(key, own, entry) => {
                let n = self.config.of_full_layers(own, entry)?;
                n.map_or(Ok(()), |n| self.set_int(key, n))
            }
            Key::FullLayersInts(key, names, own, entry) => {
                self.full_layers_ints(key, names, own, entry)
            }
            Key::WiderLastLayers(key, flag, names, last) => {
                self.wider_last_layers(key, flag, names, last)
            }
            Key::OneWhere(key, list, text, numbers) => self.one_where(key, list, text, numbers),
            Key::OneAtGroupEnds(key, entry) => self.one_at_group_ends(key, entry),
            Key::FloatsOrZero(key, list) => self.floats_or_zero(key, list),
            Key::Sections(list) => self.sections(list),
            Key::Leading(key, list, text) => self.leading(key, list, text),
            Key::LeadingZeros(key, list) => self.leading_zeros(key, list),
            Key::MustEqual(entry, wanted) => self.must_equal(entry, wanted),
            Key::MustBeUniform(entry) => self.must_be_uniform(entry),
            Key::MustAgree(entry, other) => self.must_agree(entry, other),
            Key::MustAgreeIfThere(entry, other) => match self.config.get(entry) {
                Some(_) => self.must_agree(entry, other),
                None => Ok(()),
            },
            Key::MustBeText(entry, wanted) => match self.config.text(entry) {
                Some(text) if text != wanted => {
                    let problem = format!("is `{text}`, which is not supported");
                    Err(ConvertError::BadEntry { entry: entry.into(), problem })
                }
                _ => Ok(()),
            },
            Key::MustBe(entry, wanted) => self.must_be(entry, wanted),
            Key::MustBeWhen(flag, entry, wanted) => match self.config.flag(&[flag])? {
                Some(true) => self.must_be(entry, wanted),
                _ => Ok(()),
            },
            Key::Text(key, name) => self.some(key, self.config.text(name).map(str::to_owned)),
            Key::IntWhen(key, entry, text, n) => {
                self.some(key, (self.config.text(entry) == Some(text)).then_some(n))
            }
            Key::Rope(key, name, factor) => {
                let x = self.config.rope_float(name);
                self.some(key, x.map(|x| (x * f64::from(factor)) as f32))
            }
            Key::IntIfSet(key, flag, n) => {
                let on = self.config.flag(&[flag])? == Some(true);
                self.some(key, on.then_some(n))
            }
            Key::IntWhereAny(key, entry, list) => self.int_where_any(key, entry, list),
            Key::FloatsAre(key, x) => {
                let each = vec![x; self.config.n_layers];
                self.given(key, OwnedValue::Array(OwnedArray::F32(each)))
            }
            Key::TwoThirds(key, entry, n) => {
                let width = 8 * self.config.need(&[entry])? / 3;
                self.set_int(key, width.next_multiple_of(n.into()))
            }
            Key::DivisibleWidths(key, list, entry, divisor) => {
                self.divisible_widths(key, list, entry, divisor)
            }
            Key::AdjustedWidth(names) => self.adjusted_width(names),
            Key::Pooling => self.pooling(),
        }
    }

    /// A value that is given.
    pub(super) fn given(&mut self, key: &str, value: impl Into<OwnedValue>) -> Done {
        self.set(key, value);
        Ok(())
    }

    /// A value if there is one.
    pub(super) fn some(&mut self, key: &str, value: Option<impl Into<OwnedValue>>) -> Done {
        value.map_or(Ok(()), |value| self.given(key, value))
    }

    fn without(&mut self, key: &str) -> Done {
        let key = self.key(key);
        self.keys.remove(&key);
        Ok(())
    }

    fn labels(&mut self, key: &str) -> Done {
        const ENTRY: &str = "id2label";
        let Some(map) = self.config.get(ENTRY).and_then(Value::as_object) else { return Ok(()) };
        let label = |i: usize| map.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
        let labels: Option<Vec<String>> = (0..map.len()).map(label).collect();
        let problem = || ConvertError::BadEntry {
            entry: ENTRY.into(),
            problem: "is not a text for each number from 0 on".into(),
        };
        let labels = labels.ok_or_else(problem)?;
        let are_nameless = labels.len() == 2 && labels[0] == "LABEL_0";
        self.some(key, (!are_nameless).then_some(labels))
    }

    fn int_else(&mut self, key: &str, names: &[&str], n: u32) -> Done {
        match self.config.first(names) {
            Some(_) => self.int_or_list(key, names),
            None => self.given(key, n),
        }
    }

    fn int_default(&mut self, key: &str, n: u32) -> Done {
        match self.keys.get(&self.key(key)) {
            Some(_) => Ok(()),
            None => self.given(key, n),
        }
    }

    fn float(&mut self, key: &str, names: &[&str], default: Option<f32>) -> Done {
        let x = match key.ends_with("epsilon") {
            true => self.config.epsilon(names)?,
            false => self.config.float(names)?.map(|x| x as f32),
        };
        self.some(key, x.or(default))
    }

    fn flag(&mut self, key: &str, names: &[&str], default: Option<bool>) -> Done {
        let on = self.config.flag(names)?;
        self.some(key, on.or(default))
    }

    fn of_two(
        &mut self,
        key: &str,
        a: &[&str],
        b: &[&str],
        compute: impl Fn(u64, u64) -> u64,
    ) -> Done {
        match (self.config.int(a)?, self.config.int(b)?) {
            (Some(a), Some(b)) => self.set_int(key, compute(a, b)),
            _ => Ok(()),
        }
    }

    fn times(&mut self, key: &str, names: &[&str], n: u32) -> Done {
        let m = self.config.int(names)?;
        m.map_or(Ok(()), |m| self.set_int(key, m.saturating_mul(n.into())))
    }

    fn rotary_share(&mut self, names: &[&str], default: f32) -> Done {
        let own = self.config.float(names)?;
        let share = own.or_else(|| self.config.rope_float("partial_rotary_factor"));
        let n = share.unwrap_or(f64::from(default)) * self.config.head_dim()? as f64;
        self.set_int("rope.dimension_count", n as u64)
    }

    fn first_int(&mut self, key: &str, names: &[&str]) -> Done {
        let value = self.config.first(names).map(|(_, value)| value.get(0).unwrap_or(value));
        value.and_then(whole).map_or(Ok(()), |n| self.set_int(key, n))
    }

    fn float_when(&mut self, key: &str, name: &str, flag: &str) -> Done {
        let on = self.config.flag(&[flag])?.unwrap_or(false);
        let x = self.config.float(&[name])?.filter(|_| on).unwrap_or(0.0);
        self.given(key, x as f32)
    }

    fn ratio(&mut self, key: &str, a: &[&str], b: &[&str]) -> Done {
        let (a, b) = (self.config.float(a)?, self.config.float(b)?);
        self.some(key, a.zip(b).map(|(a, b)| (a / b) as f32))
    }

    fn over_root_of_layers(&mut self, key: &str, names: &[&str]) -> Done {
        let root = (self.config.n_layers as f64).sqrt();
        let x = self.config.float(names)?;
        self.some(key, x.map(|x| (x / root) as f32))
    }

    fn inverse_root(&mut self, key: &str, name: &str) -> Done {
        let Some(x) = self.config.float(&[name])? else { return Ok(()) };
        let is_usual = x == self.config.head_dim()? as f64;
        self.some(key, (!is_usual).then_some((1.0 / x.sqrt()) as f32))
    }

    fn yarn_beside(&mut self, entry: &str, texts: &[&str]) -> Done {
        match self.config.text(entry) {
            None => return Ok(()),
            Some(text) if texts.contains(&text) => self.set("rope.scaling.type", "yarn"),
            Some(text) => {
                let problem = format!("is `{text}`, which is not supported");
                return Err(ConvertError::BadEntry { entry: entry.into(), problem });
            }
        }
        let original = self.config.need(&["original_max_position_embeddings"])?;
        self.set_int("rope.scaling.original_context_length", original)?;
        for (key, entry) in [
            ("rope.scaling.factor", "scaling_factor"),
            ("rope.scaling.yarn_ext_factor", "extrapolation_factor"),
            ("rope.scaling.yarn_beta_fast", "beta_fast"),
            ("rope.scaling.yarn_beta_slow", "beta_slow"),
        ] {
            let x = self.config.float(&[entry])?;
            self.set(key, x.ok_or_else(|| ConvertError::MissingEntry(entry.into()))? as f32);
        }
        Ok(())
    }

    fn behind_padding(&mut self, key: &str, name: &str) -> Done {
        let padding = self.config.need(&["pad_token_id"])?;
        let n = self.config.int(&[name])?;
        n.map_or(Ok(()), |n| self.set_int(key, n.saturating_sub(padding + 1)))
    }

    fn must_be(&self, entry: &str, wanted: bool) -> Done {
        if self.config.flag(&[entry])?.unwrap_or(false) == wanted {
            return Ok(());
        }
        let problem = format!("is not {wanted}, which is not supported");
        Err(ConvertError::BadEntry { entry: entry.into(), problem })
    }

    fn must_equal(&self, entry: &str, wanted: f64) -> Done {
        if self.config.float(&[entry])?.is_none_or(|x| x == wanted) {
            return Ok(());
        }
        let problem = format!("is not {wanted}, which is not supported");
        Err(ConvertError::BadEntry { entry: entry.into(), problem })
    }

    fn must_be_uniform(&self, entry: &str) -> Done {
        let list = self.config.list(entry).map_or(&[][..], Vec::as_slice);
        if list.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(());
        }
        let problem = "is not the same for all layers, which is not supported".into();
        Err(ConvertError::BadEntry { entry: entry.into(), problem })
    }

    fn must_agree(&self, entry: &str, other: &str) -> Done {
        if self.config.float(&[entry])? == self.config.float(&[other])? {
            return Ok(());
        }
        let problem = format!("is not `{other}`, which is not supported");
        Err(ConvertError::BadEntry { entry: entry.into(), problem })
    }

    fn normal_quantiles(&mut self, key: &str, list: &str) -> Done {
        let Some(shares) = self.config.list(list) else { return Ok(()) };
        let quantile = |share: &Value| {
            let share = share.as_f64().filter(|share| (0.0..1.0).contains(share));
            share.map(|share| if share > 0.0 { normal_quantile(share) as f32 } else { 0.0 })
        };
        let all: Option<Vec<f32>> = shares.iter().map(quantile).collect();
        let problem = || ConvertError::BadEntry {
            entry: list.into(),
            problem: "is not a list of shares from 0 on below 1".into(),
        };
        self.given(key, OwnedValue::Array(OwnedArray::F32(all.ok_or_else(problem)?)))
    }

    /// An integer, or a list of them.
    pub(super) fn int_or_list(&mut self, key: &str, names: &[&str]) -> Done {
        let Some((entry, value)) = self.config.first(names) else { return Ok(()) };
        let Some(list) = value.as_array() else {
            let n = self.config.int(names)?;
            return n.map_or(Ok(()), |n| self.set_int(key, n));
        };
        let problem = || ConvertError::BadEntry {
            entry: entry.into(),
            problem: "is not a list of non-negative integers".into(),
        };
        let small = |v: &Value| whole(v).and_then(|n| u32::try_from(n).ok());
        let list: Option<Vec<u32>> = list.iter().map(small).collect();
        self.set(key, OwnedValue::Array(OwnedArray::U32(list.ok_or_else(problem)?)));
        Ok(())
    }

    fn adjusted_width(&mut self, names: &[&str]) -> Result<(), ConvertError> {
        let mut n = self.config.need(names)?;
        if self.config.flag(&["block_auto_adjust_ff_dim"])? == Some(true) {
            n = 2 * n / 3;
            if let Some(factor) = self.config.float(&["block_ffn_dim_multiplier"])? {
                n = (factor * n as f64) as u64;
            }
            let multiple = self.config.need(&["block_multiple_of"])?.max(1);
            n = n.checked_next_multiple_of(multiple).unwrap_or(u64::MAX);
        }
        self.set_int("feed_forward_length", n)
    }

    /// Sentence-transformers say in `modules.json` where their pooling is described.
    fn pooling(&mut self) -> Result<(), ConvertError> {
        let folders = modules::of_type(self.folder, "Pooling")?;
        let Some(folder) = folders.first() else { return Ok(()) };
        let path = self.folder.join(folder).join("config.json");
        let Some(pooling) = json(&path)? else { return Ok(()) };
        let modes = [
            ("pooling_mode_mean_tokens", "mean", 1u32),
            ("pooling_mode_cls_token", "cls", 2),
            ("pooling_mode_lasttoken", "lasttoken", 3),
        ];
        let is_on = |flag: &str, name: &str| {
            pooling.get(flag).and_then(Value::as_bool) == Some(true)
                || pooling.get("pooling_mode").and_then(Value::as_str) == Some(name)
        };
        match modes.iter().find(|(flag, name, _)| is_on(flag, name)) {
            Some(&(_, _, n)) => self.set("pooling_type", n),
            None => return Err(malformed(&path, "a pooling that is not known")),
        }
        Ok(())
    }
}

/// Deviations from the mean below which a normal distribution has this share, within (0, 1): bisection
/// of the error function, which is summed as a series.
fn normal_quantile(share: f64) -> f64 {
    let below = |x: f64| {
        // 1/2 + the density times x + x^3 / 3 + x^5 / (3 * 5) + ...
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while term.abs() > 1e-17 {
            n += 2.0;
            term *= x * x / n;
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    };
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if below(middle) < share { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::normal_quantile;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (share, expected) in [(0.5, 0.0), (0.95, 1.644_853_626_951), (0.025, -1.959_963_984_54)]
        {
            assert!((normal_quantile(share) - expected).abs() < 1e-9, "{share}");
        }
    }
}
