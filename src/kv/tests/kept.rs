//! Things of a text that are listed, and put back into another pool.

use super::*;

/// Things of 90 tokens that were fed in parts of 25 tokens.
fn filled(pool: &mut PagePool, tokens: &[u32]) -> Vec<KeptAt> {
    let id = pool.create();
    for part in tokens.chunks(25) {
        feed(pool, id, part.len());
        pool.retain(id, tokens);
    }
    pool.retain_to_end(id, tokens);
    pool.remove(id);
    let kept = pool.kept(tokens);
    assert!(kept.is_sorted_by_key(|thing| thing.0));
    kept.into_iter().map(|thing| thing.0).collect()
}

fn pools(states: &[usize], bytes_max: usize) -> PagePool {
    PagePool::new(&[FULL, WINDOW], states, KvType::F32, 200, bytes_max)
}

#[test]
fn what_is_put_back_is_found_as_before() {
    let tokens: Vec<u32> = (0..90).collect();
    for (states, n_known, n_things) in [(&[][..], 90, 6), (&[10], 90, 16)] {
        let mut there = pools(states, usize::MAX);
        let things = filled(&mut there, &tokens);
        assert_eq!((there.known(&tokens), things.len()), (n_known, n_things), "{things:?}");
        let mut here = pools(states, there.kv_bytes());
        assert!(here.fitting(&tokens, &things).into_iter().all(|fits| fits));
        let since = here.begin_put();
        let placed = here.put(&tokens, since, &things);
        assert!(placed.len() == things.len() && placed.iter().all(Option::is_some));
        assert_eq!((here.known(&tokens), here.kv_bytes()), (n_known, there.kv_bytes()));
        assert_eq!(here.kv_bytes(), here.cached_bytes());
        let kept: Vec<KeptAt> = here.kept(&tokens).into_iter().map(|thing| thing.0).collect();
        assert_eq!(kept, things);
        // What is there takes no room again.
        let since = here.begin_put();
        assert_eq!(here.put(&tokens, since, &things), vec![None; things.len()]);
        let (id, n) = here.match_prefix(&tokens);
        assert_eq!((n, here.cached_bytes() < here.kv_bytes()), (n_known, true));
        here.remove(id);
        let last = *things.last().unwrap();
        here.forget(&tokens, last);
        assert_eq!(here.kept(&tokens).len(), things.len() - 1);
        here.evict(usize::MAX);
        assert_eq!(here.kv_bytes(), 0);
    }
}

#[test]
fn without_room_the_deepest_start_that_fits_is_put_back() {
    let tokens: Vec<u32> = (0..90).collect();
    for states in [&[][..], &[10]] {
        let mut there = pools(states, usize::MAX);
        let things = filled(&mut there, &tokens);
        let (known, bytes) = (there.known(&tokens), there.kv_bytes());
        let mut before = 0;
        for room in (0..bytes).step_by(40).chain([bytes]) {
            let mut here = pools(states, room);
            let fitting = here.fitting(&tokens, &things);
            let wanted = things.iter().zip(&fitting).filter(|thing| *thing.1);
            let wanted: Vec<KeptAt> = wanted.map(|thing| *thing.0).collect();
            let since = here.begin_put();
            assert_eq!(here.put(&tokens, since, &wanted).len(), wanted.len(), "{room} bytes");
            assert!(here.kv_bytes() <= room);
            let now = here.known(&tokens);
            assert!(now >= before && now <= known, "{room} bytes: {now} tokens after {before}");
            // A part that no sequence starts from is not put back.
            assert!(now > 0 || wanted.is_empty());
            before = now;
        }
        assert_eq!(before, known);
    }
}

#[test]
fn room_is_made_by_what_was_used_before_and_not_by_what_is_in_use() {
    let tokens: Vec<u32> = (0..90).collect();
    let mut there = pools(&[10], usize::MAX);
    let things = filled(&mut there, &tokens);
    let bytes = there.kv_bytes();
    let others: Vec<u32> = (500..590).collect();
    // What another text left goes.
    let mut here = pools(&[10], bytes);
    filled(&mut here, &others);
    assert!(here.fitting(&tokens, &things).into_iter().all(|fits| fits));
    let since = here.begin_put();
    assert_eq!(here.put(&tokens, since, &things).len(), things.len());
    assert_eq!((here.known(&tokens), here.known(&others)), (90, 0));
    // What a sequence uses, or what was put back as well, stays.
    let mut here = pools(&[10], bytes);
    let id = here.create();
    feed(&mut here, id, 60);
    let in_use = here.kv_bytes();
    let since = here.begin_put();
    let n = here.put(&tokens, since, &things).len();
    assert!(n > 0 && n < things.len());
    assert!(here.put(&tokens, since, &things).len() == n && here.len(id) == 60);
    assert_eq!(here.kv_bytes() - here.cached_bytes(), in_use);
}
