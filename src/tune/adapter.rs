//! Trained matrices of low rank as a file, which `model/adapter.rs` reads.

use super::parameters::LoraShape;
use super::{TuneError, Tuner};
use crate::engine::Model;
use crate::receipt::{self, Known, Request, TensorHash, Written};
use gguf_rs_lite::{GgmlType, GgufWriter, PartFile};
use std::path::Path;

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

impl Tuner {
    /// The hash of a model's tensors, as receipts have it.
    ///
    /// # Errors
    /// The file was cut meanwhile.
    pub fn source_hash(&self, model: &Model) -> Result<String, TuneError> {
        Ok(receipt::unstopped(|goes_on| receipt::hash_of_file(model.file(), goes_on))?)
    }

    /// Writes the adapter, for models of this architecture, with a receipt: what it says beside hashes, and
    /// the hash of the model's tensors.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_adapter(
        &self,
        path: &Path,
        architecture: &str,
        shape: LoraShape,
        (request, source): (&Request, String),
    ) -> Result<(), TuneError> {
        let part = PartFile::create(path)?;
        let mut writer = GgufWriter::new(std::io::BufWriter::new(part.file()));
        writer.add("general.type", "adapter")?;
        writer.add("general.architecture", architecture)?;
        writer.add("adapter.type", "lora")?;
        writer.add("adapter.lora.alpha", shape.alpha)?;
        let all = &self.parameters.all;
        let written = all.iter().map(|parameter| {
            let mut hash = TensorHash::default();
            hash.update(&bytes_of(&parameter.values));
            Written { sha256: hash.finish(), ..Written::default() }
        });
        let known = Known { source, tensors: written.collect(), ..Known::default() };
        let names = all.iter().map(|parameter| &parameter.name[..]);
        for (key, value) in request.metadata(names, false, &known) {
            writer.add(key, value)?;
        }
        for parameter in all {
            let (rank, n) = (shape.rank as u64, parameter.values.len() as u64);
            let dims = match parameter.name.ends_with(".lora_a") {
                true => [n / rank, rank],
                false => [rank, n / rank],
            };
            writer.declare(&parameter.name[..], GgmlType::F32, &dims)?;
        }
        let mut data = writer.write_header()?;
        for parameter in all {
            data.write_tensor(&bytes_of(&parameter.values))?;
        }
        data.finish()?;
        Ok(part.finish()?)
    }
}
