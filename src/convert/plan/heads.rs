//! Orders of the rows of heads.

/// Rows of heads from two halves to pairs.
pub(super) fn pairs(rows: u64, heads: u64) -> Result<Vec<u32>, String> {
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        return Err(format!("no {heads} heads of an even number of rows"));
    }
    let d = rows / heads;
    let head = |h: u64| (0..d).map(move |i| (h * d + i % 2 * (d / 2) + i / 2) as u32);
    Ok((0..heads).flat_map(head).collect())
}

/// [`pairs`] of the first half of each head; the second half stays.
pub(super) fn pairs_of_half(rows: u64, heads: u64) -> Result<Vec<u32>, String> {
    if heads == 0 || !rows.is_multiple_of(4 * heads) {
        return Err(format!("no {heads} heads of two halves of pairs"));
    }
    let mut order = pairs(rows, heads * 2)?;
    let half = (rows / heads / 2) as usize;
    for (i, run) in order.chunks_mut(half).enumerate().filter(|(i, _)| i % 2 == 1) {
        run.iter_mut().enumerate().for_each(|(j, row)| *row = (i * half + j) as u32);
    }
    Ok(order)
}

/// Rows of `groups` of queries, a key and a value: all queries, then all keys, then all values.
pub(super) fn groups(rows: u64, groups: u64, queries: u64) -> Result<Vec<u32>, String> {
    let heads = queries + 2;
    if groups == 0 || !rows.is_multiple_of(groups * heads) {
        return Err(format!("no {groups} groups of {queries} queries, a key and a value"));
    }
    let d = rows / (groups * heads);
    let run = |from: u64, n: u64| {
        let start = move |g: u64| (g * heads + from) * d;
        (0..groups).flat_map(move |g| start(g) as u32..(start(g) + n * d) as u32)
    };
    Ok(run(0, queries).chain(run(queries, 1)).chain(run(queries + 1, 1)).collect())
}

/// Rows of heads of queries of which every nth one shares a head of keys: those that share one beside each
/// other, `each` of them.
pub(super) fn untiled(rows: u64, heads: u64, each: u64) -> Result<Vec<u32>, String> {
    if heads == 0 || each == 0 || !heads.is_multiple_of(each) || !rows.is_multiple_of(heads) {
        return Err(format!("no {heads} heads of which {each} share keys"));
    }
    let (keys, d) = (heads / each, rows / heads);
    let head = |key: u64, i: u64| (0..d).map(move |row| ((i * keys + key) * d + row) as u32);
    Ok((0..keys).flat_map(|key| (0..each).flat_map(move |i| head(key, i))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_laid_anew() {
        assert_eq!(pairs(8, 2), Ok(vec![0, 2, 1, 3, 4, 6, 5, 7]));
        assert!(pairs(6, 2).is_err());
        // Two heads of [q, k, v] with two dimensions each.
        assert_eq!(groups(12, 2, 1), Ok(vec![0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]));
        // One key head with two queries.
        assert_eq!(groups(4, 1, 2), Ok(vec![0, 1, 2, 3]));
        // Two key heads with three queries each.
        assert_eq!(untiled(6, 6, 3), Ok(vec![0, 2, 4, 1, 3, 5]));
        assert!(untiled(6, 6, 4).is_err() && untiled(6, 6, 0).is_err());
    }
}
