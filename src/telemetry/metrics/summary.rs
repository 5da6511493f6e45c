//! A Prometheus summary, which the prometheus crate lacks: quantiles over a sliding window, sum and count.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use prometheus::proto::{self, MetricFamily};

use super::declared::Declared;

/// Quantiles that are shown.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];
/// Quantiles cover at least this time, at most twice as much.
const WINDOW: Duration = Duration::from_secs(60);
/// Longest value that is told apart; longer ones count as this.
const MICROS_MAX: u64 = 3_600_000_000;
/// Significant digits of a quantile.
const DIGITS: u8 = 2;

/// Durations in seconds as a summary.
pub(crate) struct Summary(Mutex<Inner>);

struct Inner {
    current: Histogram<u64>,
    previous: Histogram<u64>,
    turned: Instant,
    count: u64,
    sum: f64,
}

impl Summary {
    pub(crate) fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, MICROS_MAX, DIGITS)
                .expect("bounds and digits are constants in range")
        };
        Self(Mutex::new(Inner {
            current: histogram(),
            previous: histogram(),
            turned: Instant::now(),
            count: 0,
            sum: 0.0,
        }))
    }

    /// Counts one duration.
    pub(crate) fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut inner = self.lock();
        inner.turn();
        inner.current.saturating_record(micros.clamp(1, MICROS_MAX));
        inner.count += 1;
        inner.sum += duration.as_secs_f64();
    }

    /// As the family of `declared`.
    pub(crate) fn family(&self, declared: &Declared) -> MetricFamily {
        let (count, sum, quantiles) = {
            let mut inner = self.lock();
            inner.turn();
            let mut window = inner.current.clone();
            window.add(&inner.previous).expect("both have the same bounds");
            let value = |quantile: f64| match window.is_empty() {
                // No observation in the window: the format says NaN.
                true => f64::NAN,
                false => window.value_at_quantile(quantile) as f64 / 1e6,
            };
            (inner.count, inner.sum, QUANTILES.map(|quantile| (quantile, value(quantile))))
        };
        let mut summary = proto::Summary::default();
        summary.set_sample_count(count);
        summary.set_sample_sum(sum);
        let quantiles = quantiles.into_iter().map(|(quantile, value)| {
            let mut shown = proto::Quantile::default();
            shown.set_quantile(quantile);
            shown.set_value(value);
            shown
        });
        summary.set_quantile(quantiles.collect());
        let mut metric = declared.labelled(&[]);
        metric.set_summary(summary);
        declared.family(vec![metric])
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn turn(&mut self) {
        let age = self.turned.elapsed();
        if age < WINDOW {
            return;
        }
        std::mem::swap(&mut self.current, &mut self.previous);
        self.current.reset();
        if age >= 2 * WINDOW {
            self.previous.reset();
        }
        self.turned = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::super::declared::Kind;
    use super::*;

    static WAIT: Declared = Declared {
        name: "wait_seconds",
        kind: Kind::Summary,
        labels: &[],
        unit: "seconds",
        help: "Time to wait.",
        night: "",
    };

    #[test]
    fn summary_reads_as_the_dashboard_expects() {
        let summary = Summary::new();
        (1..=100).for_each(|millis| summary.observe(Duration::from_millis(millis)));
        let mut text = Vec::new();
        TextEncoder::new().encode(&[summary.family(&WAIT)], &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("# TYPE wait_seconds summary"), "{text}");
        assert!(text.contains("wait_seconds_count 100"), "{text}");
        assert!(text.contains("wait_seconds_sum 5.05"), "{text}");
        let quantile =
            text.lines().find(|line| line.starts_with("wait_seconds{quantile=\"0.99\"} ")).unwrap();
        let value: f64 = quantile.rsplit(' ').next().unwrap().parse().unwrap();
        assert!((0.098..0.101).contains(&value), "{quantile}");
    }
}
