//! The few messages of etcd's `rpc.proto` (v3 API) that the load needs, encoded by hand: field numbers are etcd's.

/// A message under construction.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// A length-delimited field.
    pub fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field << 3 | 2));
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// A nested message.
    pub fn message(self, field: u32, value: Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// An integer or enum field, written also when it is zero (a `oneof` needs that).
    pub fn int(mut self, field: u32, value: u64) -> Self {
        self.varint(u64::from(field << 3));
        self.varint(value);
        self
    }

    /// With the five bytes that gRPC puts in front of each message: not compressed, length.
    pub fn framed(self) -> bytes::Bytes {
        let length = u32::try_from(self.0.len()).expect("a small message");
        let mut framed = Vec::with_capacity(self.0.len() + 5);
        framed.push(0);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&self.0);
        framed.into()
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The first integer field with this number at the top level of a framed message.
pub fn int_field(framed: &[u8], wanted: u64) -> Option<u64> {
    let mut rest = framed.get(5..)?;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = take_varint(&mut rest)?;
                if tag >> 3 == wanted {
                    return Some(value);
                }
            }
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
    None
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub fn lease_grant(ttl_seconds: u64) -> Message {
    Message::default().int(1, ttl_seconds)
}

pub fn put(key: &[u8], value: &[u8]) -> Message {
    Message::default().bytes(1, key).bytes(2, value)
}

pub fn range(key: &[u8]) -> Message {
    Message::default().bytes(1, key)
}

pub fn delete(key: &[u8]) -> Message {
    Message::default().bytes(1, key)
}

/// What `concurrency.Mutex` of etcd's own client sends for a lock that is free: one transaction that creates the
/// caller's key under its lease if it is not there, and reads who is first under the prefix.
pub fn lock(prefix: &[u8], key: &[u8], lease: u64) -> Message {
    const CREATE_REVISION: u64 = 1;
    const ASCENDING: u64 = 1;
    let absent = Message::default().int(1, 0).int(2, CREATE_REVISION).bytes(3, key).int(5, 0);
    let mine = Message::default().bytes(1, key).bytes(2, b"").int(3, lease);
    let mut end = prefix.to_vec();
    *end.last_mut().expect("a prefix") += 1;
    let owner = Message::default().bytes(1, prefix).bytes(2, &end).int(3, 1).int(5, ASCENDING).int(6, 2);
    let get_owner = || Message::default().message(1, owner.clone());
    Message::default()
        .message(1, absent)
        .message(2, Message::default().message(2, mine))
        .message(2, get_owner())
        .message(3, Message::default().message(1, range(key)))
        .message(3, get_owner())
}
