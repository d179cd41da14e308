//! Rules that say something for each layer: which have a window, how many heads each has.

use super::ConvertError;
use super::config::whole;
use super::keys::Writer;
use super::rules::Done;
use gguf_rs_lite::{OwnedArray, OwnedValue};
use serde_json::Value;

impl Writer<'_> {
    pub(super) fn pattern(&mut self, key: &str, list: &str, text: &str) -> Done {
        let flags = |list: &Vec<Value>| list.iter().map(|v| v.as_str() == Some(text)).collect();
        let flags = self.config.list(list).map(flags);
        self.some(key, flags.map(|flags| OwnedValue::Array(OwnedArray::Bool(flags))))
    }

    pub(super) fn where_is(
        &mut self,
        key: &str,
        names: &[&str],
        list: &[&str],
        texts: &[&str],
    ) -> Done {
        let (Some(n), Some(list)) = (self.config.int(names)?, self.config.words(list)) else {
            return Ok(());
        };
        let each = |word: &String| if texts.contains(&word.as_str()) { n as u32 } else { 0 };
        let each = list.iter().map(each).collect();
        self.given(key, OwnedValue::Array(OwnedArray::U32(each)))
    }

    pub(super) fn every_nth(
        &mut self,
        key: &str,
        names: &[&str],
        period: &str,
        offset: &str,
    ) -> Done {
        let n = self.config.need(names)? as u32;
        let period = self.config.need(&[period])?.max(1) as usize;
        let offset = self.config.need(&[offset])? as usize;
        let is_one = |i: usize| i >= offset && (i - offset).is_multiple_of(period);
        let each = (0..self.config.n_layers).map(|i| if is_one(i) { n } else { 0 }).collect();
        self.given(key, OwnedValue::Array(OwnedArray::U32(each)))
    }

    pub(super) fn full_layers_ints(
        &mut self,
        key: &str,
        names: &[&str],
        own: &str,
        entry: &str,
    ) -> Done {
        let (Some(n), Some(full)) =
            (self.config.int(names)?, self.config.of_full_layers(own, entry)?)
        else {
            return Ok(());
        };
        let Some(types) = self.config.list("layer_types") else { return Ok(()) };
        let of = |ty: &Value| if ty.as_str() == Some("full_attention") { full } else { n };
        let each = types.iter().map(|ty| of(ty) as u32).collect();
        self.given(key, OwnedValue::Array(OwnedArray::U32(each)))
    }

    pub(super) fn wider_last_layers(
        &mut self,
        key: &str,
        flag: &str,
        names: &[&str],
        last: &str,
    ) -> Done {
        if self.config.flag(&[flag])? != Some(true) {
            return Ok(());
        }
        let n = self.config.need(names)? as u32;
        let last = self.config.int(&[last])?.unwrap_or(0) as usize;
        let first = self.config.n_layers.saturating_sub(last);
        let of = |layer: usize| if layer < first { n } else { n.saturating_mul(2) };
        let each = (0..self.config.n_layers).map(of).collect();
        self.given(key, OwnedValue::Array(OwnedArray::U32(each)))
    }

    pub(super) fn one_where(&mut self, key: &str, list: &str, text: &str, numbers: &str) -> Done {
        let types = self.config.list(list);
        let numbers = self.config.list(numbers);
        let is_one = |layer: usize| match (types, numbers) {
            (Some(types), _) => types.get(layer).and_then(Value::as_str) == Some(text),
            (None, Some(all)) => all.iter().any(|n| whole(n) == Some(layer as u64 + 1)),
            (None, None) => false,
        };
        let each = (0..self.config.n_layers).map(|layer| u32::from(is_one(layer))).collect();
        self.given(key, OwnedValue::Array(OwnedArray::U32(each)))
    }

    pub(super) fn one_at_group_ends(&mut self, key: &str, entry: &str) -> Done {
        let of = |layer| Ok(u32::from(self.config.ends_group(layer, entry)?));
        let each = (0..self.config.n_layers).map(of).collect::<Result<_, ConvertError>>()?;
        self.u32s(key, each)
    }

    pub(super) fn floats_or_zero(&mut self, key: &str, entry: &str) -> Done {
        let Some(list) = self.config.list(entry) else { return Ok(()) };
        let bad = || ConvertError::BadEntry {
            entry: entry.into(),
            problem: "is not a number or null for each layer".into(),
        };
        let of = |layer| match list.get(layer) {
            None | Some(Value::Null) => Ok(0.0),
            Some(value) => value.as_f64().map(|x| x as f32).ok_or_else(bad),
        };
        let each = (0..self.config.n_layers).map(of).collect::<Result<_, ConvertError>>()?;
        self.given(key, OwnedValue::Array(OwnedArray::F32(each)))
    }

    pub(super) fn sections(&mut self, entry: &str) -> Done {
        let list = self.config.list(entry).map_or(&[][..], Vec::as_slice);
        let pairs = list.iter().take(3).map(|n| whole(n).and_then(|n| i32::try_from(n).ok()));
        let pairs: Option<Vec<i32>> = pairs.collect();
        let bad = || ConvertError::BadEntry {
            entry: entry.into(),
            problem: "is not three numbers of pairs".into(),
        };
        let mut pairs = pairs.filter(|pairs| pairs.len() == 3).ok_or_else(bad)?;
        pairs.push(0);
        self.given("rope.dimension_sections", OwnedValue::Array(OwnedArray::I32(pairs)))
    }

    pub(super) fn leading(&mut self, key: &str, list: &str, text: &str) -> Done {
        let Some(list) = self.config.list(list) else { return Ok(()) };
        let n = list.iter().take_while(|element| element.as_str() == Some(text)).count();
        self.set_int(key, n as u64)
    }

    pub(super) fn leading_zeros(&mut self, key: &str, list: &str) -> Done {
        let Some(list) = self.config.list(list) else { return Ok(()) };
        let n = list.iter().take_while(|element| whole(element) == Some(0)).count();
        self.set_int(key, n as u64)
    }

    pub(super) fn int_where_any(&mut self, key: &str, entry: &str, list: &str) -> Done {
        let any =
            self.config.list(list).is_some_and(|list| list.iter().any(|v| whole(v) != Some(0)));
        match self.config.int(&[entry])?.filter(|_| any) {
            Some(n) => self.set_int(key, n),
            None => Ok(()),
        }
    }

    pub(super) fn divisible_widths(
        &mut self,
        key: &str,
        list: &str,
        entry: &str,
        divisor: &str,
    ) -> Done {
        let (width, divisor) = (self.config.need(&[entry])?, self.config.need(&[divisor])?.max(1));
        let Some(multiples) = self.config.list(list) else {
            return Err(ConvertError::MissingEntry(list.into()));
        };
        let of = |multiple: &Value| {
            let exact = multiple.as_f64().unwrap_or(0.0) * width as f64;
            let rounded = (exact + divisor as f64 / 2.0) as u64 / divisor * divisor;
            let rounded = rounded.max(divisor);
            // Never a tenth less.
            let up = (rounded as f64) < 0.9 * exact;
            u32::try_from(rounded.saturating_add(if up { divisor } else { 0 })).unwrap_or(u32::MAX)
        };
        let each = multiples.iter().map(of).collect();
        self.u32s(key, each)
    }

    /// Each block says how many queries share a head of keys, and a multiple of the stream's width for
    /// the feed-forward part; or that it has no such part.
    pub(super) fn block_configs(&mut self, entry: &str) -> Done {
        let Some(blocks) = self.config.list(entry).cloned() else { return Ok(()) };
        let bad = |problem: String| ConvertError::BadEntry { entry: entry.into(), problem };
        let (heads, width) = (self.config.heads()?, self.config.width()?);
        if blocks.len() != self.config.n_layers {
            return Err(bad(format!("has {} blocks, not one for each layer", blocks.len())));
        }
        let (mut all_heads, mut all_kv, mut all_ff) = (Vec::new(), Vec::new(), Vec::new());
        for (layer, block) in blocks.iter().enumerate() {
            let is_set = |name: &str| block.pointer(name).and_then(Value::as_bool) == Some(true);
            if is_set("/attention/replace_with_linear") || is_set("/ffn/replace_with_linear") {
                return Err(bad(format!(
                    "layer {layer} has a plain product in the place of a part, which is not supported"
                )));
            }
            let shared = block.pointer("/attention/n_heads_in_group").and_then(whole);
            let shared = shared.filter(|_| !is_set("/attention/no_op"));
            if shared.is_some_and(|n| n == 0 || !heads.is_multiple_of(n)) {
                return Err(bad(format!(
                    "layer {layer}: {heads} heads are no groups of {shared:?}"
                )));
            }
            let multiple = block.pointer("/ffn/ffn_mult").and_then(Value::as_f64);
            let multiple = multiple.filter(|_| !is_set("/ffn/no_op")).unwrap_or(0.0);
            let n_ff = ((2.0 * multiple * width as f64 / 3.0) as u64).next_multiple_of(256);
            all_heads.push(shared.map_or(0, |_| heads as u32));
            all_kv.push(shared.map_or(0, |n| (heads / n) as u32));
            all_ff.push(u32::try_from(n_ff).map_err(|_| bad(format!("layer {layer}: {n_ff}")))?);
        }
        self.u32s("attention.head_count", all_heads)?;
        self.u32s("attention.head_count_kv", all_kv)?;
        self.u32s("feed_forward_length", all_ff)
    }

    fn u32s(&mut self, key: &str, each: Vec<u32>) -> Done {
        self.given(key, OwnedValue::Array(OwnedArray::U32(each)))
    }

    pub(super) fn where_numbered(&mut self, key: &str, names: &[&str], list: &str) -> Done {
        let (n, numbers) = (self.config.need(names)? as u32, self.config.list(list));
        let numbers: Vec<u64> = numbers.into_iter().flatten().filter_map(whole).collect();
        let of = |layer: usize| if numbers.contains(&(layer as u64)) { n } else { 0 };
        self.u32s(key, (0..self.config.n_layers).map(of).collect())
    }

    /// Whether each layer has a window, where the configuration has a list that says so.
    fn window_list(&self) -> Option<Vec<bool>> {
        let (_, value) = self.config.first(&["layer_types", "hybrid_layer_pattern"])?;
        let is_window =
            |v: &Value| v.as_str().map_or(whole(v) == Some(1), |text| text == "sliding_attention");
        Some(value.as_array()?.iter().map(is_window).collect())
    }

    pub(super) fn windows(&mut self, key: &str) -> Done {
        let flags = self.window_list();
        self.some(key, flags.map(|flags| OwnedValue::Array(OwnedArray::Bool(flags))))
    }

    pub(super) fn window_ints(&mut self, key: &str, names: &[&str], own: &[&str], n: u32) -> Done {
        let full = self.config.need(names)?;
        let other = self.config.int(own)?.unwrap_or(full * u64::from(n));
        let Some(list) = self.window_list() else { return self.set_int(key, full) };
        self.u32s(key, list.iter().map(|on| if *on { other } else { full } as u32).collect())
    }

    pub(super) fn turning(&mut self, key: &str, list: &str) -> Done {
        let Some(values) = self.config.list(list) else { return Ok(()) };
        let turns = |value: &Value| value.as_f64() != Some(0.0);
        let bases: Vec<&Value> = values.iter().filter(|value| turns(value)).collect();
        if bases.windows(2).any(|pair| pair[0] != pair[1]) {
            let problem = "is not the same for all layers that turn, which is not supported".into();
            return Err(ConvertError::BadEntry { entry: list.into(), problem });
        }
        match bases.len() < values.len() {
            true => {
                let flags = values.iter().map(turns).collect();
                self.given(key, OwnedValue::Array(OwnedArray::Bool(flags)))
            }
            false => Ok(()),
        }
    }

    pub(super) fn window_rotary(&mut self) -> Done {
        let share = self.config.rope_local.get("partial_rotary_factor").and_then(Value::as_f64);
        let Some(share) = share else { return Ok(()) };
        let n = share * self.config.head_dim()? as f64;
        self.set_int("rope.dimension_count_swa", n as u64)
    }

    pub(super) fn passes(&mut self, key: &str, layers: &[&str], outer: &str, inner: &str) -> Done {
        let (n, outer) = (self.config.need(layers)?, self.config.need(&[outer])?);
        let inner = self.config.need(&[inner])?;
        self.set_int(key, n.saturating_mul(outer).saturating_mul(inner + 1))
    }
}
