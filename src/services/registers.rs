//! Registers: small replicated values with compare-and-set.

use ovncp_state::command::{KvCondition, KvExpect, KvOperation, WriteKv};
use ovncp_state::view::KvMeta;
use ovncp_state::{Command, LogIndex, Millis, Reply, RequestKey, Revision};

use super::reads::Freshness;
use super::{Core, ServiceError};

/// Small replicated values.
#[derive(Clone)]
pub struct Registers {
    core: Core,
}

/// A value to store.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Media type, returned with it.
    pub content_type: Option<String>,
    /// It goes by itself after this time.
    pub ttl: Option<Millis>,
}

impl Registers {
    /// Registers of the group.
    #[must_use]
    pub fn new(core: Core) -> Self {
        Self { core }
    }

    /// One register.
    pub async fn get(
        &self,
        key: &[u8],
        freshness: Freshness,
    ) -> Result<(LogIndex, Option<(KvMeta, Vec<u8>)>), ServiceError> {
        self.core.read(freshness, |state| state.kv(key)).await
    }

    /// Registers whose keys start with `prefix`, ascending, after `after`, without values.
    pub async fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        freshness: Freshness,
    ) -> Result<(LogIndex, (Millis, Vec<KvMeta>)), ServiceError> {
        self.core.read(freshness, |state| (state.now(), state.kv_scan(prefix, after, limit))).await
    }

    /// Stores a value if `expect` holds.
    pub async fn put(
        &self,
        key: Vec<u8>,
        value: Value,
        expect: Option<KvExpect>,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, Revision), ServiceError> {
        let operation = KvOperation::Put {
            key: key.clone(),
            value: value.bytes,
            content_type: value.content_type,
            ttl: value.ttl,
        };
        let (index, revision, _) = self.write(key, operation, expect, retry).await?;
        Ok((index, revision))
    }

    /// Removes a register if `expect` holds; tells whether there was one.
    pub async fn delete(
        &self,
        key: Vec<u8>,
        expect: Option<KvExpect>,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, bool), ServiceError> {
        let operation = KvOperation::Delete { key: key.clone() };
        let (index, _, deleted) = self.write(key, operation, expect, retry).await?;
        Ok((index, deleted > 0))
    }

    async fn write(
        &self,
        key: Vec<u8>,
        operation: KvOperation,
        expect: Option<KvExpect>,
        retry: Option<RequestKey>,
    ) -> Result<(LogIndex, Revision, u64), ServiceError> {
        let conditions = expect.map(|expect| KvCondition { key, expect }).into_iter().collect();
        let command = Command::WriteKv(WriteKv { conditions, operations: vec![operation] });
        let committed = self.core.propose(retry, command).await?;
        match committed.reply {
            Reply::Written { revision, deleted } => Ok((committed.index, revision, deleted)),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(ServiceError::UnexpectedReply { command: "WriteKv" }),
        }
    }
}
