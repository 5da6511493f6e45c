//! The public type in tasks and time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::*;

#[derive(Debug, thiserror::Error)]
#[error("no database ({0})")]
struct NoDatabase(u64);

type Text = Cache<str, String>;

fn cache() -> Text {
    Cache::new(CacheOptions::new("test"))
}

fn meaning(pattern: &str) -> Arc<Clear> {
    Arc::new(Clear::new(&[pattern.to_owned()], &[]))
}

async fn load(value: &str) -> Result<Loaded<String>, NoDatabase> {
    Ok(Loaded::new(value.to_owned()))
}

/// Lets every other task go as far as it can.
async fn others_go_on() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_load_answers_everybody() {
    let (cache, loads, gate) = (cache(), Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (cache, loads, gate) = (cache.clone(), Arc::clone(&loads), Arc::clone(&gate));
            tokio::spawn(async move {
                let load = || async {
                    loads.fetch_add(1, Ordering::Relaxed);
                    gate.notified().await;
                    load("v").await
                };
                cache.get_or_load("k", load).await.unwrap()
            })
        })
        .collect();
    others_go_on().await;
    gate.notify_waiters();
    for call in calls {
        assert_eq!(call.await.unwrap(), "v");
    }
    assert_eq!(loads.load(Ordering::Relaxed), 1);
    assert_eq!(cache.get("k").as_deref(), Some("v"));
    let counters = cache.counters();
    assert_eq!((counters.misses, counters.hits, counters.entries), (50, 1, 1));
}

#[tokio::test]
async fn a_failure_fails_for_those_who_waited_and_is_not_kept() {
    let (cache, gate) = (cache(), Arc::new(Notify::new()));
    let calls: Vec<_> = (0..3)
        .map(|number| {
            let (cache, gate) = (cache.clone(), Arc::clone(&gate));
            tokio::spawn(async move {
                let load = || async {
                    gate.notified().await;
                    Err::<Loaded<String>, _>(NoDatabase(number))
                };
                cache.get_or_load("k", load).await.unwrap_err().to_string()
            })
        })
        .collect();
    others_go_on().await;
    gate.notify_waiters();
    for call in calls {
        assert_eq!(call.await.unwrap(), "no database (0)");
    }
    assert_eq!(cache.get_or_load("k", || load("v")).await.unwrap(), "v");
    assert_eq!(cache.counters().failures, 1);
}

#[tokio::test]
async fn a_cancelled_or_broken_load_makes_way_for_another() {
    let cache = cache();
    for broken in [false, true] {
        let (begun, has_begun) = oneshot::channel();
        let first = tokio::spawn({
            let cache = cache.clone();
            async move {
                let load = || async {
                    begun.send(()).unwrap();
                    if broken {
                        others_go_on().await;
                        panic!("a defect of the load");
                    }
                    std::future::pending::<Result<Loaded<String>, NoDatabase>>().await
                };
                cache.get_or_load("k", load).await.unwrap()
            }
        });
        has_begun.await.unwrap();
        let second = tokio::spawn({
            let cache = cache.clone();
            async move { cache.get_or_load("k", || load("v")).await.unwrap() }
        });
        others_go_on().await;
        first.abort();
        assert_eq!(second.await.unwrap(), "v");
        assert!(first.await.is_err());
        cache.clear(&meaning("k"));
    }
}

/// A clone that panics must not leave anybody waiting either.
#[tokio::test]
async fn a_value_that_breaks_leaves_nobody_waiting() {
    struct Fragile(Arc<AtomicU64>);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "the first one breaks");
            Self(Arc::clone(&self.0))
        }
    }
    let cache: Cache<str, Fragile> = Cache::new(CacheOptions::new("test"));
    let clones = Arc::new(AtomicU64::new(0));
    for sound in [false, true] {
        let (cache, clones) = (cache.clone(), Arc::clone(&clones));
        let call = tokio::spawn(async move {
            let load = || async { Ok::<_, NoDatabase>(Loaded::new(Fragile(clones))) };
            cache.get_or_load("k", load).await.map(drop)
        });
        assert_eq!(call.await.is_ok(), sound);
    }
}

#[tokio::test]
async fn a_slow_load_does_not_bring_back_what_was_cleared() {
    let cache = cache();
    let (read, has_read) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel();
    let slow = tokio::spawn({
        let cache = cache.clone();
        async move {
            let load = || async {
                read.send(()).unwrap();
                may_go_on.await.unwrap();
                load("old").await
            };
            cache.get_or_load("switch:1", load).await.unwrap()
        }
    });
    has_read.await.unwrap();
    cache.clear(&meaning("switch:*"));
    // Who calls now must not get what was read before.
    let late = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_load("switch:1", || load("new")).await.unwrap() }
    });
    others_go_on().await;
    go_on.send(()).unwrap();
    assert_eq!(slow.await.unwrap(), "old", "it called before");
    assert_eq!(late.await.unwrap(), "new");
    assert_eq!(cache.get("switch:1").as_deref(), Some("new"));
    assert_eq!(cache.counters().inconsistencies, 1);
}

#[tokio::test(start_paused = true)]
async fn time_to_live_is_the_shorter_one() {
    let options = CacheOptions::new("test").ttl(Duration::from_secs(10));
    let cache: Text = Cache::new(options);
    let with_ttl = async |key: &str, seconds: u64| {
        let load = || async move {
            Ok::<_, NoDatabase>(Loaded::new("v".to_owned()).ttl(Duration::from_secs(seconds)))
        };
        cache.get_or_load(key, load).await.unwrap();
    };
    with_ttl("short", 1).await;
    with_ttl("long", u64::MAX).await;
    tokio::time::advance(Duration::from_millis(1_001)).await;
    assert_eq!((cache.get("short"), cache.get("long").is_some()), (None, true));
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(cache.get("long"), None);
}

#[tokio::test]
async fn bytes_are_bounded_as_they_are_weighed() {
    let options = CacheOptions::new("test").bytes_max(10_000, String::len).entries_max(100);
    let cache: Text = Cache::new(options);
    for number in 0..50 {
        let value = "v".repeat(1_000);
        cache.get_or_load(&format!("k{number}"), || load(&value)).await.unwrap();
    }
    let counters = cache.counters();
    assert!(counters.bytes <= 10_000 && counters.entries >= 5, "{counters:?}");
    assert_eq!(counters.evictions, 50 - counters.entries);
    // One that does not fit is given, and not kept.
    let huge = "v".repeat(20_000);
    assert_eq!(cache.get_or_load("huge", || load(&huge)).await.unwrap().len(), 20_000);
    assert_eq!(cache.get("huge"), None);
}

#[tokio::test(start_paused = true)]
async fn a_registry_clears_distrusts_and_forgets_caches() {
    let registry = Registry::default();
    let texts: Text = registry.cache(CacheOptions::new("texts"));
    let numbers: Cache<String, u64> = registry.cache(CacheOptions::new("numbers"));
    texts.get_or_load("a", || load("v")).await.unwrap();
    let tagged = || async { Ok::<_, NoDatabase>(Loaded::new(1).tag("t")) };
    numbers.get_or_load(&"a".to_owned(), tagged).await.unwrap();
    registry.clear(&Arc::new(Clear::new(&[], &["t".to_owned()])));
    assert_eq!((texts.get("a").is_some(), numbers.get(&"a".to_owned())), (true, None));
    let second = Duration::from_secs(1);
    registry.trust(Some(Instant::now() + second));
    assert!(registry.is_trusted() && texts.get("a").is_some());
    tokio::time::advance(second).await;
    assert_eq!((registry.is_trusted(), texts.get("a")), (false, None));
    assert_eq!(texts.get_or_load("a", || load("w")).await.unwrap(), "w");
    let born_later: Text = registry.cache(CacheOptions::new("texts"));
    born_later.get_or_load("a", || load("v")).await.unwrap();
    assert_eq!(born_later.get("a"), None);
    registry.trust(None);
    assert_eq!(texts.get("a").as_deref(), Some("w"));
    assert_eq!(born_later.get("a").as_deref(), Some("v"));
    assert_eq!(registry.counters()["texts"].entries, 2, "of one name, counted together");
    drop((texts, born_later));
    assert_eq!(registry.counters().keys().copied().collect::<Vec<_>>(), ["numbers"]);
}
