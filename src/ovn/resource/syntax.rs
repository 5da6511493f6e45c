//! The texts that OVN puts into columns: addresses, networks, names. Pure syntax, one value at a time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::value::{Atom, Datum};

use super::expression;

/// Longest name that is taken, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// How the values of one column are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A name: not empty, no control characters, bounded.
    Name,
    /// A name of a meter: as a name, and not one that OVN makes up itself.
    MeterName,
    /// A name that matches can refer to.
    SetName,
    /// A unicast MAC address.
    Mac,
    /// An IP address.
    Ip,
    /// An IP address with a prefix length.
    Network,
    /// An IP address, perhaps with a prefix length.
    IpOrNetwork,
    /// The external side of a NAT rule: an IP address.
    NatExternalIp,
    /// Destination of a route: an address or network, or `$set` of them.
    RoutePrefix,
    /// Where a route leads: an IP address, `discard`, or nothing where only the port counts.
    RouteNexthop,
    /// Kind of a switch port.
    PortType,
    /// An entry of a switch port's `addresses`.
    PortAddress,
    /// An entry of a switch port's `port_security`.
    PortSecurity,
    /// An entry of an address set.
    SetAddress,
    /// A match.
    Match,
    /// A match, or nothing.
    OptionalMatch,
    /// Virtual addresses and their backends.
    Vips,
    /// A virtual address with its port.
    Vip,
    /// Backends and where they are watched from.
    IpPortMappings,
    /// A range of ports, or nothing.
    PortRange,
    /// Names and their addresses.
    DnsRecords,
}

/// What is wrong with a value: its member, if it is one of several, and a sentence.
pub(crate) type Finding = (Option<String>, &'static str, String);

impl Check {
    /// In the documents.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Name => "a name: not empty, at most 255 bytes, no control characters",
            Self::MeterName => "a name that does not start with `__`",
            Self::SetName => "a name of letters, digits, `_` and `.` that does not start with a digit",
            Self::Mac => "a unicast MAC address such as `0a:00:00:00:00:01`",
            Self::Ip => "an IPv4 or IPv6 address",
            Self::Network => "an address with prefix length such as `10.0.0.1/24`",
            Self::IpOrNetwork => "an address, perhaps with prefix length",
            Self::NatExternalIp => "an IPv4 or IPv6 address, or `^template`",
            Self::RoutePrefix => "an address, a network, or `$address_set`",
            Self::RouteNexthop => "an address, `discard`, or empty",
            Self::PortType => "empty or a type that OVN knows",
            Self::PortAddress => "`MAC [IP...]`, `MAC dynamic`, `dynamic [IP...]`, `router` or `unknown`",
            Self::PortSecurity => "`MAC [IP[/prefix]...]`",
            Self::SetAddress => "a MAC address, an address or a network; all of one family",
            Self::Match | Self::OptionalMatch => "a match, see below",
            Self::Vips => "`IP[:port]` to `IP[:port],...`; IPv6 with port as `[IP]:port`",
            Self::Vip => "`IP:port`",
            Self::IpPortMappings => "backend address to `port:source address`",
            Self::PortRange => "empty, `port` or `first-last`",
            Self::DnsRecords => "lower-case names to addresses, separated by spaces",
        }
    }

    /// What is wrong with this value; empty if nothing. Matches are checked elsewhere: they need to know the sets.
    pub(crate) fn run(self, value: &Datum) -> Vec<Finding> {
        if value.pairs().is_empty() {
            let texts = value.atoms().iter().filter_map(Atom::as_str);
            let mut findings: Vec<_> = texts
                .filter_map(|text| {
                    let problem = self.text(text).err()?;
                    Some((Some(text.to_owned()), self.code(), problem))
                })
                .collect();
            if self == Self::SetAddress && findings.is_empty() {
                findings.extend(mixed_families(value).map(|problem| (None, self.code(), problem)));
            }
            return findings;
        }
        let pairs = value.pairs().iter().filter_map(|(key, value)| Some((key.as_str()?, value.as_str()?)));
        pairs
            .filter_map(|(key, value)| {
                let problem = self.pair(key, value).err()?;
                Some((Some(key.to_owned()), self.code(), problem))
            })
            .collect()
    }

    fn code(self) -> &'static str {
        match self {
            Self::Name | Self::MeterName | Self::SetName => "invalid_name",
            Self::Mac => "invalid_mac",
            Self::Ip | Self::NatExternalIp | Self::RouteNexthop => "invalid_address",
            Self::Network | Self::IpOrNetwork | Self::RoutePrefix => "invalid_network",
            Self::PortType => "unknown_type",
            Self::PortAddress | Self::PortSecurity | Self::SetAddress => "invalid_address",
            Self::Match | Self::OptionalMatch => "invalid_match",
            Self::Vips | Self::Vip | Self::IpPortMappings => "invalid_vip",
            Self::PortRange => "invalid_port",
            Self::DnsRecords => "invalid_dns_record",
        }
    }

    fn text(self, text: &str) -> Result<(), String> {
        match self {
            Self::Name => name(text),
            Self::MeterName if text.starts_with("__") => {
                Err("must not start with `__`: OVN names its own meters so".to_owned())
            }
            Self::MeterName => name(text),
            Self::SetName => set_name(text),
            Self::Mac => unicast_mac(text),
            Self::Ip => ip(text).map(drop),
            Self::Network => network(text).map(drop),
            Self::IpOrNetwork => ip_or_network(text).map(drop),
            Self::NatExternalIp if text.starts_with('^') => template(text),
            Self::NatExternalIp => ip(text).map(drop),
            Self::RoutePrefix => match text.strip_prefix('$') {
                Some(set) => set_name(set),
                None => ip_or_network(text).map(drop),
            },
            Self::RouteNexthop if text.is_empty() || text == "discard" => Ok(()),
            Self::RouteNexthop => ip(text).map(drop).map_err(|problem| format!("{problem}, or \"discard\"")),
            Self::PortType => port_type(text),
            Self::PortAddress => port_address(text),
            Self::PortSecurity => port_security(text),
            Self::SetAddress => set_address(text).map(drop),
            // With positions and sets in `validate`.
            Self::Match | Self::OptionalMatch => Ok(()),
            Self::Vip => vip(text).and_then(|(_, port)| match port {
                Some(_) => Ok(()),
                None => Err("must have a port, as in 10.0.0.1:80".to_owned()),
            }),
            Self::PortRange if text.is_empty() => Ok(()),
            Self::PortRange => port_range(text),
            Self::Vips | Self::IpPortMappings | Self::DnsRecords => Ok(()),
        }
    }

    fn pair(self, key: &str, value: &str) -> Result<(), String> {
        match self {
            Self::Vips => vip_backends(key, value),
            Self::IpPortMappings => ip_port_mapping(key, value),
            Self::DnsRecords => dns_record(key, value),
            _ => Ok(()),
        }
    }
}

fn name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("must have at most {NAME_BYTES_MAX} bytes, not {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    Ok(())
}

/// ovn-nb(5): names of address sets and port groups are what a match can refer to.
pub(crate) fn set_name(text: &str) -> Result<(), String> {
    name(text)?;
    if expression::is_identifier(text) {
        return Ok(());
    }
    Err("must consist of letters, digits, `_` and `.`, and not start with a digit, so that matches can refer to it"
        .to_owned())
}

/// Six octets in hexadecimal, separated by colons.
pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut octets = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut octets {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *octet = u8::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+'))?;
    }
    parts.next().is_none().then_some(octets)
}

fn unicast_mac(text: &str) -> Result<(), String> {
    let octets = mac(text).ok_or_else(|| {
        format!("must be a MAC address such as 0a:00:00:00:00:01, not {}", super::refusal::quoted(text))
    })?;
    if octets[0] & 1 != 0 {
        return Err("must be a unicast MAC address: the first octet must be even".to_owned());
    }
    if octets == [0; 6] {
        return Err("must not be all zeros".to_owned());
    }
    Ok(())
}

pub(crate) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("must be an IPv4 or IPv6 address without prefix length, not {}", super::refusal::quoted(text))
    })
}

/// Address and prefix length.
pub(crate) fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || {
        format!(
            "must be an address with prefix length such as 10.0.0.1/24, not {}",
            super::refusal::quoted(text)
        )
    };
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u8 = length.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    if length > most {
        return Err(format!("must have a prefix length of at most {most}, not {length}"));
    }
    Ok((address, length))
}

/// Address and prefix length; all bits without one.
pub(crate) fn ip_or_network(text: &str) -> Result<(IpAddr, u8), String> {
    if text.contains('/') {
        return network(text);
    }
    let address: IpAddr = text.parse().map_err(|_| {
        format!("must be an address, perhaps with prefix length, not {}", super::refusal::quoted(text))
    })?;
    Ok((address, if address.is_ipv4() { 32 } else { 128 }))
}

/// Whether both have the same first bits.
pub(crate) fn overlap(a: (IpAddr, u8), b: (IpAddr, u8)) -> bool {
    let length = a.1.min(b.1);
    match (a.0, b.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let differs = a.to_bits() ^ b.to_bits();
            length == 0 || differs.leading_zeros() >= u32::from(length)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let differs = a.to_bits() ^ b.to_bits();
            length == 0 || differs.leading_zeros() >= u32::from(length)
        }
        _ => false,
    }
}

fn template(text: &str) -> Result<(), String> {
    match text.strip_prefix('^') {
        Some(name) if expression::is_identifier(name) => Ok(()),
        _ => {
            Err(format!("must be an address or the name of a template, not {}", super::refusal::quoted(text)))
        }
    }
}

/// Types of OVN 23.03, and those that came later.
const PORT_TYPES: &[&str] = &[
    "",
    "router",
    "switch",
    "localnet",
    "localport",
    "l2gateway",
    "vtep",
    "external",
    "virtual",
    "remote",
    "patch",
];

fn port_type(text: &str) -> Result<(), String> {
    if PORT_TYPES.contains(&text) {
        return Ok(());
    }
    let known: Vec<_> = PORT_TYPES.iter().map(|known| format!("{known:?}")).collect();
    Err(format!("must be one of {}, not {}", known.join(", "), super::refusal::quoted(text)))
}

/// ovn-nb(5), Logical_Switch_Port: addresses.
fn port_address(text: &str) -> Result<(), String> {
    let mut words = text.split_ascii_whitespace();
    let rest = |words: std::str::SplitAsciiWhitespace<'_>| {
        words.map(ip_or_network).collect::<Result<Vec<_>, _>>().map_err(|problem| {
            format!("has a wrong address in {}: each {problem}", super::refusal::quoted(text))
        })
    };
    match words.next() {
        None => Err("must not be empty: leave the entry out, or use \"unknown\"".to_owned()),
        Some("unknown" | "router") => match words.next() {
            None => Ok(()),
            Some(more) => {
                Err(format!("must have nothing after its first word, not {}", super::refusal::quoted(more)))
            }
        },
        Some("dynamic") => {
            let addresses = rest(words)?;
            let of = |v4: bool| addresses.iter().filter(|(address, _)| address.is_ipv4() == v4).count();
            if of(true) > 1 || of(false) > 1 {
                return Err("must ask for at most one IPv4 and one IPv6 address after \"dynamic\"".to_owned());
            }
            Ok(())
        }
        Some(first) if mac(first).is_some() => {
            unicast_or_any_mac(first)?;
            let mut ahead = words.clone();
            if ahead.next() == Some("dynamic") && ahead.next().is_none() {
                return Ok(());
            }
            rest(words).map(drop)
        }
        Some(_) => Err(format!(
            "must be `MAC [IP...]`, `MAC dynamic`, `dynamic [IP...]`, `router` or `unknown`, not {}",
            super::refusal::quoted(text)
        )),
    }
}

/// All zeros means any address there, see ovn-nb(5).
fn unicast_or_any_mac(text: &str) -> Result<(), String> {
    if mac(text) == Some([0; 6]) { Ok(()) } else { unicast_mac(text) }
}

/// ovn-nb(5), Logical_Switch_Port: port_security.
fn port_security(text: &str) -> Result<(), String> {
    let mut words = text.split_ascii_whitespace().peekable();
    // Since OVN 24.03: VRRPv3 <physical MAC> <virtual MAC>...
    words.next_if_eq(&"VRRPv3");
    match words.next() {
        Some(first) if mac(first).is_some() => {}
        _ => {
            return Err(format!(
                "must start with a MAC address, as in `MAC [IP[/prefix]...]`, not {}",
                super::refusal::quoted(text)
            ));
        }
    }
    for word in words {
        let masked = word.split_once('/').filter(|(_, mask)| mask.contains('.'));
        let fits = match masked {
            // A dotted mask, for multicast groups and the like.
            Some((address, mask)) => address.parse::<Ipv4Addr>().is_ok() && mask.parse::<Ipv4Addr>().is_ok(),
            None => mac(word).is_some() || ip_or_network(word).is_ok(),
        };
        if !fits {
            return Err(format!("has {}, which is no address", super::refusal::quoted(word)));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Ethernet,
    V4,
    V6,
}

fn set_address(text: &str) -> Result<Family, String> {
    if mac(text).is_some() {
        return Ok(Family::Ethernet);
    }
    if let Some((address, mask)) = text.split_once('/')
        && address.parse::<Ipv4Addr>().is_ok()
        && mask.parse::<Ipv4Addr>().is_ok()
    {
        return Ok(Family::V4);
    }
    let (address, _) = ip_or_network(text).map_err(|_| {
        format!("must be a MAC address, an IP address or a network, not {}", super::refusal::quoted(text))
    })?;
    Ok(if address.is_ipv4() { Family::V4 } else { Family::V6 })
}

/// A set is compared with one field of a packet, so it holds addresses of one family.
fn mixed_families(value: &Datum) -> Option<String> {
    let mut families = value.atoms().iter().filter_map(|atom| set_address(atom.as_str()?).ok());
    let first = families.next()?;
    families.any(|family| family != first).then(|| {
        "must hold addresses of one family: make one set for IPv4, one for IPv6, one for MAC addresses"
            .to_owned()
    })
}

fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| format!("must have a port from 1 to 65535, not {}", super::refusal::quoted(text)))
}

fn port_range(text: &str) -> Result<(), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("must have its smaller port first, not {}", super::refusal::quoted(text)));
    }
    Ok(())
}

/// Address, and port if there is one.
pub(crate) fn vip(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && let Ok(address) = address.parse::<Ipv6Addr>()
    {
        return Ok((address.into(), None));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok((address.ip(), Some(address.port()))),
        _ => Err(format!(
            "must be `IP`, `IP:port` or `[IPv6]:port` with a port from 1 to 65535, not {}",
            super::refusal::quoted(text)
        )),
    }
}

fn vip_backends(key: &str, value: &str) -> Result<(), String> {
    // Templates are filled in by the chassis: nothing to check here.
    if key.starts_with('^') || value.starts_with('^') {
        return Ok(());
    }
    let (address, vip_port) =
        vip(key).map_err(|problem| format!("is a wrong virtual address: it {problem}"))?;
    for backend in value.split(',').map(str::trim).filter(|backend| !backend.is_empty()) {
        if backend.starts_with('^') {
            continue;
        }
        let (to, port) = vip(backend).map_err(|problem| format!("has a wrong backend: each {problem}"))?;
        if to.is_ipv4() != address.is_ipv4() {
            return Err(format!("has the backend {backend} of another family than the virtual address"));
        }
        if port.is_some() != vip_port.is_some() {
            let (with, without) = if vip_port.is_some() {
                ("virtual address", "backend")
            } else {
                ("backend", "virtual address")
            };
            return Err(format!(
                "has a port in the {with} but none in the {without} ({backend}): give both or neither"
            ));
        }
    }
    Ok(())
}

fn ip_port_mapping(key: &str, value: &str) -> Result<(), String> {
    vip(key).map_err(|problem| format!("is a wrong backend: it {problem}"))?;
    // The name of a port may contain colons; an IPv6 source address stands in brackets.
    let source = match value.strip_suffix(']').and_then(|rest| rest.rsplit_once(":[")) {
        Some(split) => Some(split),
        None => value.rsplit_once(':'),
    };
    match source {
        Some((port, source)) if !port.is_empty() && source.parse::<IpAddr>().is_ok() => Ok(()),
        // With --az and remote backends there may be more after it.
        Some(_) | None => Err(format!(
            "must be `port name:source address`, as in `vm1:10.0.0.254`, not {}",
            super::refusal::quoted(value)
        )),
    }
}

fn dns_record(key: &str, value: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > NAME_BYTES_MAX || key.contains(char::is_whitespace) {
        return Err("must have a host name as its key".to_owned());
    }
    if key.chars().any(char::is_uppercase) {
        return Err(
            "must have a lower-case key: OVN compares in lower case and would never find it".to_owned()
        );
    }
    if value.trim().is_empty() {
        return Err("must have at least one address".to_owned());
    }
    // A reverse record holds a name.
    if key.ends_with(".in-addr.arpa") || key.ends_with(".ip6.arpa") {
        return Ok(());
    }
    // ovn-nb(5) takes both separators.
    let words = value.split([' ', ',', '\t']).filter(|word| !word.is_empty());
    for word in words {
        word.parse::<IpAddr>()
            .map_err(|_| format!("has {}, which is no address", super::refusal::quoted(word)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(check: Check, texts: &[&str]) {
        for text in texts {
            assert_eq!(check.text(text), Ok(()), "{check:?} {text:?}");
        }
    }

    fn bad(check: Check, texts: &[&str]) {
        for text in texts {
            assert!(check.text(text).is_err(), "{check:?} takes {text:?}");
        }
    }

    #[test]
    fn addresses_of_ports() {
        good(
            Check::PortAddress,
            &[
                "unknown",
                "router",
                "dynamic",
                "dynamic 10.0.0.4",
                "dynamic 10.0.0.4 fd00::4",
                "0a:00:00:00:00:01",
                "0a:00:00:00:00:01 dynamic",
                "0a:00:00:00:00:01 10.0.0.4 fd00::4",
                "0a:00:00:00:00:01 10.0.0.4/24",
                "00:00:00:00:00:00 10.0.0.4",
            ],
        );
        bad(
            Check::PortAddress,
            &[
                "",
                "10.0.0.4",
                "router 10.0.0.4",
                "0a:00:00:00:00:01 10.0.0.400",
                "0a:00:00:00:00:0 10.0.0.4",
                "01:00:00:00:00:01 10.0.0.4",
                "dynamic 10.0.0.4 10.0.0.5",
                "0a:00:00:00:00:01 dynamic 10.0.0.4",
                "0a-00-00-00-00-01",
                "Unknown",
            ],
        );
        good(
            Check::PortSecurity,
            &[
                "0a:00:00:00:00:01",
                "0a:00:00:00:00:01 10.0.0.4 fe80::/64",
                "0a:00:00:00:00:01 10.0.0.0/255.255.255.0",
            ],
        );
        bad(Check::PortSecurity, &["", "10.0.0.4", "0a:00:00:00:00:01 vm1"]);
    }

    #[test]
    fn macs_and_networks() {
        good(Check::Mac, &["0a:00:00:00:00:01", "AA:bb:CC:00:00:01"]);
        bad(
            Check::Mac,
            &[
                "",
                "0a:00:00:00:00",
                "0a:00:00:00:00:01:02",
                "+a:00:00:00:00:01",
                "ff:ff:ff:ff:ff:ff",
                "00:00:00:00:00:00",
            ],
        );
        good(Check::Network, &["10.0.0.1/24", "fd00::1/64", "0.0.0.0/0"]);
        bad(
            Check::Network,
            &["10.0.0.1", "10.0.0.1/33", "10.0.0.1/+8", "10.0.0/24", "fd00::1/129", "10.0.0.1/"],
        );
        good(Check::RouteNexthop, &["", "discard", "10.0.0.1", "fd00::1"]);
        bad(Check::RouteNexthop, &["10.0.0.1/24", "gateway"]);
        good(Check::RoutePrefix, &["10.0.0.0/8", "10.0.0.1", "$set1", "::/0"]);
        bad(Check::RoutePrefix, &["", "$1", "default"]);
        good(Check::SetName, &["pg_1", "a.b", "_x"]);
        bad(Check::SetName, &["", "1a", "a-b", "é"]);
    }

    #[test]
    fn load_balancers() {
        for (key, value, fits) in [
            ("10.0.0.1:80", "10.0.0.2:8080,10.0.0.3:8080", true),
            ("10.0.0.1", "10.0.0.2,10.0.0.3", true),
            ("[fd00::1]:80", "[fd00::2]:80", true),
            ("fd00::1", "fd00::2", true),
            ("10.0.0.1:80", "", true),
            ("^vip:80", "^backends", true),
            ("10.0.0.1:80", "10.0.0.2", false),
            ("10.0.0.1", "10.0.0.2:80", false),
            ("10.0.0.1:80", "[fd00::2]:80", false),
            ("10.0.0.1:0", "10.0.0.2:80", false),
            ("10.0.0.1:80", "10.0.0.2:99999", false),
            ("fd00::1:80:x", "fd00::2", false),
        ] {
            assert_eq!(vip_backends(key, value).is_ok(), fits, "{key} -> {value}");
        }
        assert!(ip_port_mapping("10.0.0.2", "vm1:10.0.0.254").is_ok());
        assert!(ip_port_mapping("fd00::2", "vm1:[fd00::ff]").is_ok());
        assert!(ip_port_mapping("10.0.0.2", "vm1").is_err());
    }

    #[test]
    fn sets_are_of_one_family() {
        let set = |texts: &[&str]| Datum::set(texts.iter().map(|text| Atom::from(*text)));
        assert!(Check::SetAddress.run(&set(&["10.0.0.1", "10.1.0.0/16", "10.0.0.0/255.0.0.0"])).is_empty());
        assert_eq!(Check::SetAddress.run(&set(&["10.0.0.1", "fd00::1"])).len(), 1);
        let findings = Check::SetAddress.run(&set(&["10.0.0.1", "x"]));
        assert_eq!(findings[0].0.as_deref(), Some("x"));
    }

    #[test]
    fn networks_overlap_on_their_first_bits() {
        let parse = |text| ip_or_network(text).unwrap();
        assert!(overlap(parse("10.0.0.1/24"), parse("10.0.0.2/24")));
        assert!(overlap(parse("0.0.0.0/0"), parse("10.0.0.2/24")));
        assert!(!overlap(parse("10.0.1.1/24"), parse("10.0.0.2/24")));
        assert!(!overlap(parse("fd00::1/64"), parse("10.0.0.2/24")));
        assert!(overlap(parse("fd00::1/64"), parse("fd00::2/128")));
    }

    #[test]
    fn names_in_dns() {
        assert!(dns_record("vm1.lab", "10.0.0.4 fd00::4").is_ok());
        assert!(dns_record("4.0.0.10.in-addr.arpa", "vm1.lab").is_ok());
        for (key, value) in [("VM1", "10.0.0.4"), ("vm1", ""), ("vm1", "x"), ("", "10.0.0.4")] {
            assert!(dns_record(key, value).is_err(), "{key} {value}");
        }
    }
}
