//! Fuzzes the reader of importance matrices: any bytes are refused, or statistics that can be merged
//! and written in both forms, of which the newer gives the same back.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use teff::quantize::imatrix::Imatrix;

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

fuzz_target!(|data: &[u8]| {
    let Ok(imatrix) = Imatrix::from_bytes(data.to_vec()) else { return };
    for (_, statistics) in imatrix.weights() {
        let importances = statistics.importances();
        assert_eq!(importances.len(), statistics.columns() * statistics.matrices());
    }
    let mut old = Vec::new();
    imatrix.write_dat(&mut old).expect("room in memory");
    // What has no weights, or a name that only the newer form takes, is refused.
    let _ = Imatrix::from_bytes(old);
    let mut new = Vec::new();
    if imatrix.write_gguf(&mut new).is_ok() {
        assert_eq!(Imatrix::from_bytes(new).expect("what was written"), imatrix);
    }
    let mut twice = imatrix.clone();
    twice.set_chunk_size(512);
    let _ = twice.merge(&imatrix);
});
