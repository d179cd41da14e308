//! Rows on their way to blocks, column after column.

use super::super::error::QuantizeError;
use super::super::method::Method;
use super::{Feedback, OutputLoss, add_times};
use teff_kernels::{Encoder, KernelTable, Scales, Scratch, TypeKernels};

/// Rows on their way.
pub(super) struct Rows<'a> {
    pub feedback: &'a Feedback,
    pub table: &'a KernelTable,
    pub kernels: &'a TypeKernels,
    pub method: &'a Method,
    /// `[rows][columns]`.
    pub x: &'a [f32],
    pub row_bytes: usize,
}

impl Rows<'_> {
    /// Writes the blocks: with feedback, or by the method alone where that loses less.
    pub fn quantize(
        &self,
        blocks: &mut [u8],
        buffers: &mut (Scratch, Vec<f32>),
    ) -> Result<OutputLoss, QuantizeError> {
        let (n, order) = (self.feedback.order.len(), &self.feedback.order);
        let importance = &self.feedback.importance[..];
        let mut errors = vec![0.0; self.x.len()];
        let mut y = vec![0.0; n];
        let all = self.x.chunks_exact(n).zip(blocks.chunks_exact_mut(self.row_bytes));
        for ((x, blocks), errors) in all.zip(errors.chunks_exact_mut(n)) {
            self.plain(x, Some(importance), blocks)?;
            self.kernels.dequantize(blocks, &mut y);
            errors.iter_mut().zip(order).for_each(|(e, &c)| *e = x[c] - y[c]);
        }
        let before = self.feedback.costs_of(self.table, &errors, buffers);
        let mut fed = vec![0; blocks.len()];
        self.feed(&mut fed, &mut errors, buffers)?;
        let after = self.feedback.costs_of(self.table, &errors, buffers);
        let sizes = self.x.chunks_exact(n).zip(errors.chunks_exact_mut(n));
        sizes.for_each(|(x, e)| e.iter_mut().zip(order).for_each(|(e, &c)| *e = x[c]));
        let sizes = self.feedback.costs_of(self.table, &errors, buffers);
        let mut loss = OutputLoss::default();
        let rows = blocks.chunks_exact_mut(self.row_bytes).zip(fed.chunks_exact(self.row_bytes));
        for (((blocks, fed), size), (before, after)) in
            rows.zip(sizes).zip(before.into_iter().zip(after))
        {
            if after < before {
                blocks.copy_from_slice(fed);
            }
            loss.add(OutputLoss { before, after: after.min(before), size });
        }
        Ok(loss)
    }

    fn plain(
        &self,
        x: &[f32],
        importance: Option<&[f32]>,
        blocks: &mut [u8],
    ) -> Result<(), QuantizeError> {
        self.method.quantize(self.kernels, x, importance, blocks).map_err(|_| {
            let (ty, method) = (self.kernels.ty, self.method.name);
            QuantizeError::NoMethod { name: String::new(), ty, method }
        })
    }

    /// Block after block for all rows; `errors` become what was lost, in the order of rounding.
    fn feed(
        &self,
        blocks: &mut [u8],
        errors: &mut [f32],
        buffers: &mut (Scratch, Vec<f32>),
    ) -> Result<(), QuantizeError> {
        let (n, len) = (self.feedback.order.len(), self.feedback.len);
        let block_bytes = self.kernels.ty.block_bytes();
        errors.fill(0.0);
        let mean_squares: Vec<f32> = self
            .x
            .chunks_exact(n)
            .map(|x| x.iter().map(|x| x * x).sum::<f32>() / n as f32)
            .collect();
        for block in 0..n / len {
            self.feedback.add_of_before(self.table, block, errors, buffers);
            // Columns of a block lie side by side in the file, too.
            let at = self.feedback.order[block * len] / len;
            for (row, y) in buffers.1.chunks_mut(len).enumerate() {
                let x = &self.x[row * n + at * len..][..len];
                let out = &mut blocks[row * self.row_bytes + at * block_bytes..][..block_bytes];
                let errors = &mut errors[row * n + block * len..][..len];
                match self.kernels.encoder() {
                    Ok(encoder) => {
                        let mean_square = mean_squares[row];
                        self.feed_codes(encoder, block, (x, mean_square), y, errors, out);
                    }
                    Err(_) => self.feed_whole(block, x, y, errors, out)?,
                }
            }
        }
        Ok(())
    }

    /// The weights of a block after what `y` adds, in the file's order, and the columns' importances.
    fn changed(&self, block: usize, x: &[f32], y: &[f32]) -> (Vec<f32>, &[f32]) {
        let len = self.feedback.len;
        let columns = &self.feedback.order[block * len..][..len];
        let mut changed = x.to_vec();
        columns.iter().zip(y).for_each(|(c, y)| changed[c % len] += y);
        (changed, &self.feedback.importance[columns[0] / len * len..][..len])
    }

    /// A block column by column.
    fn feed_codes(
        &self,
        encoder: &Encoder,
        block: usize,
        (x, mean_square): (&[f32], f32),
        y: &mut [f32],
        errors: &mut [f32],
        out: &mut [u8],
    ) {
        let len = self.feedback.len;
        let (changed, importance) = self.changed(block, x, y);
        let scales: Scales = encoder.fit_block(&changed, Some(importance), mean_square).as_stored();
        let mut codes = [0; 256];
        for p in 0..len {
            let c = self.feedback.order[block * len + p] % len;
            let (code, value) = encoder.code(&scales, c, x[c] + y[p]);
            codes[c] = code;
            errors[p] = x[c] - value;
            let within = &self.feedback.within[(block * len + p) * len + p + 1..];
            add_times(&mut y[p + 1..], errors[p], within);
        }
        encoder.assemble(&codes[..len], &[scales], out);
    }

    /// A block whose codes stand for several elements each.
    fn feed_whole(
        &self,
        block: usize,
        x: &[f32],
        y: &[f32],
        errors: &mut [f32],
        out: &mut [u8],
    ) -> Result<(), QuantizeError> {
        let len = self.feedback.len;
        let (changed, importance) = self.changed(block, x, y);
        self.plain(&changed, Some(importance), out)?;
        let mut values = [0.0; 256];
        self.kernels.dequantize(out, &mut values[..len]);
        for (p, error) in errors.iter_mut().enumerate() {
            let c = self.feedback.order[block * len + p] % len;
            *error = x[c] - values[c];
        }
        Ok(())
    }
}
