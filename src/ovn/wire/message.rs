//! JSON-RPC 1.0 messages: what a frame says, and how ours are written.
//!
//! Parameters and results stay text (`Bytes`, cut out of the frame without a copy): a dump of a database is read
//! straight into rows by who knows the schema, without a tree of values in between.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a message from the server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The answer to the call with this id.
    Reply { id: u64, answer: Answer },
    /// A notification; nobody waits for an answer.
    Notification { method: String, params: Bytes },
    /// The server asks something; `id` as it was written.
    Request { id: Bytes, method: String, params: Bytes },
    /// An answer with an id that cannot be ours.
    Stray,
}

/// How a call was answered. Both hold valid JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The result.
    Result(Bytes),
    /// The error of this one call; the connection goes on.
    Error(Bytes),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// Reads one frame.
pub(crate) fn parse(frame: &Bytes) -> Result<Message, serde_json::Error> {
    let envelope: Envelope<'_> = serde_json::from_slice(frame)?;
    let part = |raw: Option<&RawValue>, absent: &'static str| {
        raw.map_or(Bytes::from_static(absent.as_bytes()), |raw| frame.slice_ref(raw.get().as_bytes()))
    };
    if let Some(method) = envelope.method {
        let (method, params) = (method.into_owned(), part(envelope.params, "[]"));
        return Ok(match envelope.id {
            None => Message::Notification { method, params },
            id => Message::Request { id: part(id, "null"), method, params },
        });
    }
    let Some(id) = envelope.id.and_then(|id| id.get().parse().ok()) else { return Ok(Message::Stray) };
    let answer = match envelope.error {
        None => Answer::Result(part(envelope.result, "null")),
        error => Answer::Error(part(error, "null")),
    };
    Ok(Message::Reply { id, answer })
}

/// Writes a call behind what is in `out`. `params` is the text of a JSON array.
pub(crate) fn write_call(out: &mut BytesMut, id: u64, method: &'static str, params: &[u8]) {
    out.reserve(params.len() + method.len() + 64);
    out.extend_from_slice(format!("{{\"id\":{id},\"method\":\"{method}\",\"params\":").as_bytes());
    out.extend_from_slice(params);
    out.extend_from_slice(b"}");
}

/// Writes the answer to a request of the server. `id`, `result` and `error` are JSON.
pub(crate) fn write_answer(out: &mut BytesMut, id: &[u8], result: &[u8], error: &[u8]) {
    for part in [&b"{\"id\":"[..], id, b",\"result\":", result, b",\"error\":", error, b"}"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &'static str) -> Message {
        parse(&Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn each_kind_of_message_is_told() {
        let text = r#"{"id":7,"result":[ {"a": "\u00e9"} ],"error":null}"#;
        let result = Answer::Result(Bytes::from_static(br#"[ {"a": "\u00e9"} ]"#));
        assert_eq!(parsed(text), Message::Reply { id: 7, answer: result });
        // As ovsdb-server writes the refusal of a whole call: without a result.
        let error = Answer::Error(Bytes::from_static(br#"{"error":"unknown database"}"#));
        let text = r#"{"id":7,"error":{"error":"unknown database"}}"#;
        assert_eq!(parsed(text), Message::Reply { id: 7, answer: error });
        let text = r#"{"id":null,"method":"update3","params":["x","y",{}]}"#;
        let params = Bytes::from_static(br#"["x","y",{}]"#);
        assert_eq!(parsed(text), Message::Notification { method: "update3".to_owned(), params });
        let text = r#"{"method":"echo","id":"echo","params":[]}"#;
        let (id, params) = (Bytes::from_static(b"\"echo\""), Bytes::from_static(b"[]"));
        assert_eq!(parsed(text), Message::Request { id, method: "echo".to_owned(), params });
        let result = Answer::Result(Bytes::from_static(b"null"));
        assert_eq!(
            parsed(r#"{"id":9,"result":null,"error":null}"#),
            Message::Reply { id: 9, answer: result }
        );
    }

    #[test]
    fn what_cannot_be_ours_is_told_apart() {
        for text in [r#"{"id":"seven","result":[]}"#, r#"{"id":-1,"result":[]}"#, r#"{"id":null}"#, "{}"] {
            assert_eq!(parsed(text), Message::Stray, "{text}");
        }
        for text in ["{\"id\":1]", "{\"id\":1,}", "{\"a\":\"\u{1}\"}", "{a:1}"] {
            parse(&Bytes::copy_from_slice(text.as_bytes())).unwrap_err();
        }
        parse(&Bytes::from_static(b"{\"id\":1,\"result\":\"\xff\"}")).unwrap_err();
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = BytesMut::new();
        write_call(&mut out, 3, "transact", br#"["OVN_Northbound"]"#);
        let params = Bytes::from_static(br#"["OVN_Northbound"]"#);
        let asked = Message::Request { id: Bytes::from_static(b"3"), method: "transact".to_owned(), params };
        assert_eq!(parse(&out.split().freeze()).unwrap(), asked);
        write_answer(&mut out, b"3", b"[1]", b"null");
        let answered = Message::Reply { id: 3, answer: Answer::Result(Bytes::from_static(b"[1]")) };
        assert_eq!(parse(&out.freeze()).unwrap(), answered);
    }
}
