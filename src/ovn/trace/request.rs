//! What may be asked of ovn-trace.

use std::fmt;
use std::net::IpAddr;

/// The longest name of a datapath.
pub const NAME_BYTES_MAX: usize = 512;
/// The longest microflow.
pub const MICROFLOW_BYTES_MAX: usize = 4096;
/// A packet passes the connection tracker so often and no oftener that somebody wants to say how.
pub const CT_STATES_MAX: usize = 16;

/// One packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceRequest {
    /// The switch or router where it starts, by name or id; without it, the one that has the inport.
    pub datapath: Option<String>,
    /// The packet as an OVN expression: `inport == "vm-1" && eth.src == … && ip4.dst == …`.
    pub microflow: String,
    /// What each pass through the connection tracker finds, in order; later ones find `trk,est`.
    pub ct: Vec<Vec<CtFlag>>,
    /// The member that load balancers choose, if they have it.
    pub lb_dst: Option<LoadBalancerTarget>,
    /// How much text is wanted.
    pub detail: Detail,
}

/// How much ovn-trace tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Every table with its match.
    Detailed,
    /// Every action.
    #[default]
    Summary,
    /// What can be seen from outside.
    Minimal,
}

/// A flag of the connection tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CtFlag {
    /// It has seen the packet.
    Trk,
    /// Of a connection that begins.
    New,
    /// Of a known connection.
    Est,
    /// Related to one.
    Rel,
    /// In the direction of the answer.
    Rpl,
    /// It makes no sense.
    Inv,
    /// Its destination was changed.
    Dnat,
    /// Its source was changed.
    Snat,
}

/// A member of a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadBalancerTarget {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: Option<u16>,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidRequest {
    /// `datapath`, `microflow` or `ct`.
    pub field: &'static str,
    /// Why, in ovn-trace's own words where it said it.
    pub reason: String,
}

impl InvalidRequest {
    pub(super) fn microflow(reason: impl Into<String>) -> InvalidRequest {
        InvalidRequest { field: "microflow", reason: reason.into() }
    }

    pub(super) fn datapath(reason: impl Into<String>) -> InvalidRequest {
        InvalidRequest { field: "datapath", reason: reason.into() }
    }
}

impl CtFlag {
    /// All of them, as they are written.
    pub const NAMES: [(&'static str, CtFlag); 8] = [
        ("trk", CtFlag::Trk),
        ("new", CtFlag::New),
        ("est", CtFlag::Est),
        ("rel", CtFlag::Rel),
        ("rpl", CtFlag::Rpl),
        ("inv", CtFlag::Inv),
        ("dnat", CtFlag::Dnat),
        ("snat", CtFlag::Snat),
    ];

    /// Reads one flag.
    pub fn parse(text: &str) -> Option<CtFlag> {
        CtFlag::NAMES.iter().find(|(name, _)| *name == text).map(|(_, flag)| *flag)
    }

    fn name(self) -> &'static str {
        CtFlag::NAMES.iter().find(|(_, flag)| *flag == self).map_or("", |(name, _)| name)
    }
}

impl fmt::Display for LoadBalancerTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (IpAddr::V4(address), None) => write!(f, "{address}"),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), None) => write!(f, "[{address}]"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}

impl TraceRequest {
    /// The arguments of the command `trace`. All three forms are asked for: the detailed one has the steps, the
    /// minimal one the outputs.
    pub(super) fn arguments(&self) -> Result<Vec<&str>, InvalidRequest> {
        let mut arguments = vec!["--all"];
        if let Some(datapath) = &self.datapath {
            check(datapath, NAME_BYTES_MAX).map_err(InvalidRequest::datapath)?;
            arguments.push(datapath);
        }
        check(&self.microflow, MICROFLOW_BYTES_MAX).map_err(InvalidRequest::microflow)?;
        if self.ct.len() > CT_STATES_MAX || self.ct.iter().any(|flags| flags.len() > CtFlag::NAMES.len()) {
            let reason = format!("at most {CT_STATES_MAX} states");
            return Err(InvalidRequest { field: "ct", reason });
        }
        arguments.push(&self.microflow);
        Ok(arguments)
    }

    /// Whether it has what a daemon takes at its start only.
    pub(super) fn needs_own_daemon(&self) -> bool {
        !self.ct.is_empty() || self.lb_dst.is_some()
    }

    /// These, as options. Nothing here is the caller's own text.
    pub(super) fn start_options(&self) -> Vec<String> {
        let states = self.ct.iter().map(|flags| {
            let names: Vec<_> = flags.iter().map(|flag| flag.name()).collect();
            format!("--ct={}", names.join(","))
        });
        states.chain(self.lb_dst.map(|target| format!("--lb-dst={target}"))).collect()
    }
}

/// Refuses what ovn-trace would take for something else: its options begin with a dash and come first.
fn check(text: &str, max: usize) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > max {
        return Err(format!("must not be longer than {max} bytes"));
    }
    if text.starts_with('-') {
        return Err("must not begin with a dash".to_owned());
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(text: &str) -> TraceRequest {
        TraceRequest { microflow: text.to_owned(), ..TraceRequest::default() }
    }

    #[test]
    fn options_cannot_be_smuggled_in() {
        for text in ["--ovs=tcp:10.0.0.1:6653", "-vdbg", "", " \n", "a\0b", "\u{1b}[2J"] {
            assert_eq!(flow(text).arguments().unwrap_err().field, "microflow", "{text:?}");
            let request = TraceRequest { datapath: Some(text.to_owned()), ..flow("ip4") };
            assert_eq!(request.arguments().unwrap_err().field, "datapath", "{text:?}");
        }
        let long = "a".repeat(MICROFLOW_BYTES_MAX + 1);
        assert!(flow(&long).arguments().is_err());
        let words = "inport == \"a b\" && exit --all";
        assert_eq!(flow(words).arguments().unwrap(), ["--all", words], "one argument, whatever is in it");
    }

    #[test]
    fn options_of_the_start_are_made_of_known_words() {
        let mut request = flow("ip4");
        assert!(!request.needs_own_daemon());
        request.ct = vec![vec![CtFlag::New, CtFlag::Trk], vec![]];
        request.lb_dst = Some(LoadBalancerTarget { address: "fd00::1".parse().unwrap(), port: Some(80) });
        assert_eq!(request.start_options(), ["--ct=new,trk", "--ct=", "--lb-dst=[fd00::1]:80"]);
        request.ct = vec![vec![]; CT_STATES_MAX + 1];
        assert_eq!(request.arguments().unwrap_err().field, "ct");
        assert_eq!(CtFlag::parse("rpl"), Some(CtFlag::Rpl));
        assert_eq!(CtFlag::parse("rpl,new"), None);
    }
}
