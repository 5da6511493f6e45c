//! Types of settings: how each is written in a file or a variable, and how it is shown again.
//!
//! One parser serves every source, so `OVNCP_PEERS=a=x:1,b=y:2` and the YAML list mean the same.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, SeqAccess, Visitor};

/// A value that can stand in the file, in the environment and on the command line.
pub trait Setting: Sized {
    /// What the YAML parser reads before this type judges it.
    type File: DeserializeOwned + fmt::Debug;
    /// Kind of value, for the documentation.
    const KIND: &'static str;

    /// From the file.
    fn from_file(file: Self::File) -> Result<Self, String>;
    /// From a variable or a flag.
    fn from_text(text: &str) -> Result<Self, String>;
    /// For people; secrets are hidden.
    fn shown(&self) -> Shown;
}

/// A value as `config show` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Not set.
    Unset,
    /// A number, a boolean or a text.
    Scalar(String),
    /// A list.
    List(Vec<String>),
}

impl Shown {
    /// One line, for the documentation.
    pub(crate) fn plain(&self) -> String {
        match self {
            Self::Unset => String::new(),
            Self::Scalar(text) => text.clone(),
            Self::List(items) => items.join(","),
        }
    }
}

macro_rules! scalar {
    ($type:ty, $kind:literal, $parse:expr, $show:expr) => {
        impl Setting for $type {
            type File = String;
            const KIND: &'static str = $kind;

            fn from_file(file: String) -> Result<Self, String> {
                Self::from_text(&file)
            }
            fn from_text(text: &str) -> Result<Self, String> {
                let parse: fn(&str) -> Result<Self, String> = $parse;
                parse(text)
            }
            fn shown(&self) -> Shown {
                let show: fn(&Self) -> String = $show;
                Shown::Scalar(show(self))
            }
        }
    };
}

macro_rules! number {
    ($($type:ty),*) => {
        $(scalar!(
            $type,
            "number",
            |text| text
                .trim()
                .parse()
                .map_err(|_| format!("`{text}` is not a whole number from {} to {}", <$type>::MIN, <$type>::MAX)),
            ToString::to_string
        );)*
    };
}

number!(u8, u16, u32, u64, usize);
scalar!(bool, "boolean", parse_bool, ToString::to_string);
scalar!(String, "text", |text| Ok(text.to_owned()), Clone::clone);
scalar!(PathBuf, "path", |text| Ok(PathBuf::from(text)), |path| path.display().to_string());
scalar!(Duration, "duration", parse_duration, |duration| humantime::format_duration(*duration).to_string());
scalar!(
    IpAddr,
    "IP address",
    |text| text.trim().parse().map_err(|_| format!("`{text}` is not an IP address such as 0.0.0.0 or ::1")),
    ToString::to_string
);

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim()).map_err(|error| {
        format!("`{text}` is not a duration ({error}): write a number and a unit, such as 500ms, 30s or 5m")
    })
}

impl<T: Setting> Setting for Option<T> {
    type File = T::File;
    const KIND: &'static str = T::KIND;

    fn from_file(file: T::File) -> Result<Self, String> {
        T::from_file(file).map(Some)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        T::from_text(text).map(Some)
    }
    fn shown(&self) -> Shown {
        self.as_ref().map_or(Shown::Unset, T::shown)
    }
}

/// A text that is never printed, not even by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// What stands in place of a secret.
pub const REDACTED: &str = "<redacted>";

scalar!(Secret, "secret", |text| Ok(Secret(text.to_owned())), |_| REDACTED.to_owned());

/// A connection URL; its password is hidden.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The whole URL, for the one place that connects.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn redacted(&self) -> String {
        let (base, query) = match self.0.split_once('?') {
            // Libraries also accept `?password=` and `?sslpassword=`: nothing of the query is shown.
            Some((base, _)) => (base, format!("?{REDACTED}")),
            None => (self.0.as_str(), String::new()),
        };
        let Some((scheme, rest)) = base.split_once("://") else { return REDACTED.to_owned() };
        // The last `@` ends the user part: an unescaped one in a password must not leak its tail.
        match rest.rsplit_once('@') {
            Some((user, host)) => {
                let user = user.split(':').next().unwrap_or_default();
                format!("{scheme}://{user}:{REDACTED}@{host}{query}")
            }
            None => format!("{scheme}://{rest}{query}"),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

scalar!(SecretUrl, "URL", parse_database_url, SecretUrl::redacted);

fn parse_database_url(text: &str) -> Result<SecretUrl, String> {
    let scheme = text.split("://").next().unwrap_or_default();
    // The text itself may hold a password: the message does not repeat it.
    match scheme {
        "postgres" | "postgresql" | "sqlite" if text.contains("://") => Ok(SecretUrl(text.to_owned())),
        _ => Err("not a database URL: it begins with postgresql://, postgres:// or sqlite://".to_owned()),
    }
}

/// A list of texts: a YAML sequence, or one text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListText(pub Vec<String>);

impl<'de> Deserialize<'de> for ListText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = ListText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, or one text with commas")
            }
            fn visit_str<E>(self, text: &str) -> Result<ListText, E> {
                Ok(split_list(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ListText, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<String>()? {
                    list.push(item);
                }
                Ok(ListText(list))
            }
        }
        deserializer.deserialize_any(Items)
    }
}

fn split_list(text: &str) -> ListText {
    ListText(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
}

/// An element of a list.
pub trait Item: Sized {
    /// Kind of element, for the documentation.
    const KIND: &'static str;
    /// From its text.
    fn parse(text: &str) -> Result<Self, String>;
    /// Its text again.
    fn text(&self) -> String;
}

impl<T: Item> Setting for Vec<T> {
    type File = ListText;
    const KIND: &'static str = T::KIND;

    fn from_file(file: ListText) -> Result<Self, String> {
        file.0.iter().map(|item| T::parse(item)).collect()
    }
    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_file(split_list(text))
    }
    fn shown(&self) -> Shown {
        Shown::List(self.iter().map(T::text).collect())
    }
}

/// A static peer: `name=host:port`.
///
/// `name=host` takes the default peer port. Without a name it is the first label of the host name, which is
/// the pod name behind a headless service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Stable name of the node.
    pub name: String,
    /// Host name or IP address, resolved at each dial.
    pub host: String,
    /// Its peer port.
    pub port: u16,
}

/// Where peers listen when nothing else is said.
pub const PEER_PORT: u16 = 7400;

impl PeerAddress {
    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn address(&self) -> String {
        join_host_port(&self.host, self.port)
    }
}

/// `host:port`, with brackets around an IPv6 address.
#[must_use]
pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl Item for PeerAddress {
    const KIND: &'static str = "list of `name=host:port`";

    fn parse(text: &str) -> Result<Self, String> {
        let (name, address) = match text.split_once('=') {
            Some((name, address)) => (Some(name.trim()), address.trim()),
            None => (None, text.trim()),
        };
        let (host, port) = split_host_port(address).ok_or_else(|| {
            format!("peer `{text}` is not of the form name=host:port, such as node-1=10.0.0.1:7400")
        })?;
        let name = name.map_or_else(|| default_peer_name(&host), str::to_owned);
        check_node_name(&name)?;
        Ok(Self { name, host, port: port.unwrap_or(PEER_PORT) })
    }

    fn text(&self) -> String {
        format!("{}={}", self.name, self.address())
    }
}

fn default_peer_name(host: &str) -> String {
    if host.parse::<IpAddr>().is_ok() {
        return host.to_owned();
    }
    host.split('.').next().unwrap_or(host).to_owned()
}

fn split_host_port(address: &str) -> Option<(String, Option<u16>)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host.to_owned(), Some(parse_port(port)?))),
            None if rest.is_empty() => Some((host.to_owned(), None)),
            None => None,
        };
    }
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (address, None),
    };
    let valid =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    valid.then(|| (host.to_owned(), port))
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

/// Checks the stable name of a node.
pub fn check_node_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    if name.is_empty() || name.len() > ovncp_state::limits::NODE_FIELD_BYTES_MAX || !name.bytes().all(allowed)
    {
        return Err(format!(
            "`{name}` is no node name: 1 to {} letters, digits, dots, colons, hyphens or underscores",
            ovncp_state::limits::NODE_FIELD_BYTES_MAX
        ));
    }
    Ok(())
}

/// An OVSDB endpoint: `tcp:host:port`, `ssl:host:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvsdbEndpoint(pub String);

impl Item for OvsdbEndpoint {
    const KIND: &'static str = "list of OVSDB endpoints";

    fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no OVSDB endpoint: write tcp:host:6641, ssl:host:6641 or unix:/path");
        match text.trim().split_once(':') {
            Some(("tcp" | "ssl", address)) => match split_host_port(address) {
                Some((_, Some(_))) => Ok(Self(text.trim().to_owned())),
                _ => Err(wrong()),
            },
            Some(("unix", path)) if path.starts_with('/') => Ok(Self(text.trim().to_owned())),
            _ => Err(wrong()),
        }
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// A label: `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl Item for Label {
    const KIND: &'static str = "list of `key=value`";

    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self { key: key.trim().to_owned(), value: value.trim().to_owned() })
            }
            _ => Err(format!("`{text}` is no label: write key=value")),
        }
    }

    fn text(&self) -> String {
        format!("{}={}", self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_or_take_the_first_label() {
        let peers =
            Vec::<PeerAddress>::from_text("node-1=host:7401, b=10.0.0.2 ,ovncp-2.ovncp-peers:7,::=[::1]:9")
                .unwrap();
        let shown: Vec<_> = peers.iter().map(Item::text).collect();
        assert_eq!(
            shown,
            ["node-1=host:7401", "b=10.0.0.2:7400", "ovncp-2=ovncp-2.ovncp-peers:7", "::=[::1]:9"]
        );
        for wrong in ["a=", "a=host:0", "a=host:x", "=h:1", "a b=h:1", "a=[::1", "a=h:70000", "a=ho st:1"] {
            assert!(Vec::<PeerAddress>::from_text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        for url in [
            "postgresql://user:hunter2@db:5432/ovncp",
            "postgres://user:hun@ter2@db/ovncp",
            "postgres://db/ovncp?user=u&password=hunter2",
        ] {
            let url = SecretUrl::from_text(url).unwrap();
            let shown = format!("{url:?} {:?}", url.shown());
            assert!(!shown.contains("ter2"), "{shown}");
            assert!(shown.contains("db"), "{shown}");
        }
        let secret = Secret::from("hunter2");
        assert!(!format!("{secret:?} {:?}", secret.shown()).contains("hunter2"));
        assert!(!SecretUrl::from_text("mysql://u:hunter2@h").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(Duration::from_text("1m 30s").unwrap(), Duration::from_secs(90));
        assert!(Duration::from_text("5").unwrap_err().contains("500ms"));
        assert!(Duration::from_text("-5s").is_err());
    }

    #[test]
    fn endpoints_name_their_transport() {
        assert!(OvsdbEndpoint::parse("tcp:ovn-nb-1:6641").is_ok());
        assert!(OvsdbEndpoint::parse("unix:/run/ovn/nb.sock").is_ok());
        for wrong in ["ovn-nb-1:6641", "tcp:ovn-nb-1", "unix:relative", "udp:a:1", ""] {
            assert!(OvsdbEndpoint::parse(wrong).is_err(), "{wrong}");
        }
    }
}
