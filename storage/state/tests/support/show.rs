//! Replies, events and views as one line each.

use std::fmt::Write as _;

use ovncp_state::command::{LockMode, Recipient};
use ovncp_state::event::NodeRef;
use ovncp_state::invalidations::Invalidation;
use ovncp_state::reply::{Grant, Holder};
use ovncp_state::sessions::view::{LogReset, Message, SessionView};
use ovncp_state::view::{ClusterView, KvMeta, LockView, NodeView};
use ovncp_state::{Applied, Event, EventKind, Notice, Refusal, Reply};

/// Ids made from a word read as that word.
pub fn word(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

pub fn bytes(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn snake<T: std::fmt::Debug>(value: T) -> String {
    let name = format!("{value:?}");
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

fn mode(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Exclusive => "",
        LockMode::Shared => " shared",
    }
}

pub fn applied(applied: &Applied) -> String {
    let mut out = format!("{}\n", reply(&applied.reply));
    for event in &applied.events {
        let _ = writeln!(out, "  {}", self::event(event));
    }
    for notice in &applied.notices {
        let _ = writeln!(out, "  {}", self::notice(notice));
    }
    out
}

pub fn reset<O: std::fmt::Display>(reset: &LogReset<O>) -> String {
    format!("reset: kept are {}..{}", reset.first, reset.next)
}

fn grant(grant: &Grant) -> String {
    let mut out = format!(
        "granted {}{} to {}: token {}, ttl {}",
        grant.keys.join("+"),
        mode(grant.mode),
        grant.owner,
        grant.token,
        grant.ttl
    );
    if grant.waited.0 > 0 {
        let _ = write!(out, ", waited {}", grant.waited);
    }
    if let Some(salt) = grant.salt {
        let _ = write!(out, ", salt {}", word(&salt.0));
    }
    out
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "-".to_string() } else { names.join("+") }
}

pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done => "done".to_string(),
        Reply::Refused(refusal) => format!("refused: {}", self::refusal(refusal)),
        Reply::Joined { id, .. } => format!("joined as {id}"),
        Reply::Granted(granted) => grant(granted),
        Reply::Waiting { waiter, position } => format!("waiting {} at {position}", word(&waiter.0)),
        Reply::Renewed(results) => {
            let results = results.iter().map(|result| match result {
                Ok(renewed) => format!("renewed token {}, ttl {}", renewed.token, renewed.ttl),
                Err(refusal) => format!("refused: {}", self::refusal(refusal)),
            });
            results.collect::<Vec<_>>().join("; ")
        }
        Reply::Released { token } => format!("released token {token}"),
        Reply::ForceReleased { tokens } => {
            let tokens: Vec<_> = tokens.iter().map(ToString::to_string).collect();
            format!("force-released tokens {}", tokens.join(", "))
        }
        Reply::Written { revision, deleted } => format!("written at revision {revision}, deleted {deleted}"),
        Reply::Session(grant) => format!(
            "session {} {} of {} on {}, epoch {}, position {}, channels {}",
            grant.number,
            word(&grant.id.0),
            grant.user,
            grant.node,
            grant.epoch,
            grant.position,
            listed(&grant.channels)
        ),
        Reply::Migrating { target } => format!("migrating to {target}"),
        Reply::Published { first } => format!("published at {first}"),
        Reply::Invalidated { epoch, offset } => format!("invalidated at {epoch}:{offset}"),
    }
}

fn holder(holder: Option<&Holder>) -> String {
    holder.map_or_else(
        || "held by nobody".to_string(),
        |holder| format!("held by {} with token {} for {}", holder.owner, holder.token, holder.ttl),
    )
}

pub fn refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::InvalidArgument { field, problem } => format!("invalid_argument {field} {problem}"),
        Refusal::LimitExceeded { limit, max } => format!("limit_exceeded {limit} {max}"),
        Refusal::LockHeld { key, holder: by, queue_length } => {
            format!("lock_held {key} {}, queue {queue_length}", holder(by.as_ref()))
        }
        Refusal::LockTimeout { key, holder: by, queue_length } => {
            format!("lock_timeout {key} {}, queue {queue_length}", holder(by.as_ref()))
        }
        Refusal::NotHolder { key } => format!("not_holder of {key}"),
        Refusal::LockLost { token } => format!("lock_lost token {token}"),
        Refusal::RevisionMismatch { key, current } => {
            let current = current.map_or_else(|| "absent".to_string(), |revision| revision.to_string());
            format!("revision_mismatch {} is {current}", bytes(key))
        }
        Refusal::NameTaken { name } => format!("name_taken {name}"),
        Refusal::SessionMoved { node, epoch } => {
            let node = node.map_or_else(|| "nowhere".to_string(), |node| format!("to {node}"));
            format!("session_moved {node}, epoch {epoch}")
        }
        other => snake(other),
    }
}

pub fn event(event: &Event) -> String {
    let what = match &event.kind {
        EventKind::NodeJoin { id, name, role } => format!("node_join {id} {name} {}", snake(role)),
        EventKind::NodeLeave { id, name, reason } => format!("node_leave {id} {name} \"{reason}\""),
        EventKind::NodeUpdate { id, name, status, role } => {
            format!("node_update {id} {name} {} {}", snake(status), snake(role))
        }
        EventKind::LeaderChange { id, name, term } => format!("leader_change {id} {name} term {term}"),
        EventKind::LockAcquired { keys, mode: by, owner, token, waited } => {
            format!("lock_acquired {}{} {owner} token {token} waited {waited}", keys.join("+"), mode(*by))
        }
        EventKind::LockReleased { keys, owner, token, cause, held, reason } => {
            let reason = if reason.is_empty() { String::new() } else { format!(" \"{reason}\"") };
            format!("lock_{} {} {owner} token {token} held {held}{reason}", snake(cause), keys.join("+"))
        }
        EventKind::SessionRegistered { number, node } => {
            format!("session_registered {number} on {}", self::node_ref(node))
        }
        EventKind::SessionAttached { number, node, epoch, from } => {
            let from = from.as_ref().map_or_else(String::new, |from| format!(" from {}", node_ref(from)));
            format!("session_attached {number} on {} epoch {epoch}{from}", node_ref(node))
        }
        EventKind::SessionDetached { number, node, epoch } => {
            format!("session_detached {number} on {} epoch {epoch}", node_ref(node))
        }
        EventKind::SessionMigrating { number, node, epoch, target } => {
            let (node, target) = (node_ref(node), node_ref(target));
            format!("session_migrating {number} on {node} epoch {epoch} to {target}")
        }
        EventKind::SessionEnded { number, node, epoch, cause } => {
            format!("session_ended {number} on {} epoch {epoch} {}", node_ref(node), snake(cause))
        }
        EventKind::Invalidated { offset, patterns, tags, origin } => {
            let (patterns, tags) = (listed(patterns), listed(tags));
            format!("invalidated {offset} {patterns} tags {tags} by {}", node_ref(origin))
        }
    };
    format!("event {} at {}: {what}", event.offset, event.at)
}

fn node_ref(node: &NodeRef) -> String {
    format!("{} {}", node.id, node.name)
}

pub fn session(view: &SessionView) -> String {
    let mut out = format!(
        "{} {} of {} on {} {} epoch {}, created {}, active {}, ttl {}, position {}, channels {}",
        view.number,
        word(&view.id.0),
        view.user,
        view.node,
        if view.attached { "attached" } else { "detached" },
        view.epoch,
        view.created_at,
        view.last_activity,
        view.ttl,
        view.position,
        listed(&view.channels)
    );
    if let Some(expires) = view.expires {
        let _ = write!(out, ", expires {expires}");
    }
    if let Some(metadata) = &view.metadata {
        let _ = write!(out, ", metadata {metadata}");
    }
    if let Some(migration) = &view.migration {
        let salt = word(&migration.salt.0);
        let _ = write!(out, ", migrating to {} by {salt} until {}", migration.target, migration.deadline);
    }
    out
}

pub fn message(message: &Message) -> String {
    let to = match &message.to {
        Recipient::Session(number) => format!("session {number}"),
        Recipient::User(user) => format!("user {user}"),
        Recipient::Channel(name) => format!("channel {name}"),
    };
    let from = message.from.map_or_else(String::new, |from| format!(" from {from}"));
    format!("{} at {} to {to}: {}{from}", message.offset, message.at, message.data)
}

pub fn invalidation(entry: &Invalidation) -> String {
    let waited = if entry.waited_for { ", waited for" } else { "" };
    let (patterns, tags) = (listed(&entry.patterns), listed(&entry.tags));
    format!("{} at {}: {patterns} tags {tags} by {}{waited}", entry.offset, entry.at, entry.origin)
}

fn notice(notice: &Notice) -> String {
    let outcome = match &notice.outcome {
        Ok(granted) => grant(granted),
        Err(refusal) => format!("refused: {}", self::refusal(refusal)),
    };
    format!("notice to {} on node {}: {outcome}", word(&notice.waiter.0), notice.node)
}

pub fn lock(lock: &LockView) -> String {
    let mut out = lock.key.clone();
    for holder in &lock.holders {
        let _ = write!(
            out,
            "\n  held by {}{}: token {}, keys {}, since {}, expires {}",
            holder.owner,
            mode(holder.mode),
            holder.token,
            holder.keys.join("+"),
            holder.since,
            holder.expires
        );
        if let Some(deadline) = holder.hold_deadline {
            let _ = write!(out, ", at most until {deadline}");
        }
        if let Some(metadata) = &holder.metadata {
            let _ = write!(out, ", metadata {metadata}");
        }
    }
    for waiter in &lock.queue {
        let _ = write!(
            out,
            "\n  {}: {}{} of node {}, since {}, until {}",
            waiter.position,
            word(&waiter.waiter.0),
            mode(waiter.mode),
            waiter.node,
            waiter.since,
            waiter.deadline
        );
    }
    let _ = write!(out, "\n  queue {}", lock.queue_length);
    out
}

pub fn node(node: &NodeView) -> String {
    format!(
        "{} {} {} {} generation {} boot {} since {} joined {} of {} at {}",
        node.id,
        node.name,
        snake(node.status),
        snake(node.role),
        node.generation,
        node.boot,
        node.status_since,
        node.joined_at,
        word(&node.incarnation.0),
        node.info.peer_addr
    )
}

pub fn kv(meta: &KvMeta) -> String {
    let mut out = format!("{} revision {} size {}", bytes(&meta.key), meta.revision, meta.size);
    if let Some(content_type) = &meta.content_type {
        let _ = write!(out, " type {content_type}");
    }
    if let Some(expires) = meta.expires {
        let _ = write!(out, " expires {expires}");
    }
    out
}

pub fn cluster(view: &ClusterView) -> String {
    let leader = view.leader.map_or_else(|| "none".to_string(), |(id, term)| format!("{id} in term {term}"));
    let id = view.cluster_id.map_or_else(|| "none".to_string(), |id| word(&id.0));
    format!(
        "cluster {id} epoch {} formed {} voters {}\nnow {} leader {leader}\n\
         nodes {} locks {} waiters {} registers {} ({} bytes) events {}..{} requests {}",
        view.epoch,
        view.formed_at_unix_ms,
        view.voters_target,
        view.now,
        view.nodes,
        view.locks_held,
        view.waiters,
        view.kv_keys,
        view.kv_bytes,
        view.events.0,
        view.events.1,
        view.requests_kept
    )
}
