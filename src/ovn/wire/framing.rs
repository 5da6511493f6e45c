//! Cuts a stream of bytes into JSON objects.
//!
//! JSON-RPC 1.0 puts objects one after the other with nothing between them, so the end of one is where its last brace
//! closes. [`Framer`] looks at each byte once however the stream is split: a message of 30 MB that arrives in thousands
//! of reads costs no more than one that arrives whole. It counts brackets and knows strings; whether what is inside is
//! JSON is for the parser to say.

use bytes::{Buf, Bytes, BytesMut};

/// Largest message that is taken. A dump of 100,000 ports is 29 MB; a database ten times as large still fits.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Room for at least so much is made before each read.
const READ_BYTES_MIN: usize = 64 << 10;
/// Room for at most so much is made before a read, while a large message arrives.
const READ_BYTES_MAX: usize = 1 << 20;

/// Why a stream of bytes is no stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// A message does not begin with a brace.
    #[error("a message starts with byte {0:#04x}, not with `{{`")]
    NoObject(u8),
    /// A message is larger than allowed.
    #[error("a message is larger than {max} bytes")]
    TooLarge { max: usize },
}

/// Where in a message the scan has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Between,
    Plain,
    Quoted,
    Escaped,
}

/// Bytes that have arrived, and how far they were looked at.
#[derive(Debug)]
pub(crate) struct Framer {
    buffer: BytesMut,
    /// Bytes of `buffer` that were looked at. Invariant: they hold no whole message.
    scanned: usize,
    depth: usize,
    place: Place,
    bytes_max: usize,
}

impl Framer {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), scanned: 0, depth: 0, place: Place::Between, bytes_max }
    }

    /// Where the next read goes, with room to spare: more of it the more of a message is there already.
    pub(crate) fn space(&mut self) -> &mut BytesMut {
        let room = self.buffer.len().clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
            self.buffer.reserve(room);
        }
        &mut self.buffer
    }

    /// Whether part of a message is there.
    #[cfg(test)]
    fn is_inside(&self) -> bool {
        self.place != Place::Between
    }

    /// The next whole message, without what surrounds it. `None` until more bytes are there.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FramingError> {
        if self.place == Place::Between && !self.enter()? {
            return Ok(None);
        }
        match self.scan() {
            Some(end) if end <= self.bytes_max => {
                (self.scanned, self.place) = (0, Place::Between);
                let frame = self.buffer.split_to(end).freeze();
                if end > READ_BYTES_MAX {
                    // What is left shares the memory of the frame, and would keep it for good.
                    self.buffer = BytesMut::from(&self.buffer[..]);
                }
                Ok(Some(frame))
            }
            None if self.buffer.len() <= self.bytes_max => Ok(None),
            _ => Err(FramingError::TooLarge { max: self.bytes_max }),
        }
    }

    /// Drops white space and steps over the first brace; says whether there was one.
    fn enter(&mut self) -> Result<bool, FramingError> {
        let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.buffer.advance(blank);
        match self.buffer.first() {
            None => Ok(false),
            Some(b'{') => {
                (self.scanned, self.depth, self.place) = (1, 1, Place::Plain);
                Ok(true)
            }
            Some(&other) => Err(FramingError::NoObject(other)),
        }
    }

    /// Looks at what has not been looked at; returns the length of the message if it ends there.
    fn scan(&mut self) -> Option<usize> {
        let (mut place, mut depth) = (self.place, self.depth);
        for (index, &byte) in self.buffer.iter().enumerate().skip(self.scanned) {
            match (place, byte) {
                (Place::Quoted, b'"') => place = Place::Plain,
                (Place::Quoted, b'\\') => place = Place::Escaped,
                (Place::Quoted, _) => {}
                (Place::Escaped, _) => place = Place::Quoted,
                (_, b'"') => place = Place::Quoted,
                (_, b'{' | b'[') => depth += 1,
                (_, b'}' | b']') => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(index + 1);
                    }
                }
                _ => {}
            }
        }
        (self.scanned, self.place, self.depth) = (self.buffer.len(), place, depth);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(framer: &mut Framer) -> Vec<Bytes> {
        let mut found = Vec::new();
        while let Some(frame) = framer.next().unwrap() {
            found.push(frame);
        }
        found
    }

    #[test]
    fn two_messages_in_one_read_are_two_messages() {
        let mut framer = Framer::new(MESSAGE_BYTES_MAX);
        framer.space().extend_from_slice(br#"{"id":1,"result":[]}{"id":2} {"a":"}\"{"}{"#);
        let found = frames(&mut framer);
        assert_eq!(found, [&br#"{"id":1,"result":[]}"#[..], br#"{"id":2}"#, br#"{"a":"}\"{"}"#]);
        assert!(framer.is_inside());
        framer.space().extend_from_slice(b"}\n ");
        assert_eq!(frames(&mut framer), [&b"{}"[..]]);
        assert!(!framer.is_inside());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let mut framer = Framer::new(MESSAGE_BYTES_MAX);
        framer.space().extend_from_slice(b"{} HTTP/1.1 400");
        assert_eq!(framer.next().unwrap().unwrap(), &b"{}"[..]);
        assert_eq!(framer.next(), Err(FramingError::NoObject(b'H')));
    }

    #[test]
    fn the_memory_of_a_large_message_goes_with_it() {
        let mut framer = Framer::new(MESSAGE_BYTES_MAX);
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(4 * READ_BYTES_MAX));
        for part in [large.as_bytes(), b"{}"].concat().chunks(READ_BYTES_MIN) {
            framer.space().extend_from_slice(part);
        }
        let found = frames(&mut framer);
        assert_eq!((found.len(), found[0].len(), &found[1][..]), (2, large.len(), &b"{}"[..]));
        drop(found);
        assert!(framer.space().capacity() <= 2 * READ_BYTES_MIN, "{}", framer.buffer.capacity());
    }

    #[test]
    fn a_message_may_be_as_large_as_allowed_and_no_larger() {
        let text = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
        for (bytes, split) in [(100, 100), (100, 7), (101, 101), (101, 7)] {
            let mut framer = Framer::new(100);
            let mut last = Ok(None);
            for part in text(bytes).as_bytes().chunks(split) {
                framer.space().extend_from_slice(part);
                last = framer.next();
            }
            match last {
                Ok(found) => assert_eq!((bytes, found.map(|frame| frame.len())), (100, Some(100))),
                Err(error) => assert_eq!((bytes, error), (101, FramingError::TooLarge { max: 100 })),
            }
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            r#"[\[\]{}"\\:,]{0,8}"#.prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// However a stream is split, the same messages come out.
        #[test]
        fn any_splitting_gives_the_same_messages(
            values in prop::collection::vec((any_json(), "[ \t\r\n]{0,3}"), 1..8),
            cuts in prop::collection::vec(1_usize..40, 1..40),
        ) {
            let (mut stream, mut expected) = (Vec::new(), Vec::new());
            for (value, blank) in &values {
                let text = serde_json::json!({ "value": value }).to_string();
                stream.extend_from_slice(text.as_bytes());
                stream.extend_from_slice(blank.as_bytes());
                expected.push(text);
            }
            let (mut framer, mut found, mut rest, mut cuts) =
                (Framer::new(MESSAGE_BYTES_MAX), Vec::new(), &stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (part, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                framer.space().extend_from_slice(part);
                found.extend(frames(&mut framer));
                rest = tail;
            }
            prop_assert_eq!(found, expected);
            prop_assert!(!framer.is_inside());
        }
    }
}
