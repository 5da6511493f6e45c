//! Registers: small values under binary keys, written atomically and conditionally.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::clock::Lease;
use crate::command::{KvCondition, KvExpect, KvOperation, WriteKv};
use crate::limits::{
    KV_COMMAND_BYTES_MAX, KV_CONTENT_TYPE_BYTES_MAX, KV_KEY_BYTES_MAX, KV_OPS_PER_COMMAND_MAX, KV_TTL_MS_MAX,
    KV_TTL_MS_MIN, KV_VALUE_BYTES_MAX,
};
use crate::name::Bytes;
use crate::table::{Object, Table};
use crate::validate;
use crate::view::KvMeta;
use crate::{Millis, Refusal, Reply, Revision, State};

/// One register.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterRecord {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) revision: Revision,
    pub(crate) content_type: Option<String>,
    pub(crate) deadline: Option<Millis>,
}

impl Object for RegisterRecord {
    const TAG: u8 = 5;
    type Key = Bytes;

    fn key(&self) -> Bytes {
        self.key.clone()
    }
}

impl RegisterRecord {
    /// What counts towards the limit of bytes.
    pub(crate) fn size(&self) -> usize {
        self.key.as_slice().len() + self.value.as_slice().len()
    }

    fn meta(&self) -> KvMeta {
        KvMeta {
            key: self.key.as_slice().to_vec(),
            revision: self.revision,
            size: self.value.as_slice().len() as u64,
            content_type: self.content_type.clone(),
            expires: self.deadline,
        }
    }
}

/// Every register.
#[derive(Clone, Default)]
pub(crate) struct Registers {
    pub(crate) table: Table<RegisterRecord>,
    /// Bytes of all keys and values.
    pub(crate) bytes: usize,
}

impl Registers {
    pub(crate) fn insert(&mut self, record: RegisterRecord) {
        self.bytes += record.size();
        if let Some(old) = self.table.insert(record) {
            self.bytes -= old.size();
        }
    }
}

impl State {
    /// A register with its value.
    pub fn kv(&self, key: &[u8]) -> Option<(KvMeta, Vec<u8>)> {
        self.live_register(key).map(|record| (record.meta(), record.value.as_slice().to_vec()))
    }

    /// At most `limit` registers whose keys start with `prefix`, ascending by bytes, strictly after `after`.
    pub fn kv_scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<KvMeta> {
        let is_before =
            |key: &Bytes| key.as_slice() < prefix || after.is_some_and(|after| key.as_slice() <= after);
        self.registers
            .table
            .iter_from(is_before)
            .take_while(|record| record.key.as_slice().starts_with(prefix))
            .filter(|record| record.deadline.is_none_or(|deadline| deadline > self.meta.now))
            .take(limit)
            .map(|record| record.meta())
            .collect()
    }

    fn live_register(&self, key: &[u8]) -> Option<&RegisterRecord> {
        let record = self.registers.table.get(key)?;
        record.deadline.is_none_or(|deadline| deadline > self.meta.now).then_some(&**record)
    }

    pub(crate) fn write_kv(&mut self, command: WriteKv) -> Result<Reply, Refusal> {
        check(&command)?;
        for condition in &command.conditions {
            self.judge(condition)?;
        }
        self.check_room(&command.operations)?;
        let revision = Revision(self.meta.applied.0);
        let mut deleted = 0;
        for operation in command.operations {
            match operation {
                KvOperation::Put { key, value, content_type, ttl } => {
                    let deadline = ttl.map(|ttl| self.meta.now.after(ttl));
                    let (key, value) = (Bytes::from(key), Bytes::from(value));
                    self.drop_register(&key);
                    if let Some(deadline) = deadline {
                        self.deadlines.add(deadline, Lease::Register(key.clone()));
                    }
                    self.registers.insert(RegisterRecord { key, value, revision, content_type, deadline });
                }
                KvOperation::Delete { key } => {
                    deleted += u64::from(self.live_register(&key).is_some());
                    self.drop_register(&Bytes::from(key));
                }
            }
        }
        Ok(Reply::Written { revision, deleted })
    }

    /// Takes a register out of every table, if it is there.
    pub(crate) fn drop_register(&mut self, key: &Bytes) {
        let Some(old) = self.registers.table.remove(key) else { return };
        self.registers.bytes -= old.size();
        if let Some(deadline) = old.deadline {
            self.deadlines.remove(deadline, Lease::Register(old.key.clone()));
        }
    }

    fn judge(&self, condition: &KvCondition) -> Result<(), Refusal> {
        let current = self.live_register(&condition.key).map(|record| record.revision);
        let holds = match condition.expect {
            KvExpect::Exists => current.is_some(),
            KvExpect::Absent => current.is_none(),
            KvExpect::Revision(revision) => current == Some(revision),
        };
        if holds { Ok(()) } else { Err(Refusal::RevisionMismatch { key: condition.key.clone(), current }) }
    }

    /// Judges the limits as they would be after all operations. A command that makes neither the count nor
    /// the bytes grow is never refused for them.
    fn check_room(&self, operations: &[KvOperation]) -> Result<(), Refusal> {
        let mut after: BTreeMap<&[u8], usize> = BTreeMap::new();
        for operation in operations {
            match operation {
                KvOperation::Put { key, value, .. } => after.insert(key, key.len() + value.len()),
                KvOperation::Delete { key } => after.insert(key, 0),
            };
        }
        let before = after.keys().map(|key| self.live_register(key).map_or(0, RegisterRecord::size));
        let (keys_before, bytes_before) = totals(before);
        let (keys_after, bytes_after) = totals(after.values().copied());
        if self.registers.table.len() + keys_after <= self.limits.kv_keys
            && self.registers.bytes + bytes_after <= self.limits.kv_bytes
        {
            // Far from the limits: what ended and awaits clean-up need not be counted.
            return Ok(());
        }
        let live = self.live_totals();
        let keys = live.registers - keys_before + keys_after;
        let bytes = live.register_bytes - bytes_before + bytes_after;
        if keys_after > keys_before && keys > self.limits.kv_keys {
            validate::limit("kv_keys", keys, self.limits.kv_keys)?;
        }
        if bytes_after > bytes_before && bytes > self.limits.kv_bytes {
            validate::limit("kv_bytes", bytes, self.limits.kv_bytes)?;
        }
        Ok(())
    }
}

/// Count and sum of the sizes of present registers; keys have at least one byte, so 0 is absence.
fn totals(sizes: impl Iterator<Item = usize>) -> (usize, usize) {
    sizes.filter(|size| *size > 0).fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
}

fn check(command: &WriteKv) -> Result<(), Refusal> {
    validate::count("conditions", command.conditions.len(), 0, KV_OPS_PER_COMMAND_MAX)?;
    validate::count("operations", command.operations.len(), 1, KV_OPS_PER_COMMAND_MAX)?;
    for condition in &command.conditions {
        validate::bytes("key", condition.key.len(), 1, KV_KEY_BYTES_MAX)?;
    }
    let mut size: usize = command.conditions.iter().map(|condition| condition.key.len()).sum();
    for operation in &command.operations {
        match operation {
            KvOperation::Put { key, value, content_type, ttl } => {
                size += key.len() + value.len();
                validate::bytes("key", key.len(), 1, KV_KEY_BYTES_MAX)?;
                validate::bytes("value", value.len(), 0, KV_VALUE_BYTES_MAX)?;
                let content_type = content_type.as_ref().map_or(0, String::len);
                validate::bytes("content_type", content_type, 0, KV_CONTENT_TYPE_BYTES_MAX)?;
                if let Some(ttl) = ttl {
                    validate::millis("ttl", *ttl, KV_TTL_MS_MIN, KV_TTL_MS_MAX)?;
                }
            }
            KvOperation::Delete { key } => {
                size += key.len();
                validate::bytes("key", key.len(), 1, KV_KEY_BYTES_MAX)?;
            }
        }
    }
    validate::bytes("operations", size, 1, KV_COMMAND_BYTES_MAX)
}
