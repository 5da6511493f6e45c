//! What must hold between several columns of one row. Each rule says which columns it reads, so that a PATCH of one of
//! them can make sure that the others are still what they were.

use crate::value::{Atom, Datum};

use super::catalogue::Lookup;
use super::refusal::quoted;
use super::syntax::{ip, ip_or_network, network, overlap, vip};

/// Named in the documents as they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A port of type `router` says which router port it leads to.
    RouterPortNamed,
    /// A port within a port has a tag, and a tag on a machine's port needs a parent.
    TagNeedsParent,
    /// Networks of a router port do not overlap.
    NetworksApart,
    /// A router port is not its own peer.
    PeerIsAnother,
    /// Prefix and next hop of a route are of one family, unless the route says otherwise.
    RouteFamilies,
    /// A policy that reroutes has next hops, all of one family, and no other policy has.
    PolicyNexthops,
    /// Both sides of a NAT rule fit its type.
    NatAddresses,
    /// A distributed NAT rule has both a MAC address and a port.
    NatDistributed,
    /// Of allowed and exempted external addresses a rule has one at most.
    NatExternalSets,
    /// A label needs an action that tracks connections.
    AclLabel,
    /// A meter or a severity needs `log`.
    AclMeterLogs,
    /// Backends have ports where a protocol is set.
    VipsNeedPorts,
    /// DHCP options hold what OVN needs to answer at all.
    DhcpAnswers,
    /// A QoS rule does something.
    QosActs,
    /// The sink of a remote mirror is an address.
    MirrorSink,
}

/// Column, code, sentence.
pub(crate) type Broken = (&'static str, &'static str, String);

fn text<'a>(row: &Lookup<'a>, column: &str) -> &'a str {
    row.get(column).and_then(|value| value.as_str()).unwrap_or_default()
}

fn option<'a>(row: &Lookup<'a>, column: &str, key: &str) -> Option<&'a str> {
    row.get(column).and_then(|value| value.get(key))
}

fn is_set(row: &Lookup<'_>, column: &str) -> bool {
    row.get(column).is_some_and(|value| !value.is_empty() && value.as_str() != Some(""))
}

fn integer(row: &Lookup<'_>, column: &str) -> Option<i64> {
    match row.get(column)?.atoms() {
        [Atom::Integer(number)] => Some(*number),
        _ => None,
    }
}

fn texts<'a>(row: &Lookup<'a>, column: &str) -> impl Iterator<Item = &'a str> {
    let value: Option<&'a Datum> = row.get(column).copied();
    value.into_iter().flat_map(|value| value.atoms().iter().filter_map(Atom::as_str))
}

impl Rule {
    /// What it reads.
    #[must_use]
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::RouterPortNamed => &["type", "options"],
            Self::TagNeedsParent => &["type", "parent_name", "tag_request"],
            Self::NetworksApart => &["networks"],
            Self::PeerIsAnother => &["name", "peer"],
            Self::RouteFamilies => &["ip_prefix", "nexthop", "output_port"],
            Self::PolicyNexthops => &["action", "nexthop", "nexthops"],
            Self::NatAddresses => &["type", "external_ip", "logical_ip"],
            Self::NatDistributed => &["type", "external_mac", "logical_port"],
            Self::NatExternalSets => &["allowed_ext_ips", "exempted_ext_ips"],
            Self::AclLabel => &["label", "action"],
            Self::AclMeterLogs => &["log", "meter", "severity"],
            Self::VipsNeedPorts => &["protocol", "vips"],
            Self::DhcpAnswers => &["cidr", "options"],
            Self::QosActs => &["action", "bandwidth"],
            Self::MirrorSink => &["type", "sink"],
        }
    }

    /// In the documents.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::RouterPortNamed => {
                "`options:router-port` is set where `type` is `router` (or the port has a `peer`)"
            }
            Self::TagNeedsParent => {
                "`tag_request` needs `parent_name`, or the type `localnet` or `l2gateway`"
            }
            Self::NetworksApart => "`networks` do not overlap",
            Self::PeerIsAnother => "`peer` is not the port itself",
            Self::RouteFamilies => {
                "`nexthop` is of the family of `ip_prefix`, and only empty with an `output_port`"
            }
            Self::PolicyNexthops => "`nexthop` or `nexthops` is set exactly where `action` is `reroute`",
            Self::NatAddresses => {
                "both sides are of one family; `logical_ip` is one address unless `type` is `snat`"
            }
            Self::NatDistributed => {
                "`external_mac` and `logical_port` come together, and only with `type` `dnat_and_snat`"
            }
            Self::NatExternalSets => "not both `allowed_ext_ips` and `exempted_ext_ips`",
            Self::AclLabel => "`label` is 0 unless `action` is `allow-related` (or `allow`)",
            Self::AclMeterLogs => "`meter` and `severity` are only set where `log` is",
            Self::VipsNeedPorts => "`protocol` is only set where virtual addresses have ports",
            Self::DhcpAnswers => {
                "for IPv4 `options` has `server_id`, `server_mac` and `lease_time`, for IPv6 `server_id`, or it is empty"
            }
            Self::QosActs => "`action` or `bandwidth` is set",
            Self::MirrorSink => "`sink` is an address where `type` is `gre` or `erspan`",
        }
    }

    pub(crate) fn check(self, row: &Lookup<'_>) -> Option<Broken> {
        match self {
            Self::RouterPortNamed => {
                let missing =
                    text(row, "type") == "router" && option(row, "options", "router-port").is_none();
                let problem =
                    "must have the key router-port, the name of a router port, where the type is \"router\"";
                (missing && !is_set(row, "peer"))
                    .then(|| ("options", "router_port_missing", problem.to_owned()))
            }
            Self::TagNeedsParent => {
                let other = matches!(text(row, "type"), "localnet" | "l2gateway");
                let alone = is_set(row, "tag_request") && !is_set(row, "parent_name") && !other;
                let problem = "needs parent_name, the port that carries the tagged packets";
                alone.then(|| ("tag_request", "parent_name_missing", problem.to_owned()))
            }
            Self::NetworksApart => networks_apart(row),
            Self::PeerIsAnother => {
                let own = is_set(row, "peer") && text(row, "peer") == text(row, "name");
                own.then(|| ("peer", "invalid_peer", "must be another port than this one".to_owned()))
            }
            Self::RouteFamilies => route_families(row),
            Self::PolicyNexthops => policy_nexthops(row),
            Self::NatAddresses => nat_addresses(row),
            Self::NatDistributed => nat_distributed(row),
            Self::NatExternalSets => {
                let both = is_set(row, "allowed_ext_ips") && is_set(row, "exempted_ext_ips");
                let problem = "cannot be set together with allowed_ext_ips: choose one";
                both.then(|| ("exempted_ext_ips", "invalid_combination", problem.to_owned()))
            }
            Self::AclLabel => {
                let tracked = matches!(text(row, "action"), "allow-related" | "allow");
                let lost = integer(row, "label").is_some_and(|label| label != 0) && !tracked;
                let problem = "needs the action \"allow-related\": other actions keep no connection to label";
                lost.then(|| ("label", "invalid_combination", problem.to_owned()))
            }
            Self::AclMeterLogs => {
                let logs = row.get("log").is_some_and(|log| matches!(log.atoms(), [Atom::Boolean(true)]));
                let column = ["meter", "severity"].into_iter().find(|column| !logs && is_set(row, column));
                column.map(|column| {
                    (column, "invalid_combination", "has no effect unless log is true".to_owned())
                })
            }
            Self::VipsNeedPorts => vips_need_ports(row),
            Self::DhcpAnswers => dhcp_answers(row),
            Self::QosActs => {
                let idle = !is_set(row, "action") && !is_set(row, "bandwidth");
                let problem = "or bandwidth must be set: the rule would do nothing";
                idle.then(|| ("action", "missing", problem.to_owned()))
            }
            Self::MirrorSink => {
                let remote = matches!(text(row, "type"), "gre" | "erspan");
                let sink = text(row, "sink");
                let problem = (remote && !sink.is_empty()).then(|| ip(sink).err()).flatten()?;
                Some(("sink", "invalid_address", problem))
            }
        }
    }
}

fn networks_apart(row: &Lookup<'_>) -> Option<Broken> {
    let networks: Vec<_> =
        texts(row, "networks").filter_map(|text| Some((text, network(text).ok()?))).collect();
    for (position, (text, one)) in networks.iter().enumerate() {
        if let Some((other, _)) = networks[..position].iter().find(|(_, other)| overlap(*one, *other)) {
            return Some((
                "networks",
                "overlapping_networks",
                format!("must not overlap: {other} and {text} do"),
            ));
        }
    }
    None
}

fn route_families(row: &Lookup<'_>) -> Option<Broken> {
    let (prefix, hop) = (text(row, "ip_prefix"), text(row, "nexthop"));
    if hop == "discard" {
        return None;
    }
    if hop.is_empty() {
        let problem = "must be an address, or \"discard\", unless output_port says where the route leads";
        return (!is_set(row, "output_port")).then(|| ("nexthop", "missing", problem.to_owned()));
    }
    let (Ok((prefix, _)), Ok(hop)) = (ip_or_network(prefix), ip(hop)) else { return None };
    let problem = "must be of the family of ip_prefix";
    (prefix.is_ipv4() != hop.is_ipv4()).then(|| ("nexthop", "mixed_families", problem.to_owned()))
}

fn policy_nexthops(row: &Lookup<'_>) -> Option<Broken> {
    let (one, several) = (is_set(row, "nexthop"), is_set(row, "nexthops"));
    let reroutes = text(row, "action") == "reroute";
    if reroutes && !one && !several {
        return Some(("nexthops", "missing", "must be set where the action is \"reroute\"".to_owned()));
    }
    if !reroutes && (one || several) {
        let column = if one { "nexthop" } else { "nexthops" };
        let problem = "is only used where the action is \"reroute\"";
        return Some((column, "invalid_combination", problem.to_owned()));
    }
    let families = texts(row, "nexthops").filter_map(|text| ip(text).ok()).map(|hop| hop.is_ipv4());
    let families: std::collections::BTreeSet<_> = families.collect();
    (families.len() > 1).then(|| ("nexthops", "mixed_families", "must be of one family".to_owned()))
}

fn nat_addresses(row: &Lookup<'_>) -> Option<Broken> {
    let kind = text(row, "type");
    let logical = ip_or_network(text(row, "logical_ip")).ok()?;
    let most = if logical.0.is_ipv4() { 32 } else { 128 };
    if kind != "snat" && logical.1 != most {
        let problem =
            format!("must be one address where the type is {}: only snat takes a network", quoted(kind));
        return Some(("logical_ip", "invalid_address", problem));
    }
    let external = ip(text(row, "external_ip")).ok()?;
    let problem = "must be of the family of external_ip";
    (external.is_ipv4() != logical.0.is_ipv4()).then(|| ("logical_ip", "mixed_families", problem.to_owned()))
}

fn nat_distributed(row: &Lookup<'_>) -> Option<Broken> {
    let (mac, port) = (is_set(row, "external_mac"), is_set(row, "logical_port"));
    let column = if mac { "external_mac" } else { "logical_port" };
    if mac && !port {
        let problem = "must be set together with external_mac: the rule is handled where that port is";
        return Some(("logical_port", "missing", problem.to_owned()));
    }
    if port && !mac {
        let problem = "must be set together with logical_port";
        return Some(("external_mac", "missing", problem.to_owned()));
    }
    let problem = "is only used where the type is \"dnat_and_snat\"";
    (mac && text(row, "type") != "dnat_and_snat").then(|| (column, "invalid_combination", problem.to_owned()))
}

fn vips_need_ports(row: &Lookup<'_>) -> Option<Broken> {
    if !is_set(row, "protocol") {
        return None;
    }
    let pairs = row.get("vips")?.pairs();
    let bare =
        pairs.iter().filter_map(|(key, _)| key.as_str()).find(|key| matches!(vip(key), Ok((_, None))))?;
    let problem = format!("has {bare} without a port: with a protocol every virtual address needs one");
    Some(("vips", "port_missing", problem))
}

fn dhcp_answers(row: &Lookup<'_>) -> Option<Broken> {
    let (address, _) = network(text(row, "cidr")).ok()?;
    if !is_set(row, "options") {
        return None;
    }
    let needed: &[&str] =
        if address.is_ipv4() { &["server_id", "server_mac", "lease_time"] } else { &["server_id"] };
    let missing = needed.iter().find(|key| option(row, "options", key).is_none())?;
    Some(("options", "missing", format!("must have the key {missing}: without it OVN does not answer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(rule: Rule, row: &[(&'static str, Datum)]) -> Option<&'static str> {
        let row: Lookup<'_> = row.iter().map(|(column, value)| (*column, value)).collect();
        rule.check(&row).map(|(column, _, _)| column)
    }

    fn map(pairs: &[(&str, &str)]) -> Datum {
        Datum::map(pairs.iter().map(|(key, value)| (Atom::from(*key), Atom::from(*value))))
    }

    fn set(texts: &[&str]) -> Datum {
        Datum::set(texts.iter().map(|text| Atom::from(*text)))
    }

    #[test]
    fn nat_rules_fit_their_type() {
        let row = |kind: &str, external: &str, logical: &str| {
            let row =
                [("type", kind.into()), ("external_ip", external.into()), ("logical_ip", logical.into())];
            broken(Rule::NatAddresses, &row)
        };
        assert_eq!(row("snat", "1.1.1.1", "10.0.0.0/24"), None);
        assert_eq!(row("dnat", "1.1.1.1", "10.0.0.0/24"), Some("logical_ip"));
        assert_eq!(row("dnat", "1.1.1.1", "10.0.0.1/32"), None);
        assert_eq!(row("snat", "1.1.1.1", "fd00::/64"), Some("logical_ip"));
        let row = |kind: &str, mac: &[&str], port: &[&str]| {
            broken(
                Rule::NatDistributed,
                &[("type", kind.into()), ("external_mac", set(mac)), ("logical_port", set(port))],
            )
        };
        assert_eq!(row("dnat_and_snat", &["0a:00:00:00:00:01"], &["vm1"]), None);
        assert_eq!(row("dnat_and_snat", &["0a:00:00:00:00:01"], &[]), Some("logical_port"));
        assert_eq!(row("dnat_and_snat", &[], &["vm1"]), Some("external_mac"));
        assert_eq!(row("snat", &["0a:00:00:00:00:01"], &["vm1"]), Some("external_mac"));
        assert_eq!(row("snat", &[], &[]), None);
    }

    #[test]
    fn routes_and_policies() {
        let row = |prefix: &str, hop: &str| {
            broken(Rule::RouteFamilies, &[("ip_prefix", prefix.into()), ("nexthop", hop.into())])
        };
        assert_eq!(row("0.0.0.0/0", "10.0.0.1"), None);
        assert_eq!(row("0.0.0.0/0", "discard"), None);
        assert_eq!(row("0.0.0.0/0", ""), Some("nexthop"));
        assert_eq!(row("0.0.0.0/0", "fd00::1"), Some("nexthop"));
        let row = |action: &str, hops: &[&str]| {
            broken(Rule::PolicyNexthops, &[("action", action.into()), ("nexthops", set(hops))])
        };
        assert_eq!(row("reroute", &["10.0.0.1", "10.0.0.2"]), None);
        assert_eq!(row("reroute", &[]), Some("nexthops"));
        assert_eq!(row("reroute", &["10.0.0.1", "fd00::1"]), Some("nexthops"));
        assert_eq!(row("allow", &["10.0.0.1"]), Some("nexthops"));
        assert_eq!(row("drop", &[]), None);
        assert_eq!(broken(Rule::NetworksApart, &[("networks", set(&["10.0.0.1/24", "10.0.1.1/24"]))]), None);
        assert_eq!(
            broken(Rule::NetworksApart, &[("networks", set(&["10.0.0.1/24", "10.0.0.2/16"]))]),
            Some("networks")
        );
    }

    #[test]
    fn ports_and_acls() {
        assert_eq!(
            broken(Rule::RouterPortNamed, &[("type", "router".into()), ("options", map(&[]))]),
            Some("options")
        );
        assert_eq!(
            broken(
                Rule::RouterPortNamed,
                &[("type", "router".into()), ("options", map(&[("router-port", "rp")]))]
            ),
            None
        );
        assert_eq!(broken(Rule::RouterPortNamed, &[("type", "".into())]), None);
        assert_eq!(broken(Rule::TagNeedsParent, &[("tag_request", 5.into())]), Some("tag_request"));
        assert_eq!(
            broken(Rule::TagNeedsParent, &[("tag_request", 5.into()), ("type", "localnet".into())]),
            None
        );
        assert_eq!(broken(Rule::AclLabel, &[("label", 5.into()), ("action", "drop".into())]), Some("label"));
        assert_eq!(broken(Rule::AclLabel, &[("label", 0.into()), ("action", "drop".into())]), None);
        assert_eq!(
            broken(Rule::AclMeterLogs, &[("log", false.into()), ("meter", "m".into())]),
            Some("meter")
        );
        assert_eq!(broken(Rule::AclMeterLogs, &[("log", true.into()), ("meter", "m".into())]), None);
        assert_eq!(broken(Rule::QosActs, &[("action", map(&[])), ("bandwidth", map(&[]))]), Some("action"));
    }

    #[test]
    fn dhcp_and_load_balancers() {
        let full =
            map(&[("server_id", "10.0.0.1"), ("server_mac", "0a:00:00:00:00:01"), ("lease_time", "3600")]);
        let row = |cidr: &str, options: &Datum| {
            broken(Rule::DhcpAnswers, &[("cidr", cidr.into()), ("options", options.clone())])
        };
        assert_eq!(row("10.0.0.0/24", &full), None);
        assert_eq!(row("10.0.0.0/24", &map(&[])), None);
        assert_eq!(row("10.0.0.0/24", &map(&[("server_id", "10.0.0.1")])), Some("options"));
        assert_eq!(row("fd00::/64", &map(&[("server_id", "0a:00:00:00:00:01")])), None);
        let row = |protocol: &[&str], key: &str| {
            broken(Rule::VipsNeedPorts, &[("protocol", set(protocol)), ("vips", map(&[(key, "10.0.0.2")]))])
        };
        assert_eq!(row(&["tcp"], "10.0.0.1"), Some("vips"));
        assert_eq!(row(&["tcp"], "10.0.0.1:80"), None);
        assert_eq!(row(&[], "10.0.0.1"), None);
    }
}
