//! Where a server listens, in OVS' own words: `tcp:HOST:PORT`, `ssl:HOST:PORT`, `unix:PATH`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where an OVSDB server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `tcp:HOST:PORT`: plain TCP.
    Tcp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// `ssl:HOST:PORT`: TLS over TCP.
    Ssl {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// `unix:PATH`: a Unix socket on this machine.
    Unix(PathBuf),
}

/// What is wrong with the text of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing is named.
    #[error("no endpoint is named")]
    Empty,
    /// Not one of the three kinds.
    #[error("`{0}` starts with none of tcp:, ssl: and unix:")]
    Kind(String),
    /// The port is missing, or no number from 1 to 65535.
    #[error("`{0}` does not end with a port, as in tcp:10.0.0.1:6641")]
    Port(String),
    /// The host is missing or cannot be one.
    #[error("`{0}` names no host; an IPv6 address stands in brackets, as in tcp:[::1]:6641")]
    Host(String),
    /// The path of a Unix socket is missing.
    #[error("`{0}` names no path")]
    Path(String),
}

impl Endpoint {
    /// Endpoints separated by commas, as OVN's own programs take them.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, EndpointError> {
        let found: Vec<Self> = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        if found.is_empty() { Err(EndpointError::Empty) } else { Ok(found) }
    }

    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Ssl { .. })
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (kind, rest) = text.split_once(':').ok_or_else(|| EndpointError::Kind(text.to_owned()))?;
        match kind {
            "tcp" => host_and_port(text, rest).map(|(host, port)| Self::Tcp { host, port }),
            "ssl" => host_and_port(text, rest).map(|(host, port)| Self::Ssl { host, port }),
            "unix" if rest.is_empty() => Err(EndpointError::Path(text.to_owned())),
            "unix" => Ok(Self::Unix(rest.into())),
            _ => Err(EndpointError::Kind(text.to_owned())),
        }
    }
}

fn host_and_port(text: &str, rest: &str) -> Result<(String, u16), EndpointError> {
    let bad_port = || EndpointError::Port(text.to_owned());
    let bad_host = || EndpointError::Host(text.to_owned());
    let (host, port) = rest.rsplit_once(':').ok_or_else(bad_port)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad_port)?;
    let host = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']').ok_or_else(bad_host)) {
        Some(inner) => {
            let inner = inner?;
            // A zone, as in fe80::1%eth0, is for the resolver to judge.
            let address = inner.split_once('%').map_or(inner, |(address, _)| address);
            address.parse::<std::net::Ipv6Addr>().map_err(|_| bad_host())?;
            inner
        }
        None => host,
    };
    let is_bare_ipv6 = host.contains(':') && !rest.starts_with('[');
    if host.is_empty() || is_bare_ipv6 || host.contains(|c: char| c.is_whitespace() || c == '/' || c == ',') {
        return Err(bad_host());
    }
    Ok((host.to_owned(), port))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, host, port) = match self {
            Self::Tcp { host, port } => ("tcp", host, port),
            Self::Ssl { host, port } => ("ssl", host, port),
            Self::Unix(path) => return write!(f, "unix:{}", path.display()),
        };
        if host.contains(':') {
            write!(f, "{kind}:[{host}]:{port}")
        } else {
            write!(f, "{kind}:{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written_alike() {
        for text in [
            "tcp:127.0.0.1:6641",
            "tcp:[::1]:6641",
            "tcp:[fe80::1%eth0]:6641",
            "ssl:ovn-central-0.ovn:16641",
            "unix:/var/run/ovn/ovnnb_db.sock",
            "unix:relative.sock",
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(endpoint.is_tls(), text.starts_with("ssl"));
        }
        let inner = Endpoint::Tcp { host: "::1".to_owned(), port: 6641 };
        assert_eq!("tcp:[::1]:6641".parse(), Ok(inner), "brackets belong to the text");
    }

    #[test]
    fn a_list_is_separated_by_commas() {
        let list = Endpoint::parse_list("tcp:10.0.0.1:6641, tcp:10.0.0.2:6641,,unix:/a,").unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(Endpoint::parse_list(" , "), Err(EndpointError::Empty));
        assert!(Endpoint::parse_list("tcp:10.0.0.1:6641,udp:10.0.0.2:6641").is_err());
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, error) in [
            ("", EndpointError::Kind(String::new())),
            ("/run/nb.sock", EndpointError::Kind("/run/nb.sock".to_owned())),
            ("http://a:80", EndpointError::Kind("http://a:80".to_owned())),
            ("ptcp:6641", EndpointError::Kind("ptcp:6641".to_owned())),
            ("tcp:10.0.0.1", EndpointError::Port("tcp:10.0.0.1".to_owned())),
            ("tcp:10.0.0.1:", EndpointError::Port("tcp:10.0.0.1:".to_owned())),
            ("tcp:10.0.0.1:0", EndpointError::Port("tcp:10.0.0.1:0".to_owned())),
            ("tcp:10.0.0.1:65536", EndpointError::Port("tcp:10.0.0.1:65536".to_owned())),
            ("tcp::6641", EndpointError::Host("tcp::6641".to_owned())),
            ("tcp:::1:6641", EndpointError::Host("tcp:::1:6641".to_owned())),
            ("tcp:[::1:6641", EndpointError::Host("tcp:[::1:6641".to_owned())),
            ("tcp:[nope]:6641", EndpointError::Host("tcp:[nope]:6641".to_owned())),
            ("ssl://host:6641", EndpointError::Host("ssl://host:6641".to_owned())),
            ("unix:", EndpointError::Path("unix:".to_owned())),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
    }
}
