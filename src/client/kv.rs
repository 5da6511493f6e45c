//! Registers: small replicated values with compare-and-set.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::locks::number;
use super::{Call, Client, Consistency, Error, Page, millis};

const KV: [&[u8]; 4] = [b"api", b"v1", b"cluster", b"kv"];

/// The registers of a cluster: [`Client::kv`].
#[derive(Clone, Debug)]
pub struct Kv {
    client: Client,
    consistency: Consistency,
}

/// A register with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub value: Bytes,
    /// Changes with every write; for compare-and-set.
    pub revision: u64,
    /// Media type it was stored with.
    pub content_type: String,
}

/// A register without its value.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Key {
    /// Its key; bytes that are not UTF-8 are shown as U+FFFD.
    pub key: String,
    /// Its revision.
    #[serde(deserialize_with = "number")]
    pub revision: u64,
    /// Bytes of its value.
    pub size: u64,
    /// Media type it was stored with.
    #[serde(default)]
    pub content_type: Option<String>,
    /// When it goes by itself, in UTC.
    #[serde(default)]
    pub expires: Option<String>,
}

#[derive(Deserialize)]
struct KvPage {
    keys: Vec<Key>,
    next_cursor: Option<String>,
}

/// A write being put together: [`Kv::put`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `send`"]
pub struct PutRequest {
    client: Client,
    call: Call,
    value: Bytes,
    content_type: String,
}

/// A removal being put together: [`Kv::delete`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `send`"]
pub struct DeleteRequest {
    client: Client,
    call: Call,
}

fn path(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    KV.into_iter().chain([key])
}

impl Client {
    /// The registers.
    #[must_use]
    pub fn kv(&self) -> Kv {
        Kv { client: self.clone(), consistency: Consistency::Linearizable }
    }
}

impl Kv {
    /// Reads as fresh as this.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Reads a register; absent when there is none.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, Error> {
        let call = Call::get(path(key.as_ref())).consistency(self.consistency);
        match self.client.call(&call).await {
            Ok(answer) => Ok(Some(Entry {
                revision: answer.revision()?,
                content_type: answer.header("content-type").unwrap_or_default().to_owned(),
                value: answer.body,
            })),
            Err(Error::NotFound(problem)) if problem.code == "unknown_key" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins a write; unconditional as it is.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> PutRequest {
        PutRequest {
            client: self.client.clone(),
            call: Call::put(path(key.as_ref())),
            value: value.into(),
            content_type: "application/octet-stream".to_owned(),
        }
    }

    /// Compare-and-set: stores the value only if the register has this revision, or does not exist for `None`.
    /// Answers the new revision; [`Error::RevisionMismatch`] says that somebody was faster.
    pub async fn cas(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<u64>,
        value: impl Into<Bytes>,
    ) -> Result<u64, Error> {
        let put = self.put(key, value);
        match expected {
            Some(revision) => put.if_revision(revision).send().await,
            None => put.if_absent().send().await,
        }
    }

    /// Begins a removal; unconditional as it is.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> DeleteRequest {
        DeleteRequest { client: self.client.clone(), call: Call::delete(path(key.as_ref())) }
    }

    /// One page of the keys that begin with `prefix`: at most `limit` (up to 1,000), from `cursor` on.
    pub async fn scan(&self, prefix: &str, limit: usize, cursor: Option<&str>) -> Result<Page<Key>, Error> {
        let call = Call::get(KV).consistency(self.consistency);
        let mut call = call.query("prefix", prefix).query("limit", limit.to_string());
        if let Some(cursor) = cursor {
            call = call.query("cursor", cursor);
        }
        let page: KvPage = self.client.json(&call).await?;
        Ok(Page { items: page.keys, next_cursor: page.next_cursor })
    }
}

impl PutRequest {
    /// Only if this is its revision.
    pub fn if_revision(mut self, revision: u64) -> Self {
        self.call = self.call.header("if-match", format!("\"{revision}\""));
        self
    }

    /// Only if there is none.
    pub fn if_absent(mut self) -> Self {
        self.call = self.call.header("if-none-match", "*");
        self
    }

    /// Forgets it after this time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.call = self.call.query("ttl_ms", millis(ttl).to_string());
        self
    }

    /// Media type of the value; `application/octet-stream` when left out.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Stores it and answers the new revision.
    pub async fn send(self) -> Result<u64, Error> {
        self.client.call(&self.call.body(self.value, self.content_type)).await?.revision()
    }
}

impl DeleteRequest {
    /// Only if this is its revision.
    pub fn if_revision(mut self, revision: u64) -> Self {
        self.call = self.call.header("if-match", format!("\"{revision}\""));
        self
    }

    /// Removes it and answers whether there was one.
    pub async fn send(self) -> Result<bool, Error> {
        match self.client.call(&self.call).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(problem)) if problem.code == "unknown_key" => Ok(false),
            Err(error) => Err(error),
        }
    }
}
