//! Server-Sent Events, as far as a client of ours needs them: bytes in, events out, bounded.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>

/// Longest line, and largest event: larger than anything that a node sends.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// One event as it stood in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// Empty when the stream did not name one.
    pub(super) kind: String,
    pub(super) data: String,
    /// The last id that was given, with this event or an earlier one.
    pub(super) id: Option<String>,
}

/// What was read of the stream and is not an event yet.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// The last line ended by CR: an LF right after it belongs to it.
    after_cr: bool,
    kind: String,
    data: Option<String>,
    /// Of the block that is being read; counts with its end.
    block_id: Option<String>,
    last_id: Option<String>,
}

/// The stream is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Parser {
    /// A stream that goes on after an event of an earlier one.
    pub(super) fn after(last_id: Option<String>) -> Self {
        Self { last_id, ..Self::default() }
    }

    /// Where another stream has to go on. Every event before it has come out.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Takes the next bytes and adds what they complete to `frames`.
    pub(super) fn feed(&mut self, bytes: &[u8], frames: &mut impl Extend<Frame>) -> Result<(), TooLarge> {
        for byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    let frame = self.line(&String::from_utf8_lossy(&line))?;
                    frames.extend(frame);
                    self.line = line;
                    self.line.clear();
                }
                byte if self.line.len() < EVENT_BYTES_MAX => self.line.push(*byte),
                _ => return Err(TooLarge),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<Option<Frame>, TooLarge> {
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "id" if !value.contains('\0') => self.block_id = Some(value.to_owned()),
            "data" => {
                let data = self.data.get_or_insert_default();
                if data.len() + value.len() >= EVENT_BYTES_MAX {
                    return Err(TooLarge);
                }
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(value);
            }
            // Comments (an empty name), `retry` and whatever comes later.
            _ => {}
        }
        Ok(None)
    }

    /// The end of a block. Without data it is no event, but its id counts all the same; an empty one says that
    /// there is none.
    fn dispatch(&mut self) -> Option<Frame> {
        if let Some(id) = self.block_id.take() {
            self.last_id = Some(id).filter(|id| !id.is_empty());
        }
        let kind = std::mem::take(&mut self.kind);
        let data = self.data.take()?;
        Some(Frame { kind, data, id: self.last_id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&[u8]]) -> Vec<(String, String, Option<String>)> {
        let mut parser = Parser::default();
        let mut frames = Vec::new();
        for part in parts {
            parser.feed(part, &mut frames).unwrap();
        }
        frames.into_iter().map(|frame| (frame.kind, frame.data, frame.id)).collect()
    }

    fn frame(kind: &str, data: &str, id: Option<&str>) -> (String, String, Option<String>) {
        (kind.to_owned(), data.to_owned(), id.map(str::to_owned))
    }

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let text = b": hello\n\nid: 7\nevent: lock\ndata: {\"a\":\ndata: 1}\n\ndata:x\r\nid:8\r\n\r\n";
        let expected = vec![frame("lock", "{\"a\":\n1}", Some("7")), frame("", "x", Some("8"))];
        assert_eq!(frames(&[text]), expected);
        for at in 0..text.len() {
            assert_eq!(frames(&[&text[..at], &text[at..]]), expected, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(frames(&bytes), expected);
    }

    #[test]
    fn an_event_needs_data_and_its_end() {
        assert_eq!(frames(&[b"event: a\nid: 1\n\n"]), []);
        assert_eq!(frames(&[b"data: half"]), []);
        assert_eq!(frames(&[b"event: a\n\ndata: b\n\n"]), [frame("", "b", None)], "a name does not linger");
    }

    #[test]
    fn ids_count_with_the_end_of_their_block() {
        let mut parser = Parser::after(Some("3".to_owned()));
        let mut frames = Vec::new();
        parser.feed(b"data: a\n\nid: 7\n", &mut frames).unwrap();
        assert_eq!((frames[0].id.as_deref(), parser.last_id()), (Some("3"), Some("3")));
        parser.feed(b"\n", &mut frames).unwrap();
        assert_eq!((frames.len(), parser.last_id()), (1, Some("7")), "a block without data moves the id");
        parser.feed(b"id:\ndata: b\n\n", &mut frames).unwrap();
        assert_eq!((&frames[1].id, parser.last_id()), (&None, None), "forgotten");
    }

    #[test]
    fn nothing_grows_without_bound() {
        let mut parser = Parser::default();
        let long = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert_eq!(parser.feed(&long, &mut Vec::new()), Err(TooLarge));
        let mut parser = Parser::default();
        let line = [b"data: ".to_vec(), vec![b'x'; 1_000], b"\n".to_vec()].concat();
        let grown = (0..2_000).try_for_each(|_| parser.feed(&line, &mut Vec::new()));
        assert_eq!(grown, Err(TooLarge));
    }
}
