//! What a metric is declared as, and what follows from it: the instrument or read-out, and its line in
//! docs/metrics.md.

use prometheus::proto::{self, MetricFamily, MetricType};

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// A present value.
    Gauge,
    /// Counts per upper bound, with sum and count.
    Histogram,
    /// Quantiles over a sliding window, with sum and count since the start.
    Summary,
}

impl Kind {
    /// As the text format says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }

    fn field_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::COUNTER,
            Self::Gauge => MetricType::GAUGE,
            Self::Histogram => MetricType::HISTOGRAM,
            Self::Summary => MetricType::SUMMARY,
        }
    }
}

/// One metric, declared once.
#[derive(Debug)]
pub struct Declared {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels, each with a bounded number of values.
    pub labels: &'static [&'static str],
    /// Unit of its value.
    pub unit: &'static str,
    /// What it means: the HELP text.
    pub help: &'static str,
    /// What to do when it looks wrong at night.
    pub night: &'static str,
}

impl Declared {
    /// The family of a metric without labels.
    pub(crate) fn value(&self, value: f64) -> MetricFamily {
        self.family(vec![self.labelled_value(&[], value)])
    }

    /// The family of a metric with one label of these values.
    pub(crate) fn each<'a>(&self, samples: impl IntoIterator<Item = (&'a str, f64)>) -> MetricFamily {
        let metrics = samples.into_iter().map(|(label, value)| self.labelled_value(&[label], value));
        self.family(metrics.collect())
    }

    /// One value with these labels.
    pub(crate) fn labelled_value(&self, labels: &[&str], value: f64) -> proto::Metric {
        let mut metric = self.labelled(labels);
        match self.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Histogram | Kind::Summary => unreachable!("distributions bring their own metric"),
        }
        metric
    }

    /// A metric without a value yet.
    pub(crate) fn labelled(&self, labels: &[&str]) -> proto::Metric {
        debug_assert_eq!(labels.len(), self.labels.len(), "{}", self.name);
        let pairs = self.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = proto::Metric::default();
        metric.set_label(pairs.collect());
        metric
    }

    /// The family of these metrics.
    pub(crate) fn family(&self, metrics: Vec<proto::Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind.field_type());
        family.set_metric(metrics);
        family
    }
}

/// Declares the metrics of one area:
/// `NAME = kind "name" {labels} in "unit", "meaning", night "what to do";`
macro_rules! declare {
    (
        $(#[doc = $doc:literal])+
        $area:ident: $($id:ident = $kind:ident $name:literal {$($label:ident),*} in $unit:literal,
            $help:literal, night $night:literal;)+
    ) => {
        $(
            pub(crate) static $id: $crate::telemetry::metrics::declared::Declared =
                $crate::telemetry::metrics::declared::Declared {
                    name: $name,
                    kind: $crate::telemetry::metrics::declared::Kind::$kind,
                    labels: &[$(stringify!($label)),*],
                    unit: $unit,
                    help: $help,
                    night: $night,
                };
        )+
        $(#[doc = $doc])+
        pub(crate) static $area: &[&$crate::telemetry::metrics::declared::Declared] = &[$(&$id),+];
    };
}

pub(crate) use declare;
