//! Numbers by which files are recognised.

use gguf_rs_lite::{GgufFile, Value};

/// Bytes of a tensor, at each of its ends, that a fingerprint sees: a file of gigabytes is not read
/// for it.
const SAMPLE_BYTES: usize = 4096;

/// FNV-1a (Fowler, Noll, Vo) of 64 bits: tells files apart that differ by chance.
pub struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Goes on with more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Number by which a model's weights are recognised: a hash of its tensors' names, types, shapes and first
/// and last bytes.
pub fn fingerprint(file: &GgufFile) -> u64 {
    let mut hash = Fnv::default();
    for info in file.tensors() {
        hash.update(info.name.as_bytes());
        hash.update(info.ty.to_string().as_bytes());
        info.dims.iter().for_each(|dim| hash.update(&dim.to_le_bytes()));
        let data = file.data(info);
        let n = data.len().min(SAMPLE_BYTES);
        hash.update(&data[..n]);
        hash.update(&data[data.len() - n..]);
    }
    hash.0
}

/// Number by which a model's file is recognised: that of its weights, and its metadata, with the
/// values that stand in for the file's own.
pub fn identity(file: &GgufFile) -> u64 {
    let mut hash = Fnv(fingerprint(file));
    for (key, value) in file.entries() {
        hash.update(key.as_bytes());
        add(&mut hash, value);
    }
    hash.0
}

fn add(hash: &mut Fnv, value: Value<'_>) {
    hash.update(&value.value_type().id().to_le_bytes());
    match value {
        Value::Str(text) => hash.update(text.as_bytes()),
        Value::Bytes(bytes) => hash.update(bytes),
        Value::Array(values) => {
            hash.update(&(values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| add(hash, value));
        }
        number => hash.update(format!("{number:?}").as_bytes()),
    }
    // No byte of a text: texts one after the other are told apart.
    hash.update(&[0xff]);
}
