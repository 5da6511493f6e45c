//! Identity of a retryable request.

use ovncp_state::RequestKey;
use sha2::{Digest, Sha256};

/// Longest `Idempotency-Key`, in bytes; the shortest has one.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// An `Idempotency-Key` with everything that it is scoped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retryable {
    /// What the state keeps the reply under.
    pub key: RequestKey,
    /// The caller's text, from which a lock secret is derived.
    pub text: String,
}

impl Retryable {
    /// Scoped by caller (whatever credentials it showed), method and path; bound to the body.
    #[must_use]
    pub fn new(caller: &[u8], method: &str, path: &str, text: &str, body: &[&[u8]]) -> Self {
        let scope = digest(&[caller, method.as_bytes(), path.as_bytes(), text.as_bytes()]);
        Self { key: RequestKey { scope, body: digest(body) }, text: text.to_owned() }
    }
}

/// Each part with its length, so that no two lists of parts look alike.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_and_body_are_told_apart() {
        let base = Retryable::new(b"", "POST", "/a", "k", &[b"{}"]);
        assert_eq!(base, Retryable::new(b"", "POST", "/a", "k", &[b"{}"]));
        for other in [
            Retryable::new(b"x", "POST", "/a", "k", &[b"{}"]),
            Retryable::new(b"", "PUT", "/a", "k", &[b"{}"]),
            Retryable::new(b"", "POST", "/b", "k", &[b"{}"]),
            Retryable::new(b"", "POST", "/a", "l", &[b"{}"]),
            Retryable::new(b"", "POST", "/", "ak", &[b"{}"]),
        ] {
            assert_ne!(base.key.scope, other.key.scope);
            assert_eq!(base.key.body, other.key.body);
        }
        let body = Retryable::new(b"", "POST", "/a", "k", &[b"{ }"]);
        assert_eq!(base.key.scope, body.key.scope);
        assert_ne!(base.key.body, body.key.body);
    }
}
