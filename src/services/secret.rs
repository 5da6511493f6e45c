//! The secret by which a holder proves that it holds.
//!
//! The state keeps only its SHA-256. Without an idempotency key the secret is random. With one it is derived
//! from the cluster key and a salt kept with the grant, so that a retry on any node answers the same secret
//! although no node has kept it.

use hmac::{Hmac, KeyInit, Mac};
use ovncp_state::{Salt, SecretHash};
use sha2::{Digest, Sha256};

/// Shortest secret that a client may bring, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;
/// Longest secret that a client may bring, in bytes.
pub const SECRET_BYTES_MAX: usize = 256;

/// Bytes of a secret made here: 192 bits, 32 characters.
const SECRET_RANDOM_BYTES: usize = 24;

/// A secret nobody can guess.
#[must_use]
pub fn random() -> String {
    base64url(&rand::random::<[u8; SECRET_RANDOM_BYTES]>())
}

/// The secret of a retryable acquire.
#[must_use]
pub fn derived(
    cluster_key: &[u8; 32],
    keys: &[String],
    owner: &str,
    idempotency_key: &str,
    salt: &Salt,
) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(cluster_key).expect("HMAC takes a key of any length");
    let mut part = |bytes: &[u8]| {
        mac.update(&(bytes.len() as u64).to_le_bytes());
        mac.update(bytes);
    };
    part(b"ovncp lock secret v1");
    part(&(keys.len() as u64).to_le_bytes());
    keys.iter().for_each(|key| part(key.as_bytes()));
    part(owner.as_bytes());
    part(idempotency_key.as_bytes());
    part(&salt.0);
    base64url(&mac.finalize().into_bytes()[..SECRET_RANDOM_BYTES])
}

/// What the state keeps.
#[must_use]
pub fn hash(secret: &str) -> SecretHash {
    SecretHash(Sha256::digest(secret.as_bytes()).into())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 for URLs, without padding (RFC 4648, section 5).
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * place) & 63) as usize]));
        }
    }
    out
}

/// The reverse; none for anything that [`base64url`] cannot have written.
#[must_use]
pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut word = 0u32;
        for byte in chunk {
            let digit = ALPHABET.iter().position(|letter| letter == byte)?;
            word = word << 6 | u32::try_from(digit).ok()?;
        }
        word <<= 6 * (4 - chunk.len());
        let bytes = word.to_be_bytes();
        out.extend_from_slice(bytes.get(1..chunk.len())?);
    }
    (base64url(&out) == text).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_rfc_4648() {
        for (plain, coded) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("fooba", "Zm9vYmE")]
        {
            assert_eq!(base64url(plain.as_bytes()), coded);
            assert_eq!(from_base64url(coded).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
        for wrong in ["Z", "Zh", "Zg==", "Zm9", "a b", "é"] {
            assert_eq!(from_base64url(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn derived_secret_depends_on_everything() {
        let keys = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let base = derived(&[1; 32], &keys(&["a", "b"]), "o", "k", &Salt([2; 16]));
        assert_eq!(base, derived(&[1; 32], &keys(&["a", "b"]), "o", "k", &Salt([2; 16])));
        assert_eq!(base.len(), 32);
        for other in [
            derived(&[2; 32], &keys(&["a", "b"]), "o", "k", &Salt([2; 16])),
            derived(&[1; 32], &keys(&["ab"]), "o", "k", &Salt([2; 16])),
            derived(&[1; 32], &keys(&["a", "b"]), "p", "k", &Salt([2; 16])),
            derived(&[1; 32], &keys(&["a", "b"]), "o", "l", &Salt([2; 16])),
            derived(&[1; 32], &keys(&["a", "b"]), "o", "k", &Salt([3; 16])),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(random(), random());
    }
}
