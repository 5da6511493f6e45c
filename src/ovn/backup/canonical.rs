//! One form of a JSON document, and its checksum.

use std::fmt::{self, Write};

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

/// Member that is not part of what it is about.
const CHECKSUM: &str = "checksum";

/// `sha256:` and the digest of the document's canonical form.
pub(super) fn checksum(document: &Map<String, Json>) -> String {
    let mut digest = Hasher(Sha256::new());
    // A digest takes everything.
    let _ = object(document, Some(CHECKSUM), &mut digest);
    let mut text = "sha256:".to_owned();
    for byte in digest.0.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

fn value(json: &Json, out: &mut impl Write) -> fmt::Result {
    match json {
        Json::Object(members) => object(members, None, out),
        Json::Array(members) => {
            out.write_char('[')?;
            for (position, member) in members.iter().enumerate() {
                if position > 0 {
                    out.write_char(',')?;
                }
                value(member, out)?;
            }
            out.write_char(']')
        }
        scalar => write!(out, "{scalar}"),
    }
}

fn object(members: &Map<String, Json>, without: Option<&str>, out: &mut impl Write) -> fmt::Result {
    let mut sorted: Vec<_> = members.iter().filter(|(name, _)| Some(name.as_str()) != without).collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    out.write_char('{')?;
    for (position, (name, member)) in sorted.into_iter().enumerate() {
        if position > 0 {
            out.write_char(',')?;
        }
        write!(out, "{}:", Json::from(name.as_str()))?;
        value(member, out)?;
    }
    out.write_char('}')
}
