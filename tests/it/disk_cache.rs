//! Prefixes on disk: what a later start finds is what it would have computed, damaged entries go, and
//! the folder keeps its size.

use crate::folder::Folder;
use crate::saved::{self, listen, model, options, request, runner};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use teff::backend::pages::KvType;
use teff::engine::DiskCache;

fn cache(dir: &Folder, bytes_max: u64) -> DiskCache {
    let mut cache = DiskCache::new(&dir.file("prefixes"), bytes_max);
    cache.set_tokens_min(32);
    cache
}

fn entries(dir: &Folder) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir.file("prefixes")).into_iter().flatten().flatten();
    listed.map(|entry| entry.path()).collect()
}

/// A system prompt that others begin with, and a question.
fn prompt(question: u32) -> Vec<u32> {
    [saved::prompt(1, 100), saved::prompt(question, 12)].concat()
}

#[test]
fn a_later_start_finds_a_prompt_and_answers_with_the_same_bits() {
    for name in saved::NAMES {
        let dir = Folder::new(&format!("disk-{name}"));
        let (model, cache) = (model(name), cache(&dir, u64::MAX));
        let there = runner(&model, &options(KvType::F16));
        assert_eq!(cache.fetch(&there, &prompt(2)), 0);
        let (first, stats) = listen(there.submit(request(prompt(2), None)));
        assert_eq!(stats.n_cached, 0);
        assert!(cache.keep(&there, &prompt(2)).unwrap() > 0, "{name}");
        // What is there is not written twice, nor what it saves too little of.
        assert_eq!(cache.keep(&there, &prompt(2)).unwrap(), 0);
        let (other, other_stats) = listen(there.submit(request(prompt(3), None)));
        assert_eq!(cache.keep(&there, &prompt(3)).unwrap(), 0);
        let (_, again_stats) = listen(there.submit(request(prompt(2), None)));

        let here = runner(&model, &options(KvType::F16));
        assert!(cache.fetch(&here, &prompt(2)) >= 96, "{name}");
        // As if it had been computed here.
        let (again, stats) = listen(here.submit(request(prompt(2), None)));
        assert!(again == first, "{name}");
        assert_eq!(stats.n_cached, again_stats.n_cached, "{name}");
        // Another question behind the same system prompt.
        let here = runner(&model, &options(KvType::F16));
        cache.fetch(&here, &prompt(3));
        let (told, stats) = listen(here.submit(request(prompt(3), None)));
        assert!(told == other, "{name}");
        assert_eq!(stats.n_cached, other_stats.n_cached, "{name}");
        // Its window has passed the places at which the states are known.
        assert_eq!(stats.n_cached >= 64, name != "lfm2-dense", "{name}: {stats:?}");
        // Nothing is of use to another type of cache.
        assert_eq!(cache.fetch(&runner(&model, &options(KvType::Q8_0)), &prompt(2)), 0);
        assert_eq!(entries(&dir).len(), 1);
    }
}

#[test]
fn damaged_entries_are_removed_and_computed_anew() {
    let dir = Folder::new("disk-damage");
    let (model, cache) = (model("qwen3-dense"), cache(&dir, u64::MAX));
    let there = runner(&model, &options(KvType::F16));
    let (first, _) = listen(there.submit(request(prompt(2), None)));
    cache.keep(&there, &prompt(2)).unwrap();
    let path = entries(&dir).pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    for at in [0, 20, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        fs::write(&path, damaged).unwrap();
        // A process that has not looked at the entry before.
        let cache = self::cache(&dir, u64::MAX);
        let here = runner(&model, &options(KvType::F16));
        cache.fetch(&here, &prompt(2));
        assert_eq!(entries(&dir).len(), 0, "byte {at}");
        assert_eq!(listen(here.submit(request(prompt(2), None))).0, first);
    }
    // An entry that somebody else has removed.
    let cache = self::cache(&dir, u64::MAX);
    cache.keep(&there, &prompt(2)).unwrap();
    let here = runner(&model, &options(KvType::F16));
    fs::remove_dir_all(dir.file("prefixes")).unwrap();
    assert_eq!((cache.fetch(&here, &prompt(2)), cache.bytes()), (0, 0));
}

#[test]
fn the_folder_keeps_its_size_and_what_was_used_last() {
    let dir = Folder::new("disk-size");
    let (model, all) = (model("qwen3-dense"), cache(&dir, u64::MAX));
    let there = runner(&model, &options(KvType::F16));
    let texts: Vec<Vec<u32>> = (0..3).map(|i| saved::prompt(20 + i, 70)).collect();
    let keep = |cache: &DiskCache, i: usize| {
        listen(there.submit(request(texts[i].clone(), None)));
        cache.keep(&there, &texts[i]).unwrap()
    };
    let bytes = keep(&all, 0);
    let of_first = entries(&dir);
    assert_eq!(all.bytes(), bytes);
    keep(&all, 1);
    // The first is older, but used again.
    let age = |path: &PathBuf, secs: u64| {
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(secs)).unwrap();
    };
    entries(&dir).iter().for_each(|path| age(path, 50));
    age(&of_first[0], 100);
    let here = runner(&model, &options(KvType::F16));
    assert_eq!(all.fetch(&here, &texts[0]), 64);
    let two = cache(&dir, 2 * bytes + bytes / 2);
    assert!(keep(&two, 2) > 0);
    assert!(entries(&dir).len() == 2 && of_first[0].exists());
    assert!(two.bytes() <= 2 * bytes + bytes / 2);
    // What takes more than all of it is not written.
    let none = cache(&dir, bytes / 2);
    assert_eq!(keep(&none, 1), 0);
    assert_eq!(entries(&dir).len(), 2);
}

#[test]
fn processes_share_the_folder() {
    let dir = Folder::new("disk-share");
    let model = model("lfm2-dense");
    let truth: Vec<_> = (0..4)
        .map(|i| {
            let there = runner(&model, &options(KvType::F16));
            listen(there.submit(request(prompt(i), None))).0
        })
        .collect();
    let there = runner(&model, &options(KvType::F16));
    listen(there.submit(request(prompt(0), None)));
    let bytes = cache(&dir, u64::MAX).keep(&there, &prompt(0)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // So small that entries come and go.
                let mut cache = cache(&dir, 2 * bytes);
                cache.set_tokens_min(1);
                for i in [0, 1, 2, 3, 1, 0] {
                    let here = runner(&model, &options(KvType::F16));
                    cache.fetch(&here, &prompt(i));
                    let told = listen(here.submit(request(prompt(i), None))).0;
                    assert_eq!(told, truth[i as usize]);
                    cache.keep(&here, &prompt(i)).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_shared_prefix_is_known_whatever_follows_it() {
    for name in saved::NAMES {
        let model = model(name);
        let ask = |runner: &teff::Runner, question, shared| {
            let request = crate::changed(request(question, None), |r| r.shared_prefix = shared);
            listen(runner.submit(request))
        };
        // Longer than any window, so that nothing of the prefix is left at its end.
        let long = [saved::prompt(1, 70), saved::prompt(2, 90)].concat();
        let next = [saved::prompt(1, 70), saved::prompt(3, 5)].concat();
        let there = runner(&model, &options(KvType::F16));
        let (truth, _) = ask(&there, long.clone(), 0);
        let (next_truth, _) = ask(&runner(&model, &options(KvType::F16)), next.clone(), 0);
        let there = runner(&model, &options(KvType::F16));
        assert!(ask(&there, long.clone(), 70).0 == truth, "{name}");
        let (told, stats) = ask(&there, next.clone(), 70);
        assert!(told == next_truth, "{name}");
        assert!(stats.n_cached >= 64, "{name}: {stats:?}");
        // The prefix alone is worth an entry.
        let dir = Folder::new(&format!("disk-prefix-{name}"));
        let cache = cache(&dir, u64::MAX);
        assert!(cache.keep(&there, &long[..70]).unwrap() > 0, "{name}");
        let here = runner(&model, &options(KvType::F16));
        assert!(cache.fetch(&here, &next) >= 64, "{name}");
        let (told, stats) = ask(&here, next, 70);
        assert!(told == next_truth && stats.n_cached >= 64, "{name}: {stats:?}");
    }
}
