//! `docs/network.md` says what the catalogue says.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::fmt::Write;
use std::path::Path;

use ovncp_ovn::resource::catalogue::{oldest_reference, reference};
use ovncp_ovn::resource::specs::SPECS;
use ovncp_ovn::resource::{Catalogue, Resource, Role, expression};
use ovncp_ovn::schema::{AtomKind, BaseType, ColumnSchema};
use ovncp_ovn::value::Atom;

const BEGIN: &str = "<!-- generated from the catalogue: UPDATE_GOLDENFILES=1 cargo test -p ovncp-ovn --test network_page -->\n";
const END: &str = "<!-- end of what is generated -->";

#[test]
fn the_page_says_what_the_catalogue_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/network.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has a place for what is generated");
    let (_, after) = rest.split_once(END).expect("that place has an end");
    let right = format!("{before}{BEGIN}{}{END}{after}", generated());
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, &right).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), right, "the page is old: see its comment");
}

fn generated() -> String {
    let catalogue = Catalogue::new(reference());
    let mut text = String::new();
    for spec in SPECS {
        let resource = catalogue.by_path(spec.path).unwrap();
        describe(&mut text, resource, spec.members);
    }
    let mut fields: Vec<_> = expression::symbols().iter().map(|symbol| symbol.name).collect();
    fields.sort_unstable();
    write!(text, "\n### Fields of matches\n\n").unwrap();
    let mut line = String::new();
    for field in fields {
        if line.len() + field.len() > 110 {
            writeln!(text, "{}", line.trim_end()).unwrap();
            line.clear();
        }
        write!(line, "`{field}` ").unwrap();
    }
    writeln!(text, "{}", line.trim_end()).unwrap();
    text
}

fn describe(text: &mut String, resource: &Resource, members: &[(&str, &str)]) {
    writeln!(text, "\n### `/api/v1/{}`: {}\n", resource.path, resource.title).unwrap();
    write!(text, "{} Table `{}`.", resource.about, resource.table.name).unwrap();
    let oldest = oldest_reference().table(&resource.table.name);
    if oldest.is_none() {
        write!(text, " OVN 23.03 does not have it.").unwrap();
    }
    if resource.unique_name {
        write!(text, " Names are kept unique, which the schema does not do.").unwrap();
    }
    for parent in &resource.parents {
        write!(text, " Held by `/{}/{{id}}/{}` (field `{}`).", parent.path, parent.segment, parent.field)
            .unwrap();
    }
    for (segment, column) in members {
        write!(text, " Members of `{column}`: `/{}/{{id}}/{segment}`.", resource.path).unwrap();
    }
    writeln!(text, "\n\n| field | holds | |\n| --- | --- | --- |").unwrap();
    for (field, column) in resource.fields.iter().zip(&resource.table.columns) {
        let mut notes = Vec::new();
        if field.required {
            notes.push("required".to_owned());
        }
        match field.role {
            Role::ReadOnly => notes.push("written by OVN".to_owned()),
            Role::Children => notes.push("ids, or objects that make new ones".to_owned()),
            Role::Configuration => {}
        }
        notes.extend(field.check.map(|check| check.about().to_owned()));
        if oldest.is_some_and(|oldest| oldest.column(&column.name).is_none()) {
            notes.push("not in OVN 23.03".to_owned());
        }
        writeln!(text, "| `{}` | {} | {} |", field.name, holds(column), notes.join("; ")).unwrap();
    }
    if !resource.rules.is_empty() {
        writeln!(text).unwrap();
    }
    for rule in resource.rules {
        writeln!(text, "- {}", rule.about()).unwrap();
    }
}

fn holds(column: &ColumnSchema) -> String {
    let key = atom(&column.key);
    if let Some(value) = &column.value {
        return format!("map of {key} to {}", atom(value));
    }
    match (column.min, column.max) {
        (1, 1) => key,
        (0, 1) => format!("{key}, or null"),
        (0, usize::MAX) => format!("set of {key}"),
        (_, usize::MAX) => format!("set of {key}, not empty"),
        (min, max) => format!("{min} to {max} of {key}"),
    }
}

fn atom(base: &BaseType) -> String {
    if let Some(table) = &base.ref_table {
        let spec = SPECS.iter().find(|spec| spec.table == &**table);
        return spec.map_or_else(|| format!("`{table}`"), |spec| spec.title.to_owned());
    }
    if !base.allowed.is_empty() {
        let allowed: Vec<_> = base.allowed.iter().map(|allowed| format!("`{allowed}`")).collect();
        return allowed.join(", ");
    }
    let kind = match base.kind {
        AtomKind::Integer => "integer",
        AtomKind::Real => "number",
        AtomKind::Boolean => "boolean",
        AtomKind::String => "text",
        AtomKind::Uuid => "uuid",
    };
    let bound = |bound: &Option<Atom>| bound.as_ref().map(ToString::to_string);
    match (base.kind, bound(&base.min), bound(&base.max)) {
        (AtomKind::String, None, Some(max)) => format!("{kind} of at most {max} characters"),
        (_, Some(min), Some(max)) => format!("{kind} {min} to {max}"),
        (_, Some(min), None) => format!("{kind} from {min}"),
        (_, None, Some(max)) => format!("{kind} up to {max}"),
        (_, None, None) => kind.to_owned(),
    }
}
