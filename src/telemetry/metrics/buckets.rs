//! Durations counted by upper bound: a histogram that costs two additions per observation and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::proto;

use super::declared::Declared;

/// A histogram of durations.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// Upper bounds in seconds, ascending.
    bounds: &'static [f64],
    /// Observations per bound, and those above the last one. Not cumulative.
    counts: Box<[AtomicU64]>,
    sum_micros: AtomicU64,
}

impl Buckets {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, counts, sum_micros: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// As one metric of `declared`; nothing before the first observation.
    pub(crate) fn metric(&self, declared: &Declared, labels: &[&str]) -> Option<proto::Metric> {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let sum = self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        (counts.iter().sum::<u64>() > 0).then(|| histogram(declared, labels, self.bounds, &counts, sum))
    }
}

/// A histogram from counts per bound, the last of them above all bounds.
pub(crate) fn histogram(
    declared: &Declared,
    labels: &[&str],
    bounds: &[f64],
    counts: &[u64],
    sum: f64,
) -> proto::Metric {
    let mut cumulated = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, count) in bounds.iter().zip(counts) {
        cumulated += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulated);
        buckets.push(bucket);
    }
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum);
    let mut metric = declared.labelled(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::super::declared::{Declared, Kind};
    use super::*;

    static TIMES: Declared = Declared {
        name: "times_seconds",
        kind: Kind::Histogram,
        labels: &[],
        unit: "seconds",
        help: "Times.",
        night: "",
    };

    #[test]
    fn bounds_are_inclusive_and_counts_cumulate() {
        let buckets = Buckets::new(&[0.001, 0.01]);
        assert!(buckets.metric(&TIMES, &[]).is_none(), "nothing was observed");
        for micros in [1, 1_000, 1_001, 10_000, 10_001, 5_000_000] {
            buckets.observe(Duration::from_micros(micros));
        }
        let metric = buckets.metric(&TIMES, &[]).unwrap();
        let shown = metric.get_histogram();
        let counts: Vec<_> = shown.get_bucket().iter().map(|bucket| bucket.cumulative_count()).collect();
        assert_eq!(counts, [2, 4]);
        assert_eq!(shown.get_sample_count(), 6);
        assert!((shown.get_sample_sum() - 5.022_003).abs() < 1e-9);
    }
}
