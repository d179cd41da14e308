//! The input of a step as the shaders read it, in words. `common.wgsl` says what the header is.

use super::dispatch::GROUPS_FROM;
use crate::backend::StepInput;
use crate::backend::pages::{LayerGroup, PAGE_TOKENS};
use crate::backend::program::Rope;

/// The words of a step.
pub(super) fn words(input: &StepInput<'_>, groups: &[LayerGroup], bidirectional: bool) -> Vec<u32> {
    let n = input.tokens.len();
    let mut words = vec![0; GROUPS_FROM + groups.len()];
    words[0] = n as u32;
    words[1] = input.outputs.len() as u32;
    for (i, list) in [input.outputs, input.tokens, input.positions].into_iter().enumerate() {
        words[2 + i] = words.len() as u32;
        words.extend_from_slice(list);
    }
    let ends = sequence_ends(input);
    for (i, group) in groups.iter().enumerate() {
        let first = words.len();
        words[GROUPS_FROM + i] = first as u32;
        words.resize(first + 4 * n, 0);
        for t in 0..n {
            let at = input.positions[t] as usize;
            let window = group.shape.window.unwrap_or(usize::MAX);
            let end = match bidirectional {
                true => at.saturating_add(window).min(ends[t]),
                false => at + 1,
            };
            words[first + 4 * t + 1] = (at + 1).saturating_sub(window) as u32;
            words[first + 4 * t + 2] = end as u32;
        }
        for fill in input.fills.iter().filter(|fill| fill.group == i) {
            for k in 0..fill.n {
                let slot = fill.page.0 as usize * PAGE_TOKENS + fill.slot + k;
                words[first + 4 * (fill.token + k) + 3] = slot as u32;
            }
        }
        let mut start = 0;
        for run in input.sequence.chunk_by(|a, b| a == b) {
            let table = words.len() as u32;
            let pages = &input.tables[run[0] as usize][i];
            // What a window has passed is not asked for.
            words.extend(pages.iter().map(|page| page.map_or(0, |page| page.0)));
            (start..start + run.len()).for_each(|t| words[first + 4 * t] = table);
            start += run.len();
        }
    }
    words
}

/// Behind the last token of each token's sequence.
fn sequence_ends(input: &StepInput<'_>) -> Vec<usize> {
    let runs = input.sequence.chunk_by(|a, b| a == b);
    let mut ends = Vec::with_capacity(input.tokens.len());
    for run in runs {
        let last = input.positions[ends.len() + run.len() - 1] as usize;
        ends.resize(ends.len() + run.len(), last + 1);
    }
    ends
}

/// Cosines and sines of the batch's positions for one table, `[tokens][2][pairs]`; angles are taken
/// in f64.
pub(super) fn angles(rope: &Rope, positions: &[u32]) -> Vec<f32> {
    let mut angles = Vec::with_capacity(positions.len() * 2 * rope.inv_freq.len());
    for &position in positions {
        let turned = rope.inv_freq.iter().map(|freq| (f64::from(position) * freq).sin_cos());
        angles.extend(turned.clone().map(|(_, cos)| cos as f32 * rope.magnitude));
        angles.extend(turned.map(|(sin, _)| sin as f32 * rope.magnitude));
    }
    angles
}

/// Numbers as bytes.
pub(super) fn bytes_of_words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Numbers as bytes.
pub(super) fn bytes_of_floats(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Appends the numbers that bytes hold.
pub(super) fn read_floats(bytes: &[u8], out: &mut Vec<f32>) {
    out.extend(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
}
