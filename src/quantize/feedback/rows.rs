//! Rows on their way to blocks, column after column.

use super::super::at_inputs::AtInputs;
use super::super::error::QuantizeError;
use super::super::form::Buffers;
use super::super::zeros;
use super::{Feedback, add_times};
use teff_kernels::{Encoder, Scales};

/// Rows on their way.
pub(in super::super) struct Feed<'a> {
    pub feedback: &'a Feedback,
    pub way: &'a AtInputs<'a>,
    /// `[rows][columns]`.
    pub x: &'a [f32],
    pub row_bytes: usize,
}

impl Feed<'_> {
    /// Writes the blocks; returns what each column lost.
    pub fn quantize(
        &self,
        blocks: &mut [u8],
        buffers: &mut Buffers,
    ) -> Result<Vec<f32>, QuantizeError> {
        let (n, order) = (self.feedback.order.len(), &self.feedback.order);
        let mut in_order = vec![0.0; self.x.len()];
        self.feed(blocks, &mut in_order, buffers)?;
        let mut errors = vec![0.0; self.x.len()];
        for (errors, in_order) in errors.chunks_exact_mut(n).zip(in_order.chunks_exact(n)) {
            order.iter().zip(in_order).for_each(|(&c, e)| errors[c] = *e);
        }
        Ok(errors)
    }

    /// Block after block for all rows; `errors` become what was lost, in the order of rounding.
    fn feed(
        &self,
        blocks: &mut [u8],
        errors: &mut [f32],
        buffers: &mut Buffers,
    ) -> Result<(), QuantizeError> {
        let (n, len) = (self.feedback.order.len(), self.feedback.len);
        let block_bytes = self.way.kernels.ty.block_bytes();
        let mean_squares: Vec<f32> = self
            .x
            .chunks_exact(n)
            .map(|x| x.iter().map(|x| x * x).sum::<f32>() / n as f32)
            .collect();
        let keeps: Vec<bool> =
            self.x.chunks_exact(n).map(|x| self.way.keep_zeros.keeps(x)).collect();
        for block in 0..n / len {
            self.feedback.add_of_before(self.way.table, block, errors, buffers);
            // Columns of a block lie side by side in the file, too.
            let at = self.feedback.order[block * len] / len;
            for (row, y) in buffers.1.chunks_mut(len).enumerate() {
                let x = &self.x[row * n + at * len..][..len];
                let out = &mut blocks[row * self.row_bytes + at * block_bytes..][..block_bytes];
                let errors = &mut errors[row * n + block * len..][..len];
                match self.way.kernels.encoder() {
                    Ok(encoder) => {
                        let known = (mean_squares[row], keeps[row]);
                        self.feed_codes(encoder, block, (x, known), y, errors, out);
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
        (changed, &self.way.form.importance()[columns[0] / len * len..][..len])
    }

    /// A block column by column; of its row are known the mean square and whether zeros stay.
    fn feed_codes(
        &self,
        encoder: &Encoder,
        block: usize,
        (x, (mean_square, keeps)): (&[f32], (f32, bool)),
        y: &mut [f32],
        errors: &mut [f32],
        out: &mut [u8],
    ) {
        let len = self.feedback.len;
        let (mut changed, importance) = self.changed(block, x, y);
        if keeps {
            changed.iter_mut().zip(x).filter(|(_, x)| **x == 0.0).for_each(|(own, _)| *own = 0.0);
        }
        let fitted = encoder.fit_block(&changed, Some(importance), mean_square).as_stored();
        let scales: Scales = match keeps {
            true => zeros::refit(encoder, &changed, Some(importance), fitted),
            false => fitted,
        };
        let zero = |c: usize| {
            let is_zero = keeps && x[c] == 0.0;
            is_zero
                .then(|| zeros::zero_code(encoder, &encoder.group_of(&scales, c / encoder.group)))
        };
        let mut codes = [0; 256];
        for p in 0..len {
            let c = self.feedback.order[block * len + p] % len;
            let (code, value) = match zero(c).flatten() {
                Some(code) => (code, 0.0),
                None => encoder.code(&scales, c, x[c] + y[p]),
            };
            codes[c] = code;
            errors[p] = x[c] - value;
            add_times(&mut y[p + 1..], errors[p], self.feedback.within(block * len + p));
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
        self.way.alone(&changed, importance, out)?;
        let mut values = [0.0; 256];
        self.way.kernels.dequantize(out, &mut values[..len]);
        for (p, error) in errors.iter_mut().enumerate() {
            let c = self.feedback.order[block * len + p] % len;
            *error = x[c] - values[c];
        }
        Ok(())
    }
}
