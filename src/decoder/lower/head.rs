//! From the residual stream to the results: logits, or embeddings of tokens.

use super::Lowering;
use crate::backend::program::{BoundWeight, Epilogue, Linear, Norm, Op, Output, Part, Tokens};
use crate::model::ModelError;

impl Lowering<'_> {
    /// The last operations; `table` is the embedding, which may be the head's matrix too.
    pub(super) fn head(&mut self, table: BoundWeight) -> Result<(), ModelError> {
        let (n_embd, n_vocab) = (self.spec.n_embd, self.program.n_vocab);
        let norm = self.spec.head.norm.map(|name| self.norm(name, n_embd)).transpose()?;
        let head = match self.binder.has("output.weight") {
            true => self.part("output", n_vocab, n_embd)?,
            false => {
                let bias = self.binder.optional_vector("output.bias", n_vocab)?;
                Part { weight: table, scale: 1.0, bias }
            }
        };
        if !self.spec.head.logits {
            return self.vectors(norm);
        }
        self.program.n_out = n_vocab;
        self.program.ops.push(Op::Linear(Linear {
            input: self.x,
            norm,
            parts: vec![head],
            addend: None,
            epilogue: Epilogue::None,
            out: Output::Logits { scale: self.spec.head.scale, softcap: self.spec.head.softcap },
            rows: Tokens::Outputs,
        }));
        Ok(())
    }

    /// The residual stream as the result, behind the dense layers that the file has.
    fn vectors(&mut self, mut norm: Option<Norm>) -> Result<(), ModelError> {
        let (mut input, mut width) = (self.x, self.spec.n_embd);
        for name in self.spec.head.dense {
            let Some(dims) = self.binder.dims(&format!("{name}.weight")) else { continue };
            let rows = dims.get(1).map_or(1, |&n| n.max(1) as usize);
            let part = self.part(name, rows, width)?;
            let out = self.program.buffer(rows);
            self.store_product(input, norm.take(), part, out, Tokens::Outputs);
            (input, width) = (out, rows);
        }
        self.program.n_out = width;
        self.program.ops.push(Op::Result { input, norm });
        Ok(())
    }
}
