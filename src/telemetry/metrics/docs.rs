//! docs/metrics.md, made from the declarations.

use std::fmt::Write;

use super::{AREAS, Declared, GUIDE_EXCEPTIONS};

const INTRODUCTION: &str = include_str!("introduction.md");

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let exceptions: Vec<_> = GUIDE_EXCEPTIONS.iter().map(|name| format!("`{name}`")).collect();
    let mut page = INTRODUCTION.replace("{exceptions}", &exceptions.join(", "));
    for (title, area) in AREAS {
        let _ = write!(
            page,
            "\n## {title}\n\n| metric | type | unit | meaning | at 3 a.m. |\n| --- | --- | --- | --- | --- |\n"
        );
        for metric in area {
            let _ = writeln!(page, "{}", row(metric));
        }
    }
    page
}

fn row(metric: &Declared) -> String {
    let labels = match metric.labels {
        [] => String::new(),
        labels => format!("{{{}}}", labels.join(",")),
    };
    let kind = metric.kind.as_str();
    format!("| `{}{labels}` | {kind} | {} | {} | {} |", metric.name, metric.unit, metric.help, metric.night)
}

#[cfg(test)]
mod tests {
    /// `UPDATE_GOLDENFILES=1 cargo test` rewrites the page; the difference is the review.
    #[test]
    fn metrics_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let page = super::markdown();
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == page, "docs/metrics.md is out of date: `make fix` rewrites it");
    }
}
