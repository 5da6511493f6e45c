//! The page around the drawings.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::escape;
use crate::checker::{Check, Fault, Finding, OperationCounts, PlanFacts, Results, Verdict, compact, seconds};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Faults listed one by one.
const FAULTS_MAX: usize = 400;
/// Errors listed of one kind of operation.
const ERRORS_MAX: usize = 5;

/// The whole page.
pub(super) fn page(
    facts: &PlanFacts,
    results: &Results,
    latency: &str,
    rate: &str,
    timeline: &Value,
) -> String {
    let title = format!("{} · {} · seed {}", results.verdict.name(), facts.workload, facts.seed);
    let mut body = header(facts, results);
    body += &findings(results);
    body += &timeline_section(timeline);
    let _ = write!(body, "<section><h2>Latency and rate</h2>{latency}{rate}</section>");
    body += &operations(&results.operations);
    body += &faults(&results.faults);
    body += &checks(results);
    // Within a script element only `<` can do harm.
    let data = timeline.to_string().replace('<', "\\u003c");
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head><body>{body}\
         <script type=\"application/json\" id=\"data\">{data}</script><script>{SCRIPT}</script></body></html>\n",
        escape(&title)
    )
}

fn header(facts: &PlanFacts, results: &Results) -> String {
    let sum = |of: fn(&OperationCounts) -> u64| results.operations.values().map(of).sum::<u64>();
    let (ok, fail, info) = (sum(|one| one.ok), sum(|one| one.fail), sum(|one| one.info));
    let broken = |verdict| results.checks.iter().filter(|check| check.verdict == verdict).count();
    let verdict = match results.verdict {
        Verdict::Pass => format!("All {} checks passed.", results.checks.len()),
        Verdict::Fail => format!("{} of {} checks failed.", broken(Verdict::Fail), results.checks.len()),
        Verdict::Unknown => {
            "No promise was seen broken, but the run does not prove that they held.".to_owned()
        }
    };
    let mut html = format!(
        "<header class=\"{name}\"><div><span class=\"badge {name}\">{name}</span>\
         <h1>{} <small>under</small> {}</h1></div><p>{verdict}</p>",
        escape(&facts.workload),
        escape(&if facts.nemeses.is_empty() { "no faults".to_owned() } else { facts.nemeses.join(", ") }),
        name = results.verdict.name(),
    );
    let tiles = [
        ("operations", (ok + fail + info).to_string()),
        ("succeeded", ok.to_string()),
        ("failed", fail.to_string()),
        ("unknown", info.to_string()),
        ("faults", results.faults.len().to_string()),
        ("run", format!("{} s", results.history_ms / 1_000)),
        ("nodes", facts.nodes.to_string()),
        ("clients", facts.clients.to_string()),
        ("seed", facts.seed.to_string()),
        ("checked in", format!("{} ms", results.took_ms)),
    ];
    html += "<dl class=\"tiles\">";
    for (name, value) in tiles {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    html += "</dl>";
    if let Some(mutant) = &facts.mutant {
        let _ =
            write!(html, "<p>The nodes have a known bug, put back on purpose: <b>{}</b></p>", escape(mutant));
    }
    let _ = write!(html, "<p class=\"again\">Again: <code>{}</code></p></header>", escape(&facts.command()));
    html
}

/// What did not pass, first of all.
fn findings(results: &Results) -> String {
    let mut html = String::new();
    let mut number = 0;
    for check in results.checks.iter().filter(|check| check.verdict != Verdict::Pass) {
        if html.is_empty() {
            html += "<section id=\"findings\"><h2>What was found</h2>";
        }
        let _ = write!(
            html,
            "<h3><span class=\"badge {name}\">{name}</span> {} <small>{}</small></h3>",
            escape(&check.name),
            escape(&check.promise),
            name = check.verdict.name(),
        );
        // The first one is enough for most readers.
        for (position, finding) in check.findings.iter().enumerate() {
            if position == 1 {
                let _ = write!(
                    html,
                    "<details class=\"more\"><summary>{} more of this check</summary>",
                    check.findings_total - 1
                );
            }
            html += &one_finding(finding, number, position == 0);
            number += 1;
        }
        if check.findings.len() > 1 {
            html += "</details>";
        }
        let kept = check.findings.len() as u64;
        if check.findings_total > kept {
            let _ = write!(html, "<p class=\"note\">{kept} of {} were kept.</p>", check.findings_total);
        }
    }
    if !html.is_empty() {
        html += "</section>";
    }
    html
}

fn one_finding(finding: &Finding, number: usize, is_open: bool) -> String {
    let mut html = format!(
        "<details class=\"finding\" id=\"finding-{number}\"{}><summary>{}</summary>",
        if is_open { " open" } else { "" },
        escape(&finding.text)
    );
    if !finding.lines.is_empty() {
        html += "<pre>";
        for line in &finding.lines {
            let class = if line.starts_with('*') { " class=\"culprit\"" } else { "" };
            let _ = writeln!(html, "<span{class}>{}</span>", escape(line));
        }
        html += "</pre>";
    }
    if let Some((from, to)) = finding.window_ns {
        let _ = write!(
            html,
            "<a href=\"#timeline\" class=\"show\" data-from=\"{}\" data-to=\"{}\" data-key=\"{}\">\
             Show {} to {} in the timeline</a>",
            from / 1_000,
            to / 1_000,
            escape(finding.key.as_deref().unwrap_or("")),
            seconds(from),
            seconds(to),
        );
    }
    html + "</details>"
}

fn timeline_section(timeline: &Value) -> String {
    let number = |name: &str| timeline.get(name).and_then(Value::as_u64).unwrap_or(0);
    let drawn = timeline.get("rows").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    let total = number("total");
    let bounded = if drawn < total {
        format!(
            "<p class=\"note\">{drawn} of {total} operations are drawn (a page holds no more): all that findings \
             name, then those that did not succeed, and of the rest every so many. history.jsonl has all.</p>"
        )
    } else {
        String::new()
    };
    format!(
        "<section id=\"timeline\"><h2>Operations over time</h2>\
         <div class=\"tools\"><label>Key <input id=\"key\" list=\"keys\" placeholder=\"all\"></label><datalist id=\"keys\">\
         </datalist><label>Kind <select id=\"kind\"><option value=\"\">all</option></select></label>\
         <label class=\"ok\"><input type=\"checkbox\" id=\"show-0\" checked> succeeded</label>\
         <label class=\"fail\"><input type=\"checkbox\" id=\"show-1\" checked> failed</label>\
         <label class=\"info\"><input type=\"checkbox\" id=\"show-2\" checked> unknown</label>\
         <button id=\"in\">+</button><button id=\"out\">−</button><button id=\"all\">whole run</button>\
         <span id=\"range\"></span></div>{bounded}\
         <canvas id=\"overview\" height=\"44\"></canvas><div class=\"scroll\"><canvas id=\"lanes\"></canvas></div>\
         <div id=\"tip\" hidden></div>\
         <p class=\"note\">One lane per client. Drag to move, wheel or buttons to zoom, drag in the strip above to choose a \
         time; point at a bar for what it was. Shaded: faults. Outlined: named by a finding.</p></section>"
    )
}

fn operations(counts: &BTreeMap<String, OperationCounts>) -> String {
    let mut html = "<section><h2>Operations</h2><table><thead><tr><th>kind<th class=\"n\">succeeded<th class=\"n\">failed\
                    <th class=\"n\">unknown<th>why not</tr></thead>"
        .to_owned();
    for (kind, of_kind) in counts {
        let mut errors: Vec<_> = of_kind.errors.iter().collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let rest = errors.len().saturating_sub(ERRORS_MAX);
        let mut why: Vec<String> =
            errors.iter().take(ERRORS_MAX).map(|(error, count)| format!("{error} ({count})")).collect();
        if rest > 0 {
            why.push(format!("and {rest} other reasons"));
        }
        let _ = write!(
            html,
            "<tr><td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td>{}</tr>",
            escape(kind),
            of_kind.ok,
            of_kind.fail,
            of_kind.info,
            escape(&why.join(", ")),
        );
    }
    html + "</table></section>"
}

fn faults(faults: &[Fault]) -> String {
    if faults.is_empty() {
        return "<section><h2>Faults</h2><p>None were made.</p></section>".to_owned();
    }
    let mut html =
        "<section><h2>Faults</h2><table><thead><tr><th class=\"n\">no.<th>fault<th>on<th class=\"n\">from\
                    <th class=\"n\">to<th>measured effect</tr></thead>"
            .to_owned();
    for fault in faults.iter().take(FAULTS_MAX) {
        let _ = write!(
            html,
            "<tr{}><td class=\"n\">{}<td>{}<td>{}<td class=\"n\">{}<td class=\"n\">{}<td>{}{}</tr>",
            if fault.effective { "" } else { " class=\"void\"" },
            fault.id,
            escape(&fault.name),
            escape(&fault.targets.join(", ")),
            seconds(fault.began_ns),
            fault.healed_ns.map_or_else(|| "never healed".to_owned(), seconds),
            if fault.effective { "" } else { "<b>none seen</b> " },
            escape(&compact(&fault.effect)),
        );
    }
    html += "</table>";
    if faults.len() > FAULTS_MAX {
        let _ = write!(html, "<p>The first {FAULTS_MAX} of {}; results.json has all.</p>", faults.len());
    }
    html + "</section>"
}

fn checks(results: &Results) -> String {
    let mut html =
        "<section><h2>Checks</h2><table><thead><tr><th>verdict<th>check<th>promise<th>looked at</tr></thead>"
            .to_owned();
    let row = |check: &Check| {
        let counts: Vec<String> =
            check.counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        format!(
            "<tr><td><span class=\"badge {name}\">{name}</span><td>{}<td>{}<td>{}</tr>",
            escape(&check.name),
            escape(&check.promise),
            escape(&counts.join(", ")),
            name = check.verdict.name(),
        )
    };
    results.checks.iter().for_each(|check| html += &row(check));
    html += "</table><p class=\"note\">Assumed: times are of the harness' monotonic clock; ";
    let assumed: Vec<String> = results
        .assumptions
        .iter()
        .map(|(name, value)| format!("{} {value}", name.replace('_', " ")))
        .collect();
    html += &escape(&assumed.join(", "));
    html + ".</p></section>"
}
