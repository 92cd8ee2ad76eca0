//! What every engine must do, run against each of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::{Batch, EngineKind, KvEngine, KvError, Order, open};

const CACHE: usize = 1 << 20;

fn collect(engine: &dyn KvEngine, from: &[u8], to: &[u8], order: Order) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    engine
        .scan(from..to, order, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("scans");
    found
}

fn for_each_engine(test: impl Fn(EngineKind, &std::path::Path)) {
    for kind in EngineKind::ALL {
        let folder = tempfile::tempdir().expect("temporary folder");
        test(kind, &folder.path().join("kv"));
    }
}

#[test]
fn a_second_opener_is_told_that_the_file_is_in_use() {
    for_each_engine(|kind, path| {
        let _first = open(kind, path, CACHE).expect("opens");
        assert!(matches!(open(kind, path, CACHE), Err(KvError::Locked)), "{kind}");
    });
}

#[test]
fn a_file_of_nonsense_is_refused_without_a_panic() {
    for_each_engine(|kind, path| {
        let file = match kind {
            EngineKind::Redb => path.to_owned(),
            EngineKind::Sled => {
                std::fs::create_dir(path).expect("folder");
                path.join("conf")
            }
        };
        std::fs::write(&file, [0x5a; 9_000]).expect("writes");
        assert!(
            matches!(
                open(kind, path, CACHE),
                Err(KvError::Damaged(_) | KvError::Disk(_))
            ),
            "{kind}"
        );
    });
}

/// The file with the data of an engine at `path`.
fn data(kind: EngineKind, path: &std::path::Path) -> std::path::PathBuf {
    match kind {
        EngineKind::Redb => path.to_owned(),
        EngineKind::Sled => path.join("db"),
    }
}

fn written(kind: EngineKind, path: &std::path::Path) -> Box<dyn KvEngine> {
    let engine = open(kind, path, CACHE).expect("opens");
    let mut batch = Batch::default();
    batch.put(vec![1], vec![7; 3_000]);
    engine.commit(batch).expect("commits");
    engine
}

#[test]
fn a_closed_file_that_has_changed_is_not_opened() {
    for_each_engine(|kind, path| {
        drop(written(kind, path));
        drop(open(kind, path, CACHE).expect("nothing has changed"));
        let mut bytes = std::fs::read(data(kind, path)).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(data(kind, path), &bytes).expect("writes");
        for _ in 0..2 {
            assert!(
                matches!(open(kind, path, CACHE), Err(KvError::Damaged(_))),
                "{kind}"
            );
        }
        bytes[middle] ^= 1;
        std::fs::write(data(kind, path), &bytes).expect("writes");
        open(kind, path, CACHE).expect("is as it was");
    });
}

#[test]
fn a_file_that_has_gone_is_not_made_anew() {
    for_each_engine(|kind, path| {
        drop(written(kind, path));
        std::fs::write(data(kind, path), "").expect("empties");
        assert!(
            matches!(open(kind, path, CACHE), Err(KvError::Refused(_))),
            "{kind}"
        );
        std::fs::remove_file(data(kind, path)).expect("removes");
        assert!(
            matches!(open(kind, path, CACHE), Err(KvError::Refused(_))),
            "{kind}"
        );
    });
}

#[test]
fn after_a_crash_there_is_no_seal_to_go_by() {
    for_each_engine(|kind, path| {
        drop(written(kind, path));
        let _open = written(kind, path);
        let crashed = tempfile::tempdir().expect("folder");
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(path.parent().expect("a folder").join("."))
            .arg(crashed.path())
            .status();
        assert!(status.expect("runs").success());
        let engine = open(kind, &crashed.path().join("kv"), CACHE).expect("opens");
        assert_eq!(engine.get(&[1]).expect("reads"), Some(vec![7; 3_000]), "{kind}");
    });
}

#[test]
fn scans_go_both_ways_and_stop_when_told() {
    for_each_engine(|kind, path| {
        let engine = open(kind, path, CACHE).expect("opens");
        let mut batch = Batch::default();
        for n in 0_u8..10 {
            batch.put(vec![n], vec![n, n]);
        }
        engine.commit(batch).expect("commits");
        let up: Vec<_> = collect(&*engine, &[2], &[5], Order::Ascending)
            .into_iter()
            .map(|(k, _)| k[0])
            .collect();
        let down: Vec<_> = collect(&*engine, &[2], &[5], Order::Descending)
            .into_iter()
            .map(|(k, _)| k[0])
            .collect();
        assert_eq!((up, down), (vec![2, 3, 4], vec![4, 3, 2]), "{kind}");
        let mut seen = 0;
        engine
            .scan(&[0][..]..&[10][..], Order::Ascending, &mut |_, _| {
                seen += 1;
                if seen == 3 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .expect("scans");
        assert_eq!(seen, 3, "{kind}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Batches of random writes, reopened now and then, always equal a map in memory.
    #[test]
    fn behaves_like_a_sorted_map(
        batches in prop::collection::vec(
            (prop::collection::vec((0_u8..40, prop::option::of(0_usize..5_000)), 0..20), any::<bool>()),
            1..12,
        )
    ) {
        for kind in EngineKind::ALL {
            let folder = tempfile::tempdir().expect("temporary folder");
            let path = folder.path().join("kv");
            let mut engine = open(kind, &path, CACHE).expect("opens");
            let mut model = BTreeMap::new();
            // Neighbours begin alike, as the keys of one kind of entry do.
            let key = |number: u8| vec![number / 16, number];
            for (writes, reopen) in &batches {
                let mut batch = Batch::default();
                for (number, length) in writes {
                    let key = key(*number);
                    match length {
                        Some(length) => {
                            batch.put(key.clone(), vec![*number; *length]);
                            model.insert(key, vec![*number; *length]);
                        }
                        None => {
                            batch.delete(key.clone());
                            model.remove(&key);
                        }
                    }
                }
                engine.commit(batch).expect("commits");
                if *reopen {
                    drop(engine);
                    engine = open(kind, &path, CACHE).unwrap_or_else(|error| panic!("{kind}: {error}"));
                }
                let all: Vec<_> = model.clone().into_iter().collect();
                prop_assert_eq!(&collect(&*engine, &[0], &[255], Order::Ascending), &all);
                for number in 0..40 {
                    let key = key(number);
                    prop_assert_eq!(engine.get(&key).expect("reads"), model.get(&key).cloned());
                }
            }
        }
    }
}
