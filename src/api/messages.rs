//! Messages to sessions, users and channels over HTTP.

use axum::extract::State;
use ovncp_state::command::Recipient;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::error::{ApiError, Code};
use super::extract::{IdempotencyKey, JsonBody};
use super::ws::frames::{check_channel, check_data};
use super::{App, At, Shared};
use crate::services::reads::{Consistency, Freshness};
use crate::services::sessions::Named;

/// For whom: exactly one of the three.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct To {
    /// One session, by its secret id or its number.
    pub session: Option<String>,
    /// Every session of a user.
    pub user: Option<String>,
    /// Every session that listens to a channel.
    pub channel: Option<String>,
}

/// A message to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// For whom.
    pub to: To,
    /// Any JSON, at most 32,768 bytes and 64 levels deep.
    #[schema(value_type = serde_json::Value)]
    pub data: Box<RawValue>,
}

/// A message that is kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct Published {
    /// Its place among all messages of the cluster.
    pub offset: String,
}

/// Publishes a message. It is kept for sessions that come back: 65,536 messages, 64 MiB, an hour.
#[utoipa::path(post, path = "/api/v1/cluster/messages", tag = "sessions", operation_id = "publish_message",
    request_body = PublishRequest,
    responses((status = 200, body = Published, description = "Kept; it is delivered to whom it is for."),
        (status = 404, description = "`unknown_session`")))]
pub async fn publish(
    State(app): State<Shared>,
    idempotency: IdempotencyKey,
    body: JsonBody<PublishRequest>,
) -> Result<At<Published>, ApiError> {
    let retry = idempotency.identity(&[&body.raw]);
    let PublishRequest { to, data } = body.value;
    check_data(data.get())?;
    let to = recipient(&app, to).await?;
    let (index, offset) = app.sessions.publish(to, data.get().to_owned(), None, retry).await?;
    Ok(At(index, Published { offset: offset.to_string() }))
}

async fn recipient(app: &App, to: To) -> Result<Recipient, ApiError> {
    match to {
        To { user: Some(user), session: None, channel: None } => Ok(Recipient::User(user)),
        To { channel: Some(channel), session: None, user: None } => {
            check_channel(&channel)?;
            Ok(Recipient::Channel(channel))
        }
        To { session: Some(text), user: None, channel: None } => {
            let unknown = || ApiError::new(Code::UnknownSession, "there is no such session");
            let named = Named::parse(&text).ok_or_else(unknown)?;
            let freshness = Freshness { consistency: Consistency::Linearizable, min_index: None };
            let (_, (_, session)) = app.sessions.get(named, freshness).await?;
            Ok(Recipient::Session(session.ok_or_else(unknown)?.number))
        }
        _ => Err(ApiError::invalid("to", "must name a session, a user or a channel, and one alone")),
    }
}
