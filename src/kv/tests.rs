//! Tests of the cache's bookkeeping; those of the numbers that come out are in `tests/it`.

mod kept;
mod random;

use super::*;

const FULL: KvShape = KvShape { n_kv_heads: 2, k_dim: 4, v_dim: 4, window: None };
const WINDOW: KvShape = KvShape { window: Some(40), ..FULL };
/// Bytes of a page of either layer in F32.
const PAGE_BYTES: usize = PAGE_TOKENS * 2 * 8 * 4;

fn pool(kv_pages_max: usize) -> PagePool {
    PagePool::new(&[FULL, WINDOW], &[], KvType::F32, 200, kv_pages_max * PAGE_BYTES)
}

fn feed(pool: &mut PagePool, id: SeqId, n: usize) {
    pool.reserve(&[(id, n)]).unwrap();
    pool.commit();
}

#[test]
fn pages_are_taken_as_they_fill_and_windows_give_back() {
    let mut pool = pool(100);
    let id = pool.create();
    assert_eq!(pool.kv_bytes(), 0);
    feed(&mut pool, id, 1);
    assert_eq!(pool.kv_bytes(), 2 * PAGE_BYTES);
    feed(&mut pool, id, 31);
    assert_eq!(pool.kv_bytes(), 2 * PAGE_BYTES);
    for _ in 0..116 {
        feed(&mut pool, id, 1);
    }
    // 148 tokens: five pages of the full layer; the window of a token at 148 - 16, 93..=132, is
    // three pages in.
    assert_eq!(pool.kv_bytes(), (5 + 3) * PAGE_BYTES);
    let table = pool.table(id).unwrap();
    assert!(table[0].iter().all(Option::is_some));
    assert_eq!(
        table[1].iter().map(Option::is_some).collect::<Vec<_>>(),
        [false, false, true, true, true]
    );
    pool.remove(id);
    assert_eq!(pool.kv_bytes(), 0);
}

#[test]
fn layers_of_a_shape_share_tables() {
    let layers = [FULL, WINDOW, FULL, FULL];
    let mut pool = PagePool::new(&layers, &[], KvType::F32, 200, usize::MAX);
    let id = pool.create();
    feed(&mut pool, id, 33);
    assert_eq!(pool.table(id).unwrap().len(), 2);
    assert_eq!(pool.kv_bytes(), 2 * 4 * PAGE_BYTES);
}

#[test]
fn full_contexts_and_budgets_are_errors_that_change_nothing() {
    let mut pool = pool(4);
    let id = pool.create();
    assert_eq!(pool.reserve(&[(id, 201)]), Err(KvError::ContextFull { n_ctx: 200 }));
    assert_eq!(pool.reserve(&[(id, usize::MAX)]), Err(KvError::ContextFull { n_ctx: 200 }));
    let budget =
        |pages| KvError::OutOfBudget { needed: pages * PAGE_BYTES, kv_bytes_max: 4 * PAGE_BYTES };
    assert_eq!(pool.needed(id, 65), Ok(6 * PAGE_BYTES));
    assert_eq!(pool.reserve(&[(id, 65)]), Err(budget(6)));
    assert_eq!(pool.kv_bytes(), 0);
    feed(&mut pool, id, 64);
    assert_eq!(pool.reserve(&[(id, 1)]), Err(budget(2)));
    assert_eq!(pool.len(id), 64);
    pool.remove(id);
    assert_eq!(pool.reserve(&[(id, 1)]), Err(KvError::UnknownSequence));
}

/// State of a pool as a caller can see it.
fn seen(pool: &PagePool, ids: &[SeqId]) -> impl PartialEq + fmt::Debug + use<> {
    let of = |id: &SeqId| (pool.len(*id), pool.table(*id).cloned(), pool.states(*id));
    let known = |id: &SeqId| {
        let snapshots = pool.sequences.get(id).map(|seq| seq.snapshots.clone());
        snapshots.unwrap_or_default()
    };
    let sequences: Vec<_> = ids.iter().map(|id| (of(id), known(id))).collect();
    (pool.kv_bytes(), sequences)
}

#[test]
fn a_step_of_several_sequences_gets_all_its_room_or_none() {
    let states = [10];
    let budget = 6 * PAGE_BYTES + 4 * 40;
    let mut pool = PagePool::new(&[FULL], &states, KvType::F32, 200, budget);
    let (a, b) = (pool.create(), pool.create());
    feed(&mut pool, a, 20);
    feed(&mut pool, a, 12);
    feed(&mut pool, b, 33);
    let before = seen(&pool, &[a, b]);
    // The first has room for two pages, both together have not; or the second is too long.
    assert!(matches!(pool.reserve(&[(a, 64), (b, 64)]), Err(KvError::OutOfBudget { .. })));
    assert_eq!(seen(&pool, &[a, b]), before);
    assert!(matches!(pool.reserve(&[(a, 64), (b, 168)]), Err(KvError::ContextFull { .. })));
    assert_eq!(seen(&pool, &[a, b]), before);
    let gone = pool.create();
    pool.remove(gone);
    assert_eq!(pool.reserve(&[(a, 64), (gone, 1)]), Err(KvError::UnknownSequence));
    assert_eq!(seen(&pool, &[a, b]), before);
    pool.reserve(&[(a, 33), (b, 1)]).unwrap();
    assert_ne!(seen(&pool, &[a, b]), before);
    pool.unreserve();
    assert_eq!(seen(&pool, &[a, b]), before);
    [a, b].iter().for_each(|&id| pool.remove(id));
    assert_eq!(pool.kv_bytes(), 0);
}

#[test]
fn forks_share_until_someone_writes() {
    let mut pool = pool(100);
    let parent = pool.create();
    feed(&mut pool, parent, 40);
    let before = pool.kv_bytes();
    let child = pool.fork(parent, 36).unwrap();
    assert_eq!(pool.kv_bytes(), before);
    assert_eq!(pool.len(child), 36);
    // The second page of each layer is copied, the first stays shared.
    assert!(pool.ops().is_empty());
    pool.reserve(&[(child, 1)]).unwrap();
    assert_eq!(pool.kv_bytes(), before + 2 * PAGE_BYTES);
    let (a, b) = (pool.table(parent).unwrap(), pool.table(child).unwrap());
    assert_eq!(a[0][0], b[0][0]);
    assert_ne!(a[0][1], b[0][1]);
    let copy = |group: usize| CacheOp::CopyPage {
        group,
        from: a[group][1].unwrap(),
        to: b[group][1].unwrap(),
    };
    assert_eq!(pool.ops(), [copy(0), copy(1)]);
    pool.commit();
    assert!(pool.ops().is_empty());
    pool.remove(parent);
    assert_eq!(pool.kv_bytes(), before);
    pool.remove(child);
    assert_eq!(pool.kv_bytes(), 0);
}

#[test]
fn what_a_window_forgot_cannot_be_forked_or_truncated_to() {
    let mut pool = pool(100);
    let id = pool.create();
    feed(&mut pool, id, 146);
    assert!(pool.fork(id, 50).is_none());
    assert!(!pool.truncate(id, 50));
    assert_eq!(pool.len(id), 146);
    assert!(pool.truncate(id, 128));
    assert_eq!(pool.table(id).unwrap()[0].len(), 4);
    assert!(pool.fork(id, 128).is_some());
    assert!(pool.fork(id, 129).is_none());
}

#[test]
fn drafts_can_be_taken_back_at_every_position() {
    for window in [1, 2, 16, 31, 32, 33, 40, 64, 100] {
        let layers = [FULL, KvShape { window: Some(window), ..FULL }];
        let mut pool = PagePool::new(&layers, &[], KvType::F32, 400, usize::MAX);
        let id = pool.create();
        for len in 0..300 {
            let n = 1 + len % DRAFT_TOKENS_MAX;
            feed(&mut pool, id, n);
            for back in 1..=n.min(len) {
                let fork = pool.fork(id, len + n - back);
                pool.remove(fork.expect("a draft is taken back"));
            }
            assert!(pool.truncate(id, len + 1), "window {window}, {n} tokens behind {len}");
        }
    }
}

#[test]
fn states_and_their_copies_count_and_give_way() {
    const LENS: [usize; 2] = [10, 30];
    const STATE_BYTES: usize = 40 * 4;
    let pool = |spare: usize| {
        let budget = 2 * PAGE_BYTES + spare * STATE_BYTES;
        PagePool::new(&[FULL], &LENS, KvType::F32, 200, budget)
    };
    let mut none = pool(0);
    let id = none.create();
    assert!(none.reserve(&[(id, 33)]).is_err());
    assert_eq!((none.kv_bytes(), none.states(id).is_none()), (0, true));
    feed(&mut none, id, 20);
    assert_eq!(none.kv_bytes(), PAGE_BYTES + STATE_BYTES);
    assert!(none.fork(id, 20).is_some() && !none.truncate(id, 10));

    let mut pool = pool(2);
    let id = pool.create();
    feed(&mut pool, id, 20);
    feed(&mut pool, id, 5);
    feed(&mut pool, id, 1);
    // The states behind 20, 25 and 26 tokens.
    assert_eq!(pool.kv_bytes(), PAGE_BYTES + 3 * STATE_BYTES);
    // The second page takes the place of what was kept.
    feed(&mut pool, id, 10);
    assert!(pool.kv_bytes() <= 2 * PAGE_BYTES + 2 * STATE_BYTES);
    assert!(!pool.truncate(id, 20) && pool.truncate(id, 36));
    assert!(pool.truncate(id, 0));
    assert_eq!(pool.kv_bytes(), 0);
    pool.remove(id);
    assert_eq!(pool.kv_bytes(), 0);
}

#[test]
fn the_newest_copies_of_states_stay() {
    let mut pool = PagePool::new(&[], &[8], KvType::F32, 200, usize::MAX);
    let id = pool.create();
    for _ in 0..SNAPSHOTS_MAX + 2 {
        feed(&mut pool, id, 2);
    }
    // The newest is shared with the sequence until its next step.
    assert_eq!(pool.kv_bytes(), SNAPSHOTS_MAX * 32);
    feed(&mut pool, id, 1);
    assert_eq!(pool.kv_bytes(), (1 + SNAPSHOTS_MAX) * 32);
    assert!(pool.fork(id, 4).is_none() && pool.fork(id, 6).is_some());
}

#[test]
fn an_undone_step_leaves_pages_and_states_as_they_were() {
    let mut pool = PagePool::new(&[FULL, WINDOW], &[8], KvType::F32, 200, usize::MAX);
    let a = pool.create();
    feed(&mut pool, a, 30);
    feed(&mut pool, a, 1);
    let b = pool.fork(a, 30).unwrap();
    let c = pool.create();
    let before = seen(&pool, &[a, b, c]);
    pool.reserve(&[(a, 40), (b, 1), (c, 3)]).unwrap();
    // Only the first would change its states in place.
    assert!(matches!(pool.ops().last(), Some(CacheOp::ClearStates(_))));
    let n_ops = pool.ops().len();
    assert!(pool.make_restorable());
    assert_eq!(pool.ops().len(), n_ops + 1);
    assert!(pool.undo());
    assert_eq!(seen(&pool, &[a, b, c]), before);
    // Without that copy it is cut to where its states are known.
    pool.reserve(&[(a, 40), (b, 1), (c, 3)]).unwrap();
    assert!(!pool.undo());
    assert_eq!([a, b, c].map(|id| pool.len(id)), [30, 30, 0]);
    [a, b, c].iter().for_each(|&id| pool.remove(id));
    assert_eq!(pool.kv_bytes(), 0);
}

#[test]
fn copies_for_undoing_take_the_room_of_what_is_kept() {
    const STATE_BYTES: usize = 8 * 4;
    let budget = 2 * (PAGE_BYTES + STATE_BYTES);
    let mut pool = PagePool::new(&[FULL], &[8], KvType::F32, 200, budget);
    let (a, tokens) = (pool.create(), (0..20).collect::<Vec<u32>>());
    feed(&mut pool, a, 20);
    pool.retain(a, &tokens);
    pool.remove(a);
    let b = pool.create();
    feed(&mut pool, b, 1);
    assert_eq!((pool.kv_bytes(), pool.cached_bytes()), (budget, budget / 2));
    pool.reserve(&[(b, 1)]).unwrap();
    assert!(pool.make_restorable());
    assert!(pool.undo());
    assert_eq!((pool.len(b), pool.kv_bytes()), (1, budget / 2));
}
