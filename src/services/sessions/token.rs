//! The one-use token of a migration.
//!
//! The state keeps its hash and a salt. Whoever asks for the migration makes the token, and the node with the socket
//! makes it again from the salt, so it is in no log and no snapshot.

use hmac::{Hmac, KeyInit, Mac};
use ovncp_state::{NodeId, Salt, SecretHash, SessionNumber};
use sha2::Sha256;

use crate::services::secret::{self, base64url};

/// Bytes of a token: 192 bits, 32 characters.
const TOKEN_BYTES: usize = 24;
/// Longest text that is looked at as a token.
pub const TOKEN_TEXT_BYTES_MAX: usize = 128;

/// What a token is for: nothing else may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// The session.
    pub number: SessionNumber,
    /// Its epoch when it was asked to move.
    pub epoch: u64,
    /// Where to.
    pub target: NodeId,
    /// Random, one per migration.
    pub salt: Salt,
}

/// The token that a client shows at the target.
#[must_use]
pub fn derived(cluster_key: &[u8; 32], purpose: &Purpose) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(cluster_key).expect("HMAC takes a key of any length");
    mac.update(b"ovncp session migration v1");
    for number in [purpose.number.0, purpose.epoch, purpose.target.0] {
        mac.update(&number.to_le_bytes());
    }
    mac.update(&purpose.salt.0);
    base64url(&mac.finalize().into_bytes()[..TOKEN_BYTES])
}

/// What the state keeps of a token.
#[must_use]
pub fn hash(token: &str) -> SecretHash {
    secret::hash(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_move_of_one_session() {
        let base = Purpose { number: SessionNumber(7), epoch: 2, target: NodeId(3), salt: Salt([1; 16]) };
        let token = derived(&[9; 32], &base);
        assert_eq!(token, derived(&[9; 32], &base));
        assert_eq!(token.len(), 32);
        assert!(token.len() <= TOKEN_TEXT_BYTES_MAX);
        for other in [
            derived(&[8; 32], &base),
            derived(&[9; 32], &Purpose { number: SessionNumber(8), ..base }),
            derived(&[9; 32], &Purpose { epoch: 3, ..base }),
            derived(&[9; 32], &Purpose { target: NodeId(2), ..base }),
            derived(&[9; 32], &Purpose { salt: Salt([2; 16]), ..base }),
        ] {
            assert_ne!(token, other);
        }
    }
}
