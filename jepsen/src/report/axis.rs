//! Scales of plots.

/// Round numbers from 0 to `end`, at most about `count`.
pub(super) fn ticks(end: f64, count: f64) -> Vec<f64> {
    let rough = (end / count).max(f64::MIN_POSITIVE);
    let unit = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * unit).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * unit);
    (0..).map(|number| f64::from(number) * step).take_while(|tick| *tick <= end * 1.0001).collect()
}

/// Milliseconds in the unit in which people say them.
pub(super) fn duration(milliseconds: f64) -> String {
    if milliseconds < 1.0 {
        format!("{} µs", (milliseconds * 1_000.0).round())
    } else if milliseconds < 1_000.0 {
        format!("{} ms", milliseconds.round())
    } else {
        format!("{} s", (milliseconds / 1_000.0).round())
    }
}

/// The value below which `share` of the sorted values lie.
pub(super) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}
