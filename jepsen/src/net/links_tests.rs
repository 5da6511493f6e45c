use super::*;

const FRAMES: u32 = 10_000;
const BYTES: usize = 1000;

fn pair(from: &str, to: &str) -> Pair {
    (from.to_owned(), to.to_owned())
}

/// Judges many frames, one each millisecond.
fn judged(links: &Links, from: &str, to: &str) -> Vec<Fate> {
    let start = Instant::now();
    (0..FRAMES).map(|n| links.judge(from, to, BYTES, start + Duration::from_millis(u64::from(n)))).collect()
}

fn dropped(fates: &[Fate]) -> usize {
    fates.iter().filter(|fate| **fate == Fate::Drop).count()
}

#[test]
fn a_cut_is_one_way_counts_and_ends() {
    let links = Links::new(1);
    let cut = links.impose(&[pair("a", "b")], Impairment::Cut);
    assert_eq!(dropped(&judged(&links, "a", "b")), FRAMES as usize);
    assert!(judged(&links, "b", "a").iter().all(|fate| *fate == Fate::Pass));
    assert!(links.is_cut("a", "b") && !links.is_cut("b", "a"));
    let hits = links.lift(cut);
    assert_eq!(hits, Hits { frames: u64::from(FRAMES), bytes: u64::from(FRAMES) * BYTES as u64 });
    assert_eq!(links.judge("a", "b", BYTES, Instant::now()), Fate::Pass);
}

#[test]
fn one_of_two_cuts_on_a_pair_can_end() {
    let links = Links::new(1);
    let first = links.impose(&[pair("a", "b"), pair("b", "a")], Impairment::Cut);
    let second = links.impose(&[pair("a", "b")], Impairment::Cut);
    assert_eq!(links.judge("a", "b", BYTES, Instant::now()), Fate::Drop);
    // Each of them would have stopped it.
    assert_eq!((links.lift(first).frames, links.hits(&second).frames), (1, 1));
    assert!(links.is_cut("a", "b") && !links.is_cut("b", "a"));
    let _ = links.lift(second);
    assert!(!links.is_cut("a", "b"));
}

#[test]
fn loss_drops_its_share_and_the_same_seed_the_same_frames() {
    let fates = |seed| {
        let links = Links::new(seed);
        let loss = links.impose(&[pair("a", "b")], Impairment::Loss { probability: 0.2 });
        let fates = judged(&links, "a", "b");
        assert_eq!(links.lift(loss).frames, dropped(&fates) as u64);
        fates
    };
    let lost = dropped(&fates(7));
    assert!((1_700..2_300).contains(&lost), "{lost} of {FRAMES} at one in five");
    assert_eq!(fates(7), fates(7));
    assert_ne!(fates(7), fates(8));
}

#[test]
fn a_delay_with_jitter_keeps_the_order() {
    let links = Links::new(3);
    let (by, jitter) = (Duration::from_millis(20), Duration::from_millis(40));
    let delay = links.impose(&[pair("a", "b")], Impairment::Delay { by, jitter });
    let start = Instant::now();
    let mut last = start;
    for n in 0..FRAMES {
        let now = start + Duration::from_millis(u64::from(n));
        let Fate::Later(due) = links.judge("a", "b", BYTES, now) else { panic!("not delayed") };
        assert_eq!(due.len(), 1);
        assert!(due[0] >= last && due[0] >= now + by && due[0] <= now + by + jitter, "{due:?}");
        last = due[0];
    }
    assert_eq!(links.lift(delay).frames, u64::from(FRAMES));
}

#[test]
fn duplicates_come_at_once_and_held_frames_are_overtaken() {
    let links = Links::new(4);
    let doubled = links.impose(&[pair("a", "b")], Impairment::Duplicate { probability: 0.1 });
    let fates = judged(&links, "a", "b");
    let twice = fates.iter().filter(|fate| matches!(fate, Fate::Later(due) if due.len() == 2)).count();
    assert_eq!(links.lift(doubled).frames, twice as u64);
    assert!((700..1_300).contains(&twice), "{twice}");

    let links = Links::new(4);
    let by = Duration::from_millis(5);
    let held = links.impose(&[pair("a", "b")], Impairment::Reorder { probability: 0.1, by });
    let fates = judged(&links, "a", "b");
    let later = fates.iter().filter(|fate| matches!(fate, Fate::Later(_))).count();
    assert_eq!(links.lift(held).frames, later as u64);
    // One frame each millisecond, held for five: the others are not held up by it.
    assert!((700..1_300).contains(&later), "{later}");
    assert!(fates.windows(2).any(|pair| matches!(pair, [Fate::Later(_), Fate::Pass])));
}

#[test]
fn a_rate_spaces_frames_and_drops_what_would_wait_too_long() {
    let links = Links::new(5);
    // Half of what is sent: 1000 bytes each millisecond are a megabyte per second.
    let rate = links.impose(&[pair("a", "b")], Impairment::Rate { bytes_per_second: 500_000 });
    let fates = judged(&links, "a", "b");
    let through: Vec<Instant> = fates
        .iter()
        .filter_map(|fate| if let Fate::Later(due) = fate { Some(due[0]) } else { None })
        .collect();
    assert!(through.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(2)));
    assert!((5_000..5_600).contains(&through.len()), "{}", through.len());
    assert_eq!(dropped(&fates) + through.len(), FRAMES as usize);
    assert!(links.lift(rate).frames >= u64::from(FRAMES) - 2);
}

#[test]
fn a_rate_hits_a_lonely_frame_that_takes_longer_and_no_faster_one() {
    let links = Links::new(5);
    let start = Instant::now();
    let rate = links.impose(&[pair("a", "b")], Impairment::Rate { bytes_per_second: 128_000 });
    for (bytes, second) in [(127, 1), (128, 2), (1_400, 3)] {
        let now = start + Duration::from_secs(second);
        assert!(matches!(links.judge("a", "b", bytes, now), Fate::Later(due) if due[0] > now));
    }
    assert_eq!(links.lift(rate), Hits { frames: 2, bytes: 1_528 });
}

#[test]
fn a_stream_respects_what_a_stream_can() {
    let links = Links::new(6);
    assert_eq!(links.stream("a", "b", 10), Stream::default());
    let by = Duration::from_millis(30);
    let delay = links.impose(&[pair("a", "b")], Impairment::Delay { by, jitter: Duration::ZERO });
    let rate = links.impose(&[pair("a", "b")], Impairment::Rate { bytes_per_second: 9 });
    let expected = Stream { delay: by, bytes_per_second: Some(9) };
    assert_eq!(links.stream("a", "b", 10), expected);
    assert_eq!(links.lift(delay), Hits { frames: 1, bytes: 10 });
    assert_eq!(links.lift(rate), Hits { frames: 1, bytes: 10 });
    assert!(!links.held("a", "b", 10));
    let cut = links.impose(&[pair("a", "b")], Impairment::Cut);
    assert!(links.held("a", "b", 10) && !links.held("b", "a", 10));
    assert_eq!(links.lift(cut), Hits { frames: 1, bytes: 10 });
}

#[tokio::test]
async fn those_who_wait_hear_of_every_change() {
    let links = Links::new(6);
    let mut changes = links.changes();
    let cut = links.impose(&[pair("a", "b")], Impairment::Cut);
    changes.changed().await.unwrap();
    let _ = links.lift(cut);
    changes.changed().await.unwrap();
}
