//! Messages to sessions, users and channels: kept in one log, so that they survive the node that took them.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::change::check_channel;
use super::view::{LogReset, Message};
use crate::command::{NewMessage, PublishMessages, Recipient};
use crate::limits::{MESSAGE_BYTES_MAX, MESSAGES_PER_COMMAND_MAX, USER_BYTES_MAX};
use crate::ring::Kept;
use crate::state::Effects;
use crate::table::Object;
use crate::validate;
use crate::{MessageOffset, Millis, Refusal, Reply, State};

impl Object for Message {
    const TAG: u8 = 14;
    type Key = MessageOffset;

    fn key(&self) -> MessageOffset {
        self.offset
    }
}

impl Kept for Message {
    fn at(&self) -> Millis {
        self.at
    }
}

impl State {
    /// At most `limit` messages from offset `since` on, to whomever they are. An error when some of them are no longer
    /// kept, or `since` lies beyond the next offset.
    pub fn messages(
        &self,
        since: MessageOffset,
        limit: usize,
    ) -> Result<Vec<Arc<Message>>, LogReset<MessageOffset>> {
        let (first, next) = self.messages_kept();
        if since < first || since > next {
            return Err(LogReset { first, next });
        }
        Ok(self.messages.from(&since, limit))
    }

    /// The first kept offset and the next one to be given.
    pub fn messages_kept(&self) -> (MessageOffset, MessageOffset) {
        let next = MessageOffset(self.offsets.messages);
        (self.messages.first_or(next), next)
    }

    fn check_message(&self, message: &NewMessage) -> Result<(), Refusal> {
        validate::bytes("data", message.data.len(), 0, MESSAGE_BYTES_MAX)?;
        match &message.to {
            Recipient::Session(number) => {
                self.live_session(*number).map(drop).ok_or(Refusal::SessionNotFound)
            }
            Recipient::User(user) => validate::bytes("user", user.len(), 1, USER_BYTES_MAX),
            Recipient::Channel(name) => check_channel("channel", name),
        }
    }

    pub(crate) fn publish(&mut self, command: PublishMessages, out: &mut Effects) -> Result<Reply, Refusal> {
        validate::count("messages", command.messages.len(), 1, MESSAGES_PER_COMMAND_MAX)?;
        command.messages.iter().try_for_each(|message| self.check_message(message))?;
        let first = MessageOffset(self.offsets.messages);
        for NewMessage { to, data, from } in command.messages {
            let offset = MessageOffset(self.offsets.messages);
            self.offsets.messages += 1;
            let message = Arc::new(Message { offset, at: self.meta.now, to, data, from });
            self.messages.push(message, self.limits.messages_kept, self.limits.messages_kept_bytes);
        }
        out.appended.messages = Some(MessageOffset(self.offsets.messages));
        Ok(Reply::Published { first })
    }
}
