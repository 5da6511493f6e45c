//! Reads what ovn-trace prints: the detailed form has the steps, the minimal form the ports that get the packet.

use super::Trace;
use super::request::{Detail, InvalidRequest};

/// Each form of the output begins with one of these.
const DETAILED: &str = "\n# Detailed trace.\n";
const SUMMARY: &str = "\n# Summary trace.\n";
const MINIMAL: &str = "\n# Minimal trace.\n";
/// Steps that are read; the text has them all.
pub(super) const STEPS_MAX: usize = 10_000;
/// Columns of one level.
const INDENT: usize = 4;

/// The way of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The packet, as OpenFlow writes it.
    pub packet: String,
    /// The tables with something to say, in the order of the trace. Where the packet is copied, the copies follow
    /// one another.
    pub steps: Vec<Step>,
    /// Whether steps were left out: there are too many.
    pub truncated: bool,
    /// The ports that get the packet, or a copy or an answer to it. Empty: it was dropped, at the last step.
    pub outputs: Vec<String>,
    /// What went wrong on the way, such as a time to live that ran out.
    pub errors: Vec<String>,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Where the table is.
    pub pipeline: Pipeline,
    /// Its number.
    pub table: u32,
    /// Its name, such as `ls_in_acl`.
    pub name: String,
    /// The match of the flow that applies; `None`: no flow does, and the packet ends here.
    pub matched: Option<String>,
    /// The priority of the flow.
    pub priority: Option<u32>,
    /// How the id of the flow begins.
    pub flow: Option<String>,
    /// What is done.
    pub actions: Vec<String>,
}

/// Where a table is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pipeline {
    /// `ingress` or `egress`.
    pub direction: String,
    /// The switch or router, as the southbound database knows it.
    pub datapath: String,
    /// Where the packet came in.
    pub inport: Option<String>,
    /// Where it is to go out.
    pub outport: Option<String>,
}

impl Summary {
    /// Nobody gets it.
    pub fn is_dropped(&self) -> bool {
        self.outputs.is_empty()
    }
}

/// The answer to a question, which may be that the question is wrong: ovn-trace says that in the same place.
pub(super) fn read(output: &str, detail: Detail) -> Result<Trace, InvalidRequest> {
    let Some((packet, _)) = output.strip_prefix("# ").and_then(|rest| rest.split_once('\n')) else {
        return Err(refusal(output.trim()));
    };
    let section = |from: &str, to: Option<&str>| {
        let start = output.find(from).map_or(output.len(), |at| at + from.len());
        let rest = &output[start..];
        // The last form ends with the output.
        &rest[..to.and_then(|to| rest.find(to)).unwrap_or(rest.len())]
    };
    let detailed = section(DETAILED, Some(SUMMARY));
    let minimal = section(MINIMAL, None);
    let mut summary = steps(detailed);
    summary.packet = packet.to_owned();
    summary.outputs = outputs(minimal);
    let chosen = match detail {
        Detail::Detailed => detailed,
        Detail::Summary => section(SUMMARY, Some(MINIMAL)),
        Detail::Minimal => minimal,
    };
    let text = format!("# {packet}\n{}\n", chosen.trim_end().trim_start_matches('\n'));
    Ok(Trace { text, summary })
}

fn refusal(text: &str) -> InvalidRequest {
    let reason = if text.is_empty() { "ovn-trace says nothing to it" } else { text };
    match reason.starts_with("unknown datapath") {
        true => InvalidRequest::datapath(reason),
        false => InvalidRequest::microflow(reason.strip_prefix("error parsing flow: ").unwrap_or(reason)),
    }
}

fn outputs(minimal: &str) -> Vec<String> {
    let mut outputs: Vec<String> = Vec::new();
    for line in minimal.lines() {
        let port = line.trim().strip_prefix("output(\"").and_then(|rest| rest.strip_suffix("\");"));
        if let Some(port) = port.filter(|port| !outputs.iter().any(|known| known == port)) {
            outputs.push(port.to_owned());
        }
    }
    outputs
}

fn steps(detailed: &str) -> Summary {
    let mut summary = Summary::default();
    // Pipelines within pipelines, with their columns.
    let mut open: Vec<(usize, Pipeline)> = Vec::new();
    let mut lines = detailed.lines().peekable();
    while let Some(line) = lines.next() {
        let text = line.trim();
        // Table numbers are set in two columns.
        let column = (line.len() - line.trim_start().len()) / INDENT;
        if text.is_empty() {
            continue;
        }
        if lines.peek().is_some_and(|next| is_rule(next.trim())) {
            lines.next();
            match pipeline(text) {
                Some(pipeline) => {
                    open.retain(|(at, _)| *at < column);
                    open.push((column, pipeline));
                }
                // The connection tracker and the like: the same pipeline goes on.
                None => note(&mut summary, text),
            }
        } else if let Some(mut step) = table(text) {
            open.retain(|(at, _)| *at <= column);
            if summary.steps.len() == STEPS_MAX {
                summary.truncated = true;
                break;
            }
            step.pipeline = open.last().map(|(_, pipeline)| pipeline.clone()).unwrap_or_default();
            summary.steps.push(step);
        } else if let Some(error) = text.strip_prefix("*** ") {
            summary.errors.push(error.to_owned());
        } else {
            note(&mut summary, text);
        }
    }
    summary
}

/// What belongs to the last table.
fn note(summary: &mut Summary, text: &str) {
    if let Some(step) = summary.steps.last_mut() {
        step.actions.push(text.to_owned());
    }
}

/// The line under a title.
fn is_rule(text: &str) -> bool {
    text.len() >= 3 && text.bytes().all(|byte| byte == b'-')
}

/// `egress(dp="s1", inport="p1", outport="p2")`. Names may hold anything, so the parts are found by what stands
/// between them.
fn pipeline(title: &str) -> Option<Pipeline> {
    let (direction, rest) = title.split_once("(dp=\"")?;
    if !matches!(direction, "ingress" | "egress") {
        return None;
    }
    let rest = rest.strip_suffix("\")")?;
    let (rest, outport) = split_last(rest, "\", outport=\"");
    let (datapath, inport) = split_last(rest, "\", inport=\"");
    let (direction, datapath) = (direction.to_owned(), datapath.to_owned());
    Some(Pipeline { direction, datapath, inport, outport })
}

fn split_last<'a>(text: &'a str, between: &str) -> (&'a str, Option<String>) {
    match text.rsplit_once(between) {
        Some((before, after)) => (before, Some(after.to_owned())),
        None => (text, None),
    }
}

/// `25. ls_in_l2_lkup (northd.c:9122): eth.dst == 00:00:00:00:00:02, priority 50, uuid accd075d`, or
/// `25. ls_in_l2_lkup: no match (implicit drop)`.
fn table(text: &str) -> Option<Step> {
    let (number, rest) = text.split_once(". ")?;
    let table = number.parse().ok()?;
    let (name, flow) = match rest.split_once(": ") {
        Some((name, flow)) if is_table_name(name) => (name.split(" (").next().unwrap_or(name), flow),
        _ => ("", rest),
    };
    let step = Step { table, name: name.to_owned(), ..Step::default() };
    if flow == "no match (implicit drop)" {
        return Some(step);
    }
    let (flow, id) = split_last(flow, ", uuid ");
    let (matched, priority) = flow.rsplit_once(", priority ")?;
    Some(Step { matched: Some(matched.to_owned()), priority: Some(priority.parse().ok()?), flow: id, ..step })
}

/// `ls_in_acl` or `ls_in_acl (northd.c:6470)`: nothing that a match begins with.
fn is_table_name(text: &str) -> bool {
    let (name, source) = text.split_once(" (").unwrap_or((text, ")"));
    source.ends_with(')') && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"# tcp,reg14=0x2,tp_dst=22
# Detailed trace.

ingress(dp="s1", inport="p1")
-----------------------------
 0. ls_in_check_port_sec (northd.c:8432): 1, priority 50, uuid be5870f1
    reg0[15] = check_in_port_sec();
    next;
 6. ls_in_pre_stateful (northd.c:6140): reg0[0] == 1, priority 100, uuid a578aa8d
    ct_next;

ct_next(ct_state=est|trk /* default (use --ct to customize) */)
---------------------------------------------------------------
25. ls_in_l2_lkup (northd.c:9122): eth.dst == 00:00:00:00:00:02 && ip, priority 50, uuid accd075d
    outport = "_MC_flood";
    output;

multicast(dp="s1", mcgroup="_MC_flood")
---------------------------------------

    egress(dp="s1", inport="p1", outport="odd ", inport=" name")
    ------------------------------------------------------------
         4. ls_out_acl: no match (implicit drop)

    egress(dp="s1", inport="p1", outport="p2")
    ------------------------------------------
         9. ls_out_apply_port_sec (northd.c:5777): 1, priority 0, uuid fe6af8f0
            output;
            /* output to "p2", type "" */
            *** TTL underflow
# Summary trace.
ingress(dp="s1", inport="p1") {
};
# Minimal trace.
ct_next(ct_state=est|trk) {
    output("p2");
    output("p2");
};
"#;

    #[test]
    fn steps_outputs_and_errors_are_found() {
        let Trace { text, summary } = read(OUTPUT, Detail::Summary).unwrap();
        assert_eq!(text, "# tcp,reg14=0x2,tp_dst=22\ningress(dp=\"s1\", inport=\"p1\") {\n};\n");
        assert_eq!(summary.packet, "tcp,reg14=0x2,tp_dst=22");
        assert_eq!(summary.outputs, ["p2"]);
        assert!(!summary.is_dropped());
        assert_eq!(summary.errors, ["TTL underflow"]);
        let names: Vec<_> = summary.steps.iter().map(|step| (step.table, step.name.as_str())).collect();
        let expected = [
            (0, "ls_in_check_port_sec"),
            (6, "ls_in_pre_stateful"),
            (25, "ls_in_l2_lkup"),
            (4, "ls_out_acl"),
            (9, "ls_out_apply_port_sec"),
        ];
        assert_eq!(names, expected);
        let lookup = &summary.steps[2];
        assert_eq!(lookup.pipeline.direction, "ingress", "the connection tracker does not end a pipeline");
        assert_eq!(lookup.matched.as_deref(), Some("eth.dst == 00:00:00:00:00:02 && ip"));
        assert_eq!((lookup.priority, lookup.flow.as_deref()), (Some(50), Some("accd075d")));
        let dropped = &summary.steps[3];
        assert_eq!((dropped.matched.as_ref(), dropped.priority), (None, None));
        assert_eq!(dropped.pipeline.inport.as_deref(), Some("p1"));
        assert_eq!(summary.steps[4].pipeline.outport.as_deref(), Some("p2"));
        assert_eq!(summary.steps[4].actions.len(), 2);
    }

    #[test]
    fn all_forms_of_the_text_can_be_had() {
        let detailed = read(OUTPUT, Detail::Detailed).unwrap().text;
        assert!(
            detailed.starts_with("# tcp,reg14=0x2,tp_dst=22\ningress(") && detailed.ends_with("underflow\n")
        );
        let minimal = read(OUTPUT, Detail::Minimal).unwrap().text;
        assert!(minimal.ends_with("    output(\"p2\");\n};\n") && !minimal.contains("ls_in"));
    }

    #[test]
    fn refusals_name_the_field() {
        let refused = |text| read(text, Detail::Summary).unwrap_err().to_string();
        assert_eq!(refused("unknown datapath \"x\"\n"), "datapath: unknown datapath \"x\"");
        assert_eq!(refused("error parsing flow: Syntax error.\n"), "microflow: Syntax error.");
        assert_eq!(refused("unknown port \"x\"\n"), "microflow: unknown port \"x\"");
        assert_eq!(refused(""), "microflow: ovn-trace says nothing to it");
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(# )?[a-z0-9 .:,\"()\n-]{0,400}(\n# Detailed trace.\n)?[ -~\n]{0,400}") {
            let _ = read(&text, Detail::Detailed);
        }
    }
}
