//! Commands and look-ups on sessions.

use ovncp_raft::error::MembershipError;
use ovncp_raft::group::Committed;
use ovncp_state::command::{
    AttachSession, DescribeSession, DrainNode, EndSession, MigrateSession, NewMessage, NodeStatus,
    PublishMessages, Recipient, RegisterSession, ResumeNode, RotateSession, SessionEnd, SubscribeSession,
};
use ovncp_state::reply::SessionGrant;
use ovncp_state::sessions::view::{DrainView, SessionFilter, SessionView};
use ovncp_state::view::NodeView;
use ovncp_state::{
    Command, LogIndex, MessageOffset, Millis, NodeId, Refusal, Reply, RequestKey, Salt, SessionId,
    SessionNumber, State,
};

use super::token::{self, Purpose};
use super::{Named, Sessions, node_name};
use crate::services::ServiceError;
use crate::services::reads::Freshness;

/// How long the token of a migration works.
pub const MIGRATION_VALID: Millis = Millis(60_000);
/// How long an id goes on working after its rotation.
pub const ROTATION_OVERLAP: Millis = Millis(60_000);

/// A session that was registered or taken over.
#[derive(Clone, Debug)]
pub struct Registered {
    /// As it stands.
    pub grant: SessionGrant,
    /// Index at which this node saw it.
    pub index: LogIndex,
}

/// A session that was asked to move.
#[derive(Clone, Debug)]
pub struct Moving {
    /// Which.
    pub number: SessionNumber,
    /// Where it is.
    pub node: String,
    /// Where it goes.
    pub target: String,
}

/// What was found, with the cluster time of the look.
pub(super) type Found<T> = (LogIndex, (Millis, T));

impl Sessions {
    /// Registers a session with a socket here, or with none yet: then the state places it.
    pub async fn register(
        &self,
        user: String,
        metadata: Option<String>,
        with_socket: bool,
        retry: Option<RequestKey>,
    ) -> Result<Registered, ServiceError> {
        let socket = if with_socket { Some(self.core.node_id()?) } else { None };
        let id = SessionId(rand::random());
        let command = RegisterSession { id, user, socket, ttl: self.settings.ttl, metadata };
        granted("RegisterSession", self.core.propose(retry, Command::RegisterSession(command)).await?)
    }

    /// Has a socket of this node take a session over.
    pub async fn attach(&self, id: SessionId, token: Option<&str>) -> Result<Registered, ServiceError> {
        let node = self.core.node_id()?;
        let token = token.map(token::hash);
        let command = AttachSession { id, node, token, ttl: self.settings.ttl };
        granted("AttachSession", self.core.propose(None, Command::AttachSession(command)).await?)
    }

    /// One session.
    pub async fn get(
        &self,
        named: Named,
        freshness: Freshness,
    ) -> Result<Found<Option<SessionView>>, ServiceError> {
        self.core.read(freshness, |state| (state.now(), named.find(state))).await
    }

    /// Sessions in the order of their numbers, after `after`; of one user, of one node, or all.
    pub async fn list(
        &self,
        after: Option<SessionNumber>,
        limit: usize,
        user: Option<&str>,
        node: Option<&str>,
        freshness: Freshness,
    ) -> Result<Found<Option<Vec<SessionView>>>, ServiceError> {
        let look = |state: &State| {
            let node = match node.map(|name| state.node_by_name(name)) {
                None => None,
                Some(Some(node)) => Some(node.id),
                Some(None) => return None,
            };
            Some(state.sessions(after, limit, SessionFilter { user, node }))
        };
        self.core.read(freshness, |state| (state.now(), look(state))).await
    }

    /// Names of nodes, for lists.
    #[must_use]
    pub fn node_name(&self, id: NodeId) -> String {
        self.core.group.read(|state| node_name(state, id)).1
    }

    /// A node, for addresses.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<NodeView> {
        self.core.group.read(|state| state.node(id)).1
    }

    /// Replaces the metadata of a session.
    pub async fn describe(
        &self,
        number: SessionNumber,
        metadata: Option<String>,
        retry: Option<RequestKey>,
    ) -> Result<LogIndex, ServiceError> {
        let command = Command::DescribeSession(DescribeSession { number, metadata });
        done(self.core.propose(retry, command).await?)
    }

    /// Ends a session for good; only while `epoch` is its epoch, when given.
    pub async fn end(
        &self,
        number: SessionNumber,
        epoch: Option<u64>,
        retry: Option<RequestKey>,
    ) -> Result<LogIndex, ServiceError> {
        let command = EndSession { number, epoch, cause: SessionEnd::Closed };
        done(self.core.propose(retry, Command::EndSession(command)).await?)
    }

    /// Ends a session whose client is silent for longer than it may be.
    pub async fn expire(&self, number: SessionNumber, epoch: u64) -> Result<LogIndex, ServiceError> {
        let command = EndSession { number, epoch: Some(epoch), cause: super::reports::IDLE };
        done(self.core.propose(None, Command::EndSession(command)).await?)
    }

    /// Gives a session another id; answers the one that it has now.
    pub async fn rotate(
        &self,
        id: SessionId,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, SessionId), ServiceError> {
        let command = RotateSession { id, next: SessionId(rand::random()), overlap: ROTATION_OVERLAP };
        let index = done(self.core.propose(retry, Command::RotateSession(command)).await?)?;
        // Of a repeated request the first try's: what it brought itself was not used.
        let session = self.core.group.read(|state| state.session_by_id(&id)).1;
        Ok((index, session.ok_or(Refusal::SessionNotFound)?.id))
    }

    /// Changes what a session listens to.
    pub(super) async fn subscribe(
        &self,
        number: SessionNumber,
        epoch: u64,
        add: Vec<String>,
        remove: Vec<String>,
    ) -> Result<LogIndex, ServiceError> {
        let command = Command::SubscribeSession(SubscribeSession { number, epoch, add, remove });
        done(self.core.propose(None, command).await?)
    }

    /// Publishes one message; answers its offset.
    pub async fn publish(
        &self,
        to: Recipient,
        data: String,
        from: Option<SessionNumber>,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, MessageOffset), ServiceError> {
        let command = PublishMessages { messages: vec![NewMessage { to, data, from }] };
        let committed = self.core.propose(retry, Command::PublishMessages(command)).await?;
        match committed.reply {
            Reply::Published { first } => Ok((committed.index, first)),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(ServiceError::UnexpectedReply { command: "PublishMessages" }),
        }
    }

    /// Asks a session to go to `target`, a name, or wherever the state would place it.
    pub async fn migrate(
        &self,
        session: &SessionView,
        target: Option<&str>,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, Moving), ServiceError> {
        let choose = |state: &State| {
            let chosen = match target {
                Some(name) => state.node_by_name(name).map(|node| node.id),
                None => state.place(&session.id.0, Some(session.node)),
            };
            Some((node_name(state, session.node), chosen.and_then(|id| state.node(id))?))
        };
        let Some((node, target)) = self.core.group.read(choose).1 else {
            return Err(Refusal::InvalidTarget.into());
        };
        let index = self.ask_to_move(session, target.id, retry).await?;
        Ok((index, Moving { number: session.number, node, target: target.name }))
    }

    pub(super) async fn ask_to_move(
        &self,
        session: &SessionView,
        target: NodeId,
        retry: Option<RequestKey>,
    ) -> Result<LogIndex, ServiceError> {
        let key = self.core.group.cluster_key().ok_or(ServiceError::NotMember)?;
        let (number, epoch, salt) = (session.number, session.epoch, Salt(rand::random()));
        let token = token::derived(&key, &Purpose { number, epoch, target, salt });
        let command = MigrateSession {
            number,
            epoch: Some(epoch),
            target: Some(target),
            token: token::hash(&token),
            salt,
            valid: MIGRATION_VALID,
        };
        done(self.core.propose(retry, Command::MigrateSession(command)).await?)
    }

    /// Where a session is, or where one with this id would go: the session, and the node.
    pub async fn place(
        &self,
        id: SessionId,
        freshness: Freshness,
    ) -> Result<(LogIndex, (Option<SessionView>, Option<NodeView>)), ServiceError> {
        let look = |state: &State| {
            let session = state.session_by_id(&id);
            let node = match &session {
                Some(session) if session.attached => Some(session.node),
                // Where it was, if that node still takes it.
                Some(session) if is_open(state, session.node) => Some(session.node),
                _ => state.place(&id.0, None),
            };
            (session, node.and_then(|id| state.node(id)))
        };
        self.core.read(freshness, look).await
    }

    /// Has a node empty itself, at most so fast.
    pub async fn drain(
        &self,
        name: &str,
        rate_per_s: u32,
        retry: Option<RequestKey>,
    ) -> Result<LogIndex, ServiceError> {
        let id = self.live_node(name).await?;
        done(self.core.propose(retry, Command::DrainNode(DrainNode { id, rate_per_s })).await?)
    }

    /// Takes that back.
    pub async fn resume(&self, name: &str, retry: Option<RequestKey>) -> Result<LogIndex, ServiceError> {
        let id = self.live_node(name).await?;
        done(self.core.propose(retry, Command::ResumeNode(ResumeNode { id })).await?)
    }

    /// How far a node has emptied itself; none when it does not.
    pub async fn drained(
        &self,
        name: &str,
        freshness: Freshness,
    ) -> Result<Found<Option<DrainView>>, ServiceError> {
        let look = |state: &State| {
            let node = state.node_by_name(name).filter(|node| node.status != NodeStatus::Left)?;
            Some((state.now(), state.drain(node.id)))
        };
        let (index, found) = self.core.read(freshness, look).await?;
        Ok((index, found.ok_or(ServiceError::Membership(MembershipError::UnknownNode))?))
    }

    async fn live_node(&self, name: &str) -> Result<NodeId, ServiceError> {
        let (_, node) = self.core.read(Freshness::default(), |state| state.node_by_name(name)).await?;
        node.filter(|node| node.status != NodeStatus::Left)
            .map(|node| node.id)
            .ok_or(ServiceError::Membership(MembershipError::UnknownNode))
    }
}

fn is_open(state: &State, node: NodeId) -> bool {
    state.node(node).is_some_and(|node| matches!(node.status, NodeStatus::Active | NodeStatus::Suspect))
}

fn granted(command: &'static str, committed: Committed) -> Result<Registered, ServiceError> {
    match committed.reply {
        Reply::Session(grant) => Ok(Registered { grant, index: committed.index }),
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Err(ServiceError::UnexpectedReply { command }),
    }
}

/// What was taken, whatever else the reply says.
fn done(committed: Committed) -> Result<LogIndex, ServiceError> {
    match committed.reply {
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Ok(committed.index),
    }
}
