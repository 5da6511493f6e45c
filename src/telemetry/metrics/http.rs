//! What the HTTP edge counts, by route template: a bounded number, whatever paths are asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Method;
use prometheus::IntGauge;
use prometheus::proto::MetricFamily;

use super::buckets::Buckets;
use super::declared::declare;
use crate::api::error::Code;

declare! {
    /// HTTP, at this node's edge.
    HTTP:
    REQUESTS = Counter "ovncp_http_requests_total" {route, method, class} in "requests",
        "Requests answered, by route template ('other' where none fits), method and class of status (1xx to 5xx).",
        night "5xx: ovncp_http_problems_total names the reason, the log lines with the request id the details.";
    SECONDS = Histogram "ovncp_http_request_seconds" {route} in "seconds",
        "Time to the head of the answer by route template, waiting for a lock included.",
        night "Slow writes: ovncp_storage_sync_seconds of a majority. Slow acquires may just wait: see ovncp_lock_wait_seconds.";
    PROBLEMS = Counter "ovncp_http_problems_total" {code} in "answers",
        "Answers that are a problem, by its stable code.",
        night "no_leader: no majority. queue_full and limit_exceeded: overload, or a client without bounds. internal_error: a defect; the log has it.";
    IN_FLIGHT = Gauge "ovncp_http_requests_in_flight" {} in "requests",
        "Requests in progress, those that wait for a lock included.",
        night "Near ovncp_http_requests_in_flight_max further ones are refused with 429.";
    IN_FLIGHT_MAX = Gauge "ovncp_http_requests_in_flight_max" {} in "requests",
        "The setting server.concurrent_requests_max.", night "Raise it only with the memory for it.";
    REFUSED = Counter "ovncp_http_requests_refused_total" {} in "requests",
        "Requests refused with 429 because server.concurrent_requests_max were in progress.",
        night "Overload, or waiters that pile up: see ovncp_raft_lock_requests_waiting.";
    CONNECTIONS = Gauge "ovncp_http_connections" {} in "connections",
        "Open connections.", night "At ovncp_http_connections_max new ones wait unanswered in the listen queue.";
    CONNECTIONS_MAX = Gauge "ovncp_http_connections_max" {} in "connections",
        "The setting server.connections_max.", night "It needs as many file descriptors: see process_max_fds.";
}

/// Bounds of the histogram of requests, in seconds.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 45.0];
/// Classes of status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Methods that are told apart.
const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "other"];
/// The route of whatever fits no template.
const OTHER: &str = "other";

/// A route template, by its position among those given at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    template: usize,
    method: usize,
}

struct Template {
    text: String,
    /// Absent segments take anything.
    segments: Vec<Option<String>>,
    counts: [[AtomicU64; CLASSES.len()]; METHODS.len()],
    seconds: Buckets,
}

/// What the HTTP edge counts.
pub struct HttpMetrics {
    /// The last one is [`OTHER`].
    templates: Vec<Template>,
    problems: Vec<AtomicU64>,
    refused: AtomicU64,
    in_flight_max: usize,
    connections_max: usize,
    /// Requests in progress.
    pub in_flight: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
}

impl HttpMetrics {
    /// For these route templates and limits.
    #[must_use]
    pub fn new(templates: &[String], in_flight_max: usize, connections_max: usize) -> Self {
        let gauge = |name| IntGauge::new(name, "in progress").expect("a constant, valid name");
        let mut templates: Vec<_> = templates.iter().map(|text| Template::new(text)).collect();
        // Where two fit, the one that names more is meant: it comes first.
        templates.sort_by_key(|template| template.segments.iter().filter(|part| part.is_none()).count());
        templates.push(Template::new(OTHER));
        Self {
            templates,
            problems: std::iter::repeat_with(AtomicU64::default).take(Code::ALL.len()).collect(),
            refused: AtomicU64::new(0),
            in_flight_max,
            connections_max,
            in_flight: gauge(IN_FLIGHT.name),
            connections: gauge(CONNECTIONS.name),
        }
    }

    /// The template that a path belongs to.
    #[must_use]
    pub fn route(&self, method: &Method, path: &str) -> Route {
        let other = self.templates.len() - 1;
        let parts = path.bytes().filter(|byte| *byte == b'/').count();
        let template = self.templates[..other].iter().position(|template| template.fits(path, parts));
        let method = METHODS.iter().position(|known| *known == method.as_str());
        Route { template: template.unwrap_or(other), method: method.unwrap_or(METHODS.len() - 1) }
    }

    /// A request was answered.
    pub fn answered(&self, route: Route, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        let template = &self.templates[route.template];
        template.counts[route.method][class].fetch_add(1, Ordering::Relaxed);
        template.seconds.observe(took);
    }

    /// The answer was a problem.
    pub fn problem(&self, code: Code) {
        if let Some(position) = Code::ALL.iter().position(|known| *known == code) {
            self.problems[position].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request met the limit of requests in progress.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn families(&self) -> Vec<MetricFamily> {
        let seconds =
            self.templates.iter().filter_map(|template| template.seconds.metric(&SECONDS, &[&template.text]));
        let problems = Code::ALL.iter().zip(&self.problems).filter_map(|(code, count)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then_some((code.as_str(), count as f64))
        });
        vec![
            self.requests(),
            SECONDS.family(seconds.collect()),
            PROBLEMS.each(problems),
            IN_FLIGHT.value(self.in_flight.get() as f64),
            IN_FLIGHT_MAX.value(self.in_flight_max as f64),
            REFUSED.value(self.refused.load(Ordering::Relaxed) as f64),
            CONNECTIONS.value(self.connections.get() as f64),
            CONNECTIONS_MAX.value(self.connections_max as f64),
        ]
    }

    /// Only what was asked for at least once: most routes have one method and two classes.
    fn requests(&self) -> MetricFamily {
        let mut metrics = Vec::new();
        for template in &self.templates {
            for (method, classes) in METHODS.iter().zip(&template.counts) {
                for (class, count) in CLASSES.iter().zip(classes) {
                    let count = count.load(Ordering::Relaxed);
                    if count > 0 {
                        metrics.push(REQUESTS.labelled_value(&[&template.text, method, class], count as f64));
                    }
                }
            }
        }
        REQUESTS.family(metrics)
    }
}

impl Template {
    fn new(text: &str) -> Self {
        let segment = |part: &str| (!part.starts_with('{')).then(|| part.to_owned());
        Self {
            text: text.to_owned(),
            segments: text.split('/').skip(1).map(segment).collect(),
            counts: Default::default(),
            seconds: Buckets::new(&BOUNDS),
        }
    }

    /// Compared from the end, where templates differ most. `parts` is the number of slashes in the path.
    fn fits(&self, path: &str, parts: usize) -> bool {
        self.segments.len() == parts
            && self.segments.iter().rev().zip(path.rsplit('/')).all(|(segment, part)| match segment {
                Some(fixed) => fixed == part,
                None => !part.is_empty(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> HttpMetrics {
        let templates = ["/locks/{key}", "/locks/{key}/acquire", "/locks/acquire", "/health"];
        HttpMetrics::new(&templates.map(str::to_owned), 1, 1)
    }

    #[test]
    fn paths_find_their_templates_and_never_become_labels() {
        let metrics = metrics();
        let template = |path: &str| {
            let route = metrics.route(&Method::GET, path);
            metrics.templates[route.template].text.as_str()
        };
        assert_eq!(template("/locks/a%3Ab"), "/locks/{key}");
        assert_eq!(template("/locks/acquire"), "/locks/acquire");
        assert_eq!(template("/locks/acquire/acquire"), "/locks/{key}/acquire");
        assert_eq!(template("/health"), "/health");
        for path in ["/", "", "/locks", "/locks/", "/locks//acquire", "/health/", "/locks/a/b/c", "other"] {
            assert_eq!(template(path), OTHER, "{path:?}");
        }
    }

    #[test]
    fn requests_are_counted_by_route_method_and_class() {
        let metrics = metrics();
        let odd = Method::from_bytes(b"BREW").unwrap();
        for (method, status) in [(&Method::GET, 200), (&Method::GET, 204), (&odd, 405), (&Method::GET, 999)] {
            let route = metrics.route(method, "/locks/k");
            metrics.answered(route, status, Duration::from_millis(2));
        }
        let family = metrics.requests();
        let mut shown: Vec<_> = family
            .get_metric()
            .iter()
            .map(|metric| {
                let labels: Vec<_> = metric.get_label().iter().map(|label| label.value()).collect();
                (labels.join(" "), metric.get_counter().get_value())
            })
            .collect();
        shown.sort_by(|left, right| left.0.cmp(&right.0));
        let expected =
            [("/locks/{key} GET 2xx", 2.0), ("/locks/{key} GET 5xx", 1.0), ("/locks/{key} other 4xx", 1.0)];
        assert_eq!(shown, expected.map(|(labels, count)| (labels.to_owned(), count)));
    }
}
