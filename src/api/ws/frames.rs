//! What goes over the socket: one JSON object per text frame. docs/websocket.md describes them for clients.

use axum::http::StatusCode;
use ovncp_state::MessageOffset;
use ovncp_state::command::Recipient;
use ovncp_state::limits::{CHANNEL_BYTES_MAX, SUBSCRIPTIONS_PER_SESSION_MAX};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::error::{ApiError, Code};
use crate::services::sessions::Kept;

/// Channel of what is for this session alone.
pub(super) const SESSION: &str = "session";
/// Channel of what is for every session of the user.
pub(super) const USER: &str = "user";
/// Channel that reads the invalidation log.
pub(super) const INVALIDATIONS: &str = "invalidations";
/// Channel that reads the events of the cluster.
pub(super) const EVENTS: &str = "events";
/// Channel that reads the changes of OVN's northbound database.
pub(super) const OVN: &str = "ovn";
/// Names that no channel of an application has.
const RESERVED: [&str; 5] = [SESSION, USER, INVALIDATIONS, EVENTS, OVN];
/// Longest `id` of a client's frame.
const FRAME_ID_BYTES_MAX: usize = 128;

/// Objects and lists of a message within each other. Parsers of clients have such limits themselves.
const DATA_DEPTH_MAX: usize = 64;

/// Every field of every frame of a client: a frame that has others is refused as a whole.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    r#type: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    channels: Option<Vec<String>>,
    #[serde(default)]
    since: Option<String>,
    #[serde(default)]
    channel: Option<String>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// What a client asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Ask {
    Subscribe { channels: Vec<String>, logs: Logs<Option<Since>>, since: Option<MessageOffset> },
    Unsubscribe { channels: Vec<String>, logs: Logs<bool> },
    Publish { channel: String, data: String },
    Ping,
    Close,
}

/// One for each channel that reads a log.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Logs<T> {
    /// [`EVENTS`].
    pub(super) events: T,
    /// [`INVALIDATIONS`].
    pub(super) invalidations: T,
    /// [`OVN`].
    pub(super) ovn: T,
}

/// Where a channel that reads a log begins; none: with what comes now.
#[derive(Debug, PartialEq)]
pub(super) struct Since(pub(super) Option<String>);

/// A frame of a client.
#[derive(Debug)]
pub(super) struct Frame {
    /// Echoed in the answer.
    pub(super) id: Option<String>,
    /// What is asked, or what is wrong with it.
    pub(super) ask: Result<Ask, ApiError>,
}

/// Reads a frame; none when it is not a JSON object.
pub(super) fn parse(text: &str) -> Option<Frame> {
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    match serde_json::from_str::<Fields<'_>>(text) {
        Ok(fields) => {
            let id = fields.id.clone();
            Some(match id.as_ref().filter(|id| id.len() > FRAME_ID_BYTES_MAX) {
                Some(_) => {
                    let problem = format!("is longer than {FRAME_ID_BYTES_MAX} bytes");
                    Frame { id: None, ask: Err(ApiError::invalid("id", problem)) }
                }
                None => Frame { id, ask: ask(fields) },
            })
        }
        Err(error) if error.is_data() => {
            let text = error.to_string();
            let code = if text.starts_with("unknown field") { Code::UnknownField } else { Code::InvalidBody };
            Some(Frame { id: None, ask: Err(ApiError::new(code, text)) })
        }
        Err(_) => None,
    }
}

fn ask(fields: Fields<'_>) -> Result<Ask, ApiError> {
    let Fields { r#type, id: _, channels, since, channel, data } = fields;
    let given = [
        ("channels", channels.is_some()),
        ("since", since.is_some()),
        ("channel", channel.is_some()),
        ("data", data.is_some()),
    ];
    let allowed: &[&str] = match r#type.as_str() {
        "subscribe" => &["channels", "since"],
        "unsubscribe" => &["channels"],
        "publish" => &["channel", "data"],
        "ping" | "close" => &[],
        other => {
            let detail = format!(
                "type {other:?} is unknown; there are subscribe, unsubscribe, publish, ping and close"
            );
            return Err(ApiError::new(Code::InvalidBody, detail).with("field", "type"));
        }
    };
    if let Some((name, _)) = given.iter().find(|(name, given)| *given && !allowed.contains(name)) {
        let detail = format!("a frame of type {type:?} has no field {name}");
        return Err(ApiError::new(Code::UnknownField, detail).with("field", *name));
    }
    let missing =
        |name: &str| ApiError::new(Code::InvalidBody, format!("missing field {name}")).with("field", name);
    match r#type.as_str() {
        "subscribe" => subscribe(channels.ok_or_else(|| missing("channels"))?, since),
        "unsubscribe" => unsubscribe(channels.ok_or_else(|| missing("channels"))?),
        "publish" => {
            let channel = channel.ok_or_else(|| missing("channel"))?;
            let data = data.ok_or_else(|| missing("data"))?.get();
            check_data(data)?;
            Ok(Ask::Publish { channel, data: data.to_owned() })
        }
        "ping" => Ok(Ask::Ping),
        _ => Ok(Ask::Close),
    }
}

fn subscribe(channels: Vec<String>, since: Option<String>) -> Result<Ask, ApiError> {
    let (channels, logs) = split(channels)?;
    let tails = [logs.events, logs.invalidations, logs.ovn].into_iter().filter(|wanted| *wanted).count();
    if since.is_some() && tails > 0 && tails + channels.len() > 1 {
        let problem = "offsets of different logs have nothing in common: subscribe to one at a time";
        return Err(ApiError::invalid("since", problem));
    }
    let tail = |wanted: bool| wanted.then(|| Since(since.clone()));
    let logs =
        Logs { events: tail(logs.events), invalidations: tail(logs.invalidations), ovn: tail(logs.ovn) };
    let since =
        match since.filter(|_| tails == 0) {
            None => None,
            Some(text) => Some(text.parse().map(MessageOffset).map_err(|_| {
                ApiError::invalid("since", "is not an offset (a decimal number in a string)")
            })?),
        };
    Ok(Ask::Subscribe { channels, logs, since })
}

fn unsubscribe(channels: Vec<String>) -> Result<Ask, ApiError> {
    let (channels, logs) = split(channels)?;
    Ok(Ask::Unsubscribe { channels, logs })
}

/// Channels of the application, and which logs are among them.
fn split(mut channels: Vec<String>) -> Result<(Vec<String>, Logs<bool>), ApiError> {
    if channels.is_empty() {
        return Err(ApiError::invalid("channels", "is empty"));
    }
    if channels.len() > SUBSCRIPTIONS_PER_SESSION_MAX + RESERVED.len() {
        let detail = format!("a session listens to at most {SUBSCRIPTIONS_PER_SESSION_MAX} channels");
        let error = ApiError::new(Code::LimitExceeded, detail).with("limit", "subscriptions_per_session");
        return Err(error.with("max", SUBSCRIPTIONS_PER_SESSION_MAX));
    }
    let named = |log: &str| channels.iter().any(|name| name == log);
    let logs = Logs { events: named(EVENTS), invalidations: named(INVALIDATIONS), ovn: named(OVN) };
    channels.retain(|name| ![EVENTS, INVALIDATIONS, OVN].contains(&name.as_str()));
    channels.sort_unstable();
    channels.dedup();
    channels.iter().try_for_each(|name| check_channel(name))?;
    Ok((channels, logs))
}

/// A name that an application may give a channel.
pub(in crate::api) fn check_channel(name: &str) -> Result<(), ApiError> {
    let problem = if name.is_empty() || name.len() > CHANNEL_BYTES_MAX {
        format!("must have 1 to {CHANNEL_BYTES_MAX} bytes")
    } else if name.chars().any(char::is_control) {
        "must have no control characters".to_owned()
    } else if RESERVED.contains(&name) {
        format!("{name:?} is always there and cannot be changed")
    } else {
        return Ok(());
    };
    Err(ApiError::invalid("channel", problem))
}

/// Data that every client can read. It is handed on as it came, so nobody else looks at how deep it is.
pub(in crate::api) fn check_data(json: &str) -> Result<(), ApiError> {
    let (mut depth, mut in_string, mut quoted) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if quoted => quoted = false,
            b'\\' if in_string => quoted = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DATA_DEPTH_MAX {
            return Err(ApiError::invalid("data", format!("is nested deeper than {DATA_DEPTH_MAX} levels")));
        }
    }
    Ok(())
}

/// Frames of the server.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Say<'a> {
    Welcome {
        session_id: String,
        session: String,
        user: &'a str,
        node_id: &'a str,
        epoch: u64,
        resumed: bool,
        position: String,
        channels: Vec<&'a str>,
        resume_url: String,
        ping_interval_ms: u64,
    },
    Subscribed {
        channels: Vec<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        r#ref: Option<String>,
    },
    Unsubscribed {
        channels: Vec<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        r#ref: Option<String>,
    },
    Published {
        offset: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        r#ref: Option<String>,
    },
    /// `channel` is null when the gap is in everything that the session listens to.
    Reset {
        channel: Option<&'a str>,
        first: String,
        next: String,
    },
    Migrate {
        url: &'a str,
        token: &'a str,
        node_id: &'a str,
    },
    Event {
        channel: &'a str,
        offset: String,
        at_ms: u64,
        data: &'a RawValue,
    },
    Error {
        code: &'a str,
        status: u16,
        detail: &'a str,
        #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
        fields: &'a serde_json::Map<String, serde_json::Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        r#ref: Option<String>,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        r#ref: Option<String>,
    },
}

impl Say<'_> {
    /// As text.
    pub(super) fn text(&self) -> String {
        // From our own structs: it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A problem as a frame.
pub(super) fn error_text(error: &ApiError, id: Option<String>) -> String {
    if error.code.status() == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(detail = error.detail, "internal error of a socket");
    }
    Say::Error {
        code: error.code.as_str(),
        status: error.code.status().as_u16(),
        detail: &error.detail,
        fields: &error.fields,
        r#ref: id,
    }
    .text()
}

/// The frame of a message: the same for everyone who gets it.
pub(super) fn event_text(kept: &Kept) -> String {
    let message = &kept.message;
    let channel = match &message.to {
        Recipient::Session(_) => SESSION,
        Recipient::User(_) => USER,
        Recipient::Channel(channel) => channel,
    };
    // It was JSON when it was taken in; a text that is none is shown as a string.
    let quoted;
    let data = match serde_json::from_str::<&RawValue>(&message.data) {
        Ok(data) => data,
        Err(_) => {
            quoted = serde_json::value::to_raw_value(&message.data).unwrap_or_default();
            &*quoted
        }
    };
    Say::Event { channel, offset: message.offset.to_string(), at_ms: message.at.0, data }.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask_of(text: &str) -> Result<Ask, Code> {
        parse(text).expect("an object").ask.map_err(|error| error.code)
    }

    #[test]
    fn only_objects_are_frames() {
        for text in ["", " ", "1", "[]", "null", "\"{}\"", "{", "{]", "{\"type\":\"ping\"} x", "\u{0}"] {
            assert!(parse(text).is_none(), "{text:?}");
        }
        assert_eq!(ask_of(" {\"type\":\"ping\"}"), Ok(Ask::Ping));
        assert_eq!(parse("{\"type\":\"close\",\"id\":\"7\"}").unwrap().id.as_deref(), Some("7"));
        let nested = |levels: usize| {
            let data = format!("{}\"]\\\\\"{}", "[".repeat(levels), "]".repeat(levels));
            ask_of(&format!("{{\"type\":\"publish\",\"channel\":\"c\",\"data\":{data}}}"))
        };
        assert!(nested(DATA_DEPTH_MAX).is_ok());
        for levels in [DATA_DEPTH_MAX + 1, 9_000] {
            assert_eq!(nested(levels), Err(Code::InvalidArgument), "{levels}");
        }
        let brackets = "[".repeat(1_000);
        let text = format!("{{\"type\":\"publish\",\"channel\":\"c\",\"data\":\"\\\"{brackets}\"}}");
        assert!(ask_of(&text).is_ok(), "those in a string do not count");
    }

    #[test]
    fn a_frame_with_a_foreign_field_is_refused() {
        for (text, code) in [
            ("{}", Code::InvalidBody),
            ("{\"type\":1}", Code::InvalidBody),
            ("{\"type\":\"hello\"}", Code::InvalidBody),
            ("{\"type\":\"ping\",\"x\":1}", Code::UnknownField),
            ("{\"type\":\"ping\",\"channel\":\"c\"}", Code::UnknownField),
            ("{\"type\":\"subscribe\"}", Code::InvalidBody),
            ("{\"type\":\"subscribe\",\"channels\":[]}", Code::InvalidArgument),
            ("{\"type\":\"subscribe\",\"channels\":[\"user\"]}", Code::InvalidArgument),
            ("{\"type\":\"subscribe\",\"channels\":[\"a\\nb\"]}", Code::InvalidArgument),
            ("{\"type\":\"subscribe\",\"channels\":[\"a\"],\"since\":\"1:2\"}", Code::InvalidArgument),
            (
                "{\"type\":\"subscribe\",\"channels\":[\"a\",\"events\"],\"since\":\"1\"}",
                Code::InvalidArgument,
            ),
            ("{\"type\":\"publish\",\"channel\":\"c\"}", Code::InvalidBody),
        ] {
            assert_eq!(ask_of(text), Err(code), "{text}");
        }
        let many: Vec<_> = (0..100).map(|rank| format!("c{rank}")).collect();
        let many = serde_json::json!({"type": "subscribe", "channels": many}).to_string();
        assert_eq!(ask_of(&many), Err(Code::LimitExceeded));
        let long = serde_json::json!({"type": "ping", "id": "x".repeat(200)}).to_string();
        assert_eq!(ask_of(&long), Err(Code::InvalidArgument));
    }

    #[test]
    fn subscriptions_are_split_by_log() {
        let wanted = ask_of("{\"type\":\"subscribe\",\"channels\":[\"b\",\"a\",\"b\"],\"since\":\"7\"}");
        let channels = vec!["a".to_owned(), "b".to_owned()];
        let since = Some(MessageOffset(7));
        assert_eq!(wanted, Ok(Ask::Subscribe { channels, logs: Logs::default(), since }));
        let wanted = ask_of("{\"type\":\"subscribe\",\"channels\":[\"invalidations\"],\"since\":\"1:2\"}");
        let invalidations = Some(Since(Some("1:2".to_owned())));
        assert_eq!(
            wanted,
            Ok(Ask::Subscribe {
                channels: Vec::new(),
                logs: Logs { invalidations, ..Logs::default() },
                since: None
            })
        );
    }

    #[test]
    fn data_goes_through_as_it_is() {
        let data = "{ \"n\":123456789012345678901234567890.10 ,\"a\":[ ] }";
        let text = format!("{{\"type\":\"publish\",\"channel\":\"c\",\"data\":{data}}}");
        let Ok(Ask::Publish { data: kept, .. }) = ask_of(&text) else { panic!("a publish") };
        assert_eq!(kept, data);
        let message = ovncp_state::sessions::view::Message {
            offset: MessageOffset(9),
            at: ovncp_state::Millis(4),
            to: Recipient::Channel("c\"x".to_owned()),
            data: kept,
            from: None,
        };
        let text = event_text(&Kept::new(message.into()));
        assert!(text.contains(data) && text.contains(r#""channel":"c\"x""#), "{text}");
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
}
