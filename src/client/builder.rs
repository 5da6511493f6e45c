//! What a client is made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use reqwest::Url;

use super::exchange::DEADLINE_MAX;
use super::{Client, Error, Inner};

/// Where a lone node or a node of `ovncp dev` listens.
const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:8080";
/// Endpoints that one client may have.
const ENDPOINTS_MAX: usize = 64;
/// To connect to one endpoint.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// One try, without the time that a lock request asked to wait.
const TRY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// All tries of one call, without the time that a lock request asked to wait.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(15);

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<String>,
    token: Option<String>,
    owner: Option<String>,
    connect_timeout: Duration,
    try_timeout: Duration,
    deadline: Duration,
    fail_fast: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            token: None,
            owner: None,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            try_timeout: TRY_TIMEOUT_DEFAULT,
            deadline: DEADLINE_DEFAULT,
            fail_fast: false,
        }
    }
}

impl Builder {
    /// Adds a node's HTTP address, such as `http://10.0.0.1:8080`; `host:port` will do. Without any it is
    /// `http://127.0.0.1:8080`.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// Adds several.
    #[must_use]
    pub fn endpoints<T: Into<String>>(mut self, endpoints: impl IntoIterator<Item = T>) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// Sends this bearer token: administrative calls need it.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Who asks for locks when a request does not say; `ovncp-client:<process id>` otherwise.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// How long connecting to one endpoint may take; 2 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one try may take before the next endpoint is asked; 5 s. A lock request may take longer by the
    /// time it waits.
    #[must_use]
    pub fn try_timeout(mut self, timeout: Duration) -> Self {
        self.try_timeout = timeout;
        self
    }

    /// How long one call may take with all its tries; 15 s. A lock request may take longer by the time it
    /// waits.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Ends a call with [`Error::Unreachable`] as soon as no endpoint could be connected to, instead of trying
    /// until the deadline: for people who wait at a terminal.
    #[must_use]
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// Makes the client; connects to nothing yet.
    pub fn build(self) -> Result<Client, Error> {
        let mut endpoints = Vec::new();
        let named = match self.endpoints.is_empty() {
            true => vec![ENDPOINT_DEFAULT.to_owned()],
            false => self.endpoints,
        };
        for text in &named {
            let endpoint = parse_endpoint(text)?;
            // Named twice it would only be asked twice.
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(Error::Setup(format!("{} endpoints; allowed are {ENDPOINTS_MAX}", endpoints.len())));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(self.connect_timeout)
            .no_proxy()
            // Nodes send none, and following one turns a write into a read.
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Error::Setup(format!("make an HTTP client: {error}")))?;
        let owner = self.owner.unwrap_or_else(|| format!("ovncp-client:{}", std::process::id()));
        Ok(Client {
            inner: Arc::new(Inner {
                http,
                endpoints,
                preferred: AtomicUsize::new(0),
                seen_index: AtomicU64::new(0),
                token: self.token,
                owner,
                deadline: self.deadline.min(DEADLINE_MAX),
                try_timeout: self.try_timeout,
                fail_fast: self.fail_fast,
            }),
        })
    }
}

/// `host:port` is taken as `http://host:port`.
fn parse_endpoint(text: &str) -> Result<Url, Error> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&full).ok().filter(|url| {
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        url.has_host() && url.scheme() == "http" && plain
    });
    url.ok_or_else(|| Error::Setup(format!("`{text}` is not an endpoint: write it like {ENDPOINT_DEFAULT}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_may_omit_the_scheme_and_must_be_addresses() {
        assert_eq!(parse_endpoint("node-1:8080").unwrap().as_str(), "http://node-1:8080/");
        assert_eq!(parse_endpoint(" http://[::1]:8080/x ").unwrap().as_str(), "http://[::1]:8080/x");
        for wrong in ["", "ftp://x", "http://", "a b", "http://x/?q", "https://x", "http://u:p@x"] {
            assert!(matches!(parse_endpoint(wrong), Err(Error::Setup(_))), "{wrong}");
        }
    }

    #[test]
    fn one_endpoint_is_kept_once_and_none_is_the_default() {
        let client =
            Client::builder().endpoint("a:1").endpoint("http://a:1/").endpoint("b:1").build().unwrap();
        assert_eq!(client.inner.endpoints.len(), 2);
        let client = Client::builder().build().unwrap();
        assert_eq!(client.inner.endpoints[0].as_str(), "http://127.0.0.1:8080/");
        let many = (0..=ENDPOINTS_MAX).map(|number| format!("a:{}", number + 1));
        assert!(matches!(Client::builder().endpoints(many).build(), Err(Error::Setup(_))));
    }
}
