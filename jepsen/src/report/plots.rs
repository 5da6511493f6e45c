//! Latency and rate over time, as SVG, with the faults behind them.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::axis::{duration, quantile, ticks};
use super::escape;
use crate::checker::{Fault, Operation, Outcome, PROBES, seconds};

const WIDTH: f64 = 1_200.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 34.0;
/// Points of a line.
const BUCKETS_MAX: usize = 240;
/// Shortest time of one point.
const BUCKET_NS_MIN: u64 = 250_000_000;
/// Kinds of operations with lines of their own: the most frequent ones.
const KINDS_MAX: usize = 6;
/// Dots of operations that failed or are unknown.
const DOTS_MAX: usize = 3_000;
const FAILED: &str = "#d1606e";
const UNKNOWN: &str = "#e39a1f";
const COLOURS: [&str; KINDS_MAX] = ["#2f6fde", "#8e44ad", "#0f9d8a", "#c2571a", "#4b5563", "#b5379a"];

const STYLE: &str = "<style>.plot{font:12px system-ui,sans-serif}.plot text{fill:#475569}.plot .grid{stroke:#e2e8f0}\
    .plot .fault{fill:#f59e0b;opacity:.13}.plot .frame{fill:#fff}\
    @media(prefers-color-scheme:dark){.plot text{fill:#a3b1c6}.plot .grid{stroke:#2c3646}.plot .frame{fill:#151b26}\
    .plot .fault{opacity:.17}}</style>";

/// Everything that the plots are drawn from.
pub(super) struct Plots<'a> {
    operations: Vec<&'a Operation<'a>>,
    faults: &'a [Fault],
    end_ns: u64,
    bucket_ns: u64,
}

impl<'a> Plots<'a> {
    pub(super) fn new(operations: &'a [Operation<'a>], faults: &'a [Fault]) -> Self {
        let operations: Vec<_> = operations.iter().filter(|one| !PROBES.contains(&one.f())).collect();
        let ends = operations.iter().map(|one| one.ended_ns().unwrap_or(one.invoke.time_ns));
        let end_ns = ends.chain(faults.iter().filter_map(|fault| fault.healed_ns)).max().unwrap_or(0).max(1);
        let bucket_ns = BUCKET_NS_MIN.max(end_ns / BUCKETS_MAX as u64 + 1);
        Self { operations, faults, end_ns, bucket_ns }
    }

    /// Median and 99th percentile of what succeeded, by kind, and a dot for each operation that did not.
    pub(super) fn latency(&self) -> String {
        let kinds = self.kinds();
        let latency_ms = |one: &Operation<'_>| {
            Some(one.ended_ns()?.saturating_sub(one.invoke.time_ns).max(1_000) as f64 / 1e6)
        };
        let all: Vec<f64> = self.operations.iter().filter_map(|one| latency_ms(one)).collect();
        let lowest = all.iter().copied().fold(1.0, f64::min).log10().floor();
        let highest = all.iter().copied().fold(1_000.0, f64::max).log10().ceil();
        let y = |value: f64| {
            HEIGHT - BOTTOM - (value.log10() - lowest) / (highest - lowest) * (HEIGHT - TOP - BOTTOM)
        };
        let mut svg =
            self.begin("Latency: median (bold) and 99th percentile of what succeeded; dots did not");
        for decade in lowest as i32..=highest as i32 {
            let value = 10_f64.powi(decade);
            self.grid(&mut svg, y(value), &duration(value));
        }
        self.dots(&mut svg, &latency_ms, &y);
        for (kind, colour) in kinds.iter().zip(COLOURS) {
            let mut buckets: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
            for one in self.operations.iter().filter(|one| one.f() == *kind && one.is_ok()) {
                let at = one.ended_ns().unwrap_or_default() / self.bucket_ns;
                buckets.entry(at).or_default().extend(latency_ms(one));
            }
            buckets.values_mut().for_each(|values| values.sort_by(f64::total_cmp));
            for (share, style) in [(0.99, "stroke-width=\"1\" opacity=\".6\""), (0.5, "stroke-width=\"2.2\"")]
            {
                let points = buckets.iter().filter_map(|(at, values)| Some((*at, quantile(values, share)?)));
                self.line(&mut svg, points.map(|(at, value)| (at, y(value))), colour, style);
            }
        }
        let entries = kinds.iter().copied().zip(COLOURS).chain([("failed", FAILED), ("unknown", UNKNOWN)]);
        legend(&mut svg, entries);
        svg + "</svg>"
    }

    /// Operations that ended per second, by outcome.
    pub(super) fn rate(&self) -> String {
        const OUTCOMES: [(Outcome, &str, &str); 3] = [
            (Outcome::Ok, "succeeded", "#16a34a"),
            (Outcome::Fail, "failed", FAILED),
            (Outcome::Info, "unknown", UNKNOWN),
        ];
        let last = (self.end_ns / self.bucket_ns) as usize;
        let mut counts = [vec![0_u64; last + 1], vec![0; last + 1], vec![0; last + 1]];
        for one in &self.operations {
            let at = one.ended_ns().unwrap_or(self.end_ns) / self.bucket_ns;
            let row = OUTCOMES.iter().position(|(outcome, ..)| *outcome == one.outcome).unwrap_or(0);
            counts[row][(at as usize).min(last)] += 1;
        }
        let per_second = |count: u64| count as f64 * 1e9 / self.bucket_ns as f64;
        let highest = counts.iter().flatten().copied().max().map_or(1.0, per_second).max(1.0);
        let y = |value: f64| HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM);
        let mut svg = self.begin("Rate: operations that ended per second");
        for tick in ticks(highest, 5.0) {
            self.grid(&mut svg, y(tick), &format!("{tick}/s"));
        }
        for ((_, _, colour), row) in OUTCOMES.iter().zip(&counts) {
            let points = row.iter().enumerate().map(|(at, count)| (at as u64, y(per_second(*count))));
            self.line(&mut svg, points, colour, "stroke-width=\"1.8\"");
        }
        legend(&mut svg, OUTCOMES.into_iter().map(|(_, name, colour)| (name, colour)));
        svg + "</svg>"
    }

    fn kinds(&self) -> Vec<&'a str> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        self.operations.iter().for_each(|one| *counts.entry(one.f()).or_default() += 1);
        let mut kinds: Vec<_> = counts.into_iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        kinds.into_iter().take(KINDS_MAX).map(|(kind, _)| kind).collect()
    }

    fn x(&self, time_ns: u64) -> f64 {
        LEFT + time_ns as f64 / self.end_ns as f64 * (WIDTH - LEFT - RIGHT)
    }

    /// Frame, faults and the axis of time.
    fn begin(&self, title: &str) -> String {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">{STYLE}<rect class=\"frame\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\
             <text x=\"{LEFT}\" y=\"18\" font-weight=\"600\">{title}</text>",
            title = escape(title)
        );
        for fault in self.faults {
            let (from, to) = (self.x(fault.began_ns), self.x(fault.healed_ns.unwrap_or(self.end_ns)));
            let _ = write!(
                svg,
                "<rect class=\"fault\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
                (to - from).max(1.0),
                bottom - TOP,
                escape(&format!(
                    "{} on {}, {} to {}",
                    fault.name,
                    fault.targets.join(", "),
                    seconds(fault.began_ns),
                    fault.healed_ns.map_or_else(|| "the end".to_owned(), seconds)
                )),
            );
        }
        for tick in ticks(self.end_ns as f64 / 1e9, 12.0) {
            let x = self.x((tick * 1e9) as u64);
            let _ = write!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick} s</text>",
                bottom + 18.0
            );
        }
        let _ = write!(svg, "<path class=\"grid\" d=\"M{LEFT} {bottom}H{right}\"/>");
        svg
    }

    fn grid(&self, svg: &mut String, y: f64, label: &str) {
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            escape(label)
        );
    }

    /// A line through buckets; it breaks where there is none.
    fn line(&self, svg: &mut String, points: impl Iterator<Item = (u64, f64)>, colour: &str, style: &str) {
        let (mut path, mut last) = (String::new(), None);
        for (at, y) in points {
            let middle_ns = (at * self.bucket_ns + self.bucket_ns / 2).min(self.end_ns);
            let move_or_line = if last.is_some_and(|last: u64| last + 1 == at) { 'L' } else { 'M' };
            // A move alone draws nothing: a point by itself gets a short stroke.
            let stroke = if move_or_line == 'M' { "h.1" } else { "" };
            let _ = write!(path, "{move_or_line}{:.1} {y:.1}{stroke}", self.x(middle_ns));
            last = Some(at);
        }
        let _ = write!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-linejoin=\"round\" stroke-linecap=\"round\" {style}/>"
        );
    }

    fn dots(
        &self,
        svg: &mut String,
        latency_ms: &impl Fn(&Operation<'_>) -> Option<f64>,
        y: &impl Fn(f64) -> f64,
    ) {
        let troubled: Vec<_> = self.operations.iter().filter(|one| !one.is_ok()).collect();
        for one in troubled.iter().step_by(troubled.len() / DOTS_MAX + 1) {
            let (Some(end_ns), Some(value)) = (one.ended_ns(), latency_ms(one)) else { continue };
            let colour = if one.outcome == Outcome::Fail { FAILED } else { UNKNOWN };
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.8\" fill=\"{colour}\" opacity=\".55\"/>",
                self.x(end_ns),
                y(value)
            );
        }
    }
}

fn legend<'a>(svg: &mut String, entries: impl Iterator<Item = (&'a str, &'a str)>) {
    let entries: Vec<_> = entries.collect();
    let mut x = WIDTH - RIGHT;
    for (name, colour) in entries.into_iter().rev() {
        // Letters of this font are about this wide.
        x -= name.chars().count() as f64 * 6.8 + 26.0;
        let _ = write!(
            svg,
            "<rect x=\"{x:.1}\" y=\"9\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"18\">{}</text>",
            x + 15.0,
            escape(name)
        );
    }
}
