//! What keys, values and states depend on beside the tokens: the model's files, the type of the
//! cache, and the angles of positions.

use super::error::{Part, SessionFault};
use super::format::{Adapted, Header};
use crate::backend::pages::{KvType, LayerGroup};
use crate::backend::program::Rope;
use crate::decoder::Decoder;
use crate::engine::{EngineOptions, Model};
use crate::model::{Fnv, identity};
use crate::tensor::Weight;
use gguf_rs_lite::GgufFile;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Bytes of a name in a file.
const NAME_BYTES_MAX: usize = 200;

/// Origin of an engine's numbers.
pub(in crate::engine) struct Origin {
    file: Arc<GgufFile>,
    name: String,
    replaced: Vec<Weight>,
    /// Files, names and scales.
    adapters: Vec<(Arc<GgufFile>, String, f32)>,
    kv_type: KvType,
    /// Bytes of a page of each group of layers.
    page_bytes: Vec<usize>,
    state_bytes: usize,
    positions: u64,
    n_vocab: usize,
    n_ctx: usize,
    /// Of the model's file and the adapters, which are read through for it when it is first needed.
    hashes: OnceLock<(u64, Vec<u64>)>,
}

impl Origin {
    /// The origin of what a decoder of the model computes.
    pub fn new(model: &Model, options: &EngineOptions, decoder: &Decoder) -> Origin {
        let adapters = model.adapters.iter().zip(&model.adapter_paths);
        let adapters = adapters
            .map(|(adapter, path)| (adapter.file().clone(), name_of(path), adapter.scale()));
        let name = model.file.get("general.name").and_then(|name| name.as_str());
        let program = decoder.program();
        let groups = LayerGroup::of_layers(&program.kv);
        Origin {
            name: name.map_or_else(|| name_of(&model.path), cut),
            file: model.file.clone(),
            replaced: model.replaced.clone(),
            adapters: adapters.collect(),
            kv_type: options.kv_type,
            page_bytes: groups.iter().map(|group| group.page_bytes(options.kv_type)).collect(),
            state_bytes: program.states.iter().sum::<usize>() * size_of::<f32>(),
            positions: positions(&program.ropes),
            n_vocab: decoder.n_vocab(),
            n_ctx: decoder.kv().n_ctx(),
            hashes: OnceLock::new(),
        }
    }

    fn hashes(&self) -> &(u64, Vec<u64>) {
        self.hashes.get_or_init(|| {
            let mut hash = Fnv(identity(&self.file));
            for weight in &self.replaced {
                hash.update(weight.name.as_bytes());
                hash.update(weight.bytes());
            }
            (hash.0, self.adapters.iter().map(|(file, ..)| identity(file)).collect())
        })
    }

    /// A header of a session without tokens.
    pub fn header(&self) -> Header {
        let (model_hash, adapter_hashes) = self.hashes();
        let adapters = self.adapters.iter().zip(adapter_hashes);
        let adapters = adapters.map(|((_, name, scale), &hash)| {
            let (name, scale_bits) = (name.clone(), scale.to_bits());
            Adapted { name, hash, scale_bits }
        });
        Header {
            teff: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.name.clone(),
            model_bytes: self.file.total_bytes(),
            model_hash: *model_hash,
            adapters: adapters.collect(),
            kv_type: self.kv_type.name().to_owned(),
            n_ctx: self.n_ctx as u64,
            positions: self.positions,
            page_bytes: self.page_bytes.iter().map(|&bytes| bytes as u64).collect(),
            state_bytes: self.state_bytes as u64,
            has_kv: false,
            n_tokens: 0,
            n_answers: 0,
            extra_bytes: 0,
        }
    }

    /// Checks that a session with this header goes on here as it would have gone on there.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, header: &Header) -> Result<(), SessionFault> {
        let here = self.header();
        if (header.model_hash, header.model_bytes) != (here.model_hash, here.model_bytes) {
            return Err(SessionFault::OtherModel { file: header.model.clone(), here: here.model });
        }
        let same = |(a, b): (&Adapted, &Adapted)| (a.hash, a.scale_bits) == (b.hash, b.scale_bits);
        let adapters = header.adapters.iter().zip(&here.adapters);
        if header.adapters.len() != here.adapters.len() || !adapters.into_iter().all(same) {
            let told = |header: &Header| header.adapters.iter().map(Adapted::to_string).collect();
            return Err(SessionFault::OtherAdapters { file: told(header), here: told(&here) });
        }
        if header.has_kv {
            if header.kv_type != here.kv_type {
                let (file, here) = (header.kv_type.clone(), self.kv_type);
                return Err(SessionFault::OtherKvType { file, here });
            }
            if header.positions != here.positions {
                return Err(SessionFault::OtherContext { file: header.n_ctx, here: self.n_ctx });
            }
            if (&header.page_bytes, header.state_bytes) != (&here.page_bytes, here.state_bytes) {
                return Err(SessionFault::OtherLayout);
            }
        }
        Ok(())
    }

    /// Checks that a session's tokens fit the context and are of the vocabulary.
    ///
    /// # Errors
    /// They are not.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), SessionFault> {
        // An answer that fills a context is one token longer.
        if tokens.len() > self.n_ctx + 1 {
            return Err(SessionFault::TooLong { n_tokens: tokens.len(), n_ctx: self.n_ctx });
        }
        match tokens.iter().find(|&&id| id as usize >= self.n_vocab) {
            None => Ok(()),
            Some(id) => {
                let problem = format!("token {id} is not in the vocabulary");
                Err(SessionFault::Malformed { part: Part::Tokens, problem })
            }
        }
    }
}

/// A hash of the angles that positions turn by, which differ between contexts of a model with
/// LongRoPE. Machines may compute them with another last bit: it takes part in no hash.
fn positions(ropes: &[Rope]) -> u64 {
    let mut hash = Fnv::default();
    for rope in ropes {
        hash.update(&(rope.inv_freq.len() as u64).to_le_bytes());
        let factors = rope.inv_freq.iter().map(|&x| x as f32).chain([rope.magnitude]);
        factors.for_each(|x| hash.update(&(x.to_bits().saturating_add(0x80) >> 8).to_le_bytes()));
    }
    hash.0
}

fn name_of(path: &Path) -> String {
    cut(&path.file_name().unwrap_or_default().to_string_lossy())
}

/// The beginning of a name.
fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}
