//! Trained matrices of low rank as a file, which `model/adapter.rs` reads.

use super::parameters::LoraShape;
use super::{TuneError, Tuner};
use gguf_rs_lite::{GgmlType, GgufWriter, OwnedValue, PartFile};
use std::path::Path;

impl Tuner {
    /// Writes the adapter, for models of this architecture.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_adapter(
        &self,
        path: &Path,
        architecture: &str,
        shape: LoraShape,
        entries: &[(String, OwnedValue)],
    ) -> Result<(), TuneError> {
        let part = PartFile::create(path)?;
        let mut writer = GgufWriter::new(std::io::BufWriter::new(part.file()));
        writer.add("general.type", "adapter")?;
        writer.add("general.architecture", architecture)?;
        writer.add("adapter.type", "lora")?;
        writer.add("adapter.lora.alpha", shape.alpha)?;
        for (key, value) in entries {
            writer.add(&key[..], value.clone())?;
        }
        let all = &self.parameters.all;
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
            let bytes: Vec<u8> = parameter.values.iter().flat_map(|x| x.to_le_bytes()).collect();
            data.write_tensor(&bytes)?;
        }
        data.finish()?;
        Ok(part.finish()?)
    }
}
