//! Script words to commands.

use std::error::Error;
use std::str::FromStr;

use goldenscript::ArgumentConsumer;
use ovncp_state::command::{
    AcquireLock, AnnounceLeader, CancelWait, ChangeNode, ForceReleaseLock, FormCluster, JoinNode,
    KvCondition, KvExpect, KvOperation, LockMode, NodeInfo, NodeRole, NodeStatus, ReleaseLock, RemoveNode,
    RenewLock, UpdateNode, WriteKv,
};
use ovncp_state::{
    ClusterId, Command, FencingToken, Incarnation, Millis, NodeId, Request, RequestKey, Revision, Salt,
    SecretHash, WaiterId,
};

type Parsed<T> = Result<T, Box<dyn Error>>;

/// Bytes that start with the word.
pub fn word<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(text.bytes()).for_each(|(byte, letter)| *byte = letter);
    bytes
}

/// A text, or `LETTER*COUNT` for a long one.
fn text(value: &str) -> String {
    let repeated = value.split_once('*').and_then(|(what, count)| Some(what.repeat(count.parse().ok()?)));
    repeated.unwrap_or_else(|| value.to_string())
}

/// Milliseconds, or with a unit: `500ms`, `10s`, `5m`, `24h`, `30d`.
pub fn millis(value: &str) -> Parsed<Millis> {
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &value[digits.len()..] {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        unit => return Err(format!("unknown unit {unit}").into()),
    };
    Ok(Millis(digits.parse::<u64>()? * factor))
}

fn parsed<T: FromStr>(args: &mut ArgumentConsumer<'_>, key: &str) -> Parsed<Option<T>>
where
    T::Err: Error + 'static,
{
    args.take_key(key).map(str::parse).transpose().map_err(Into::into)
}

fn next<'a>(args: &mut ArgumentConsumer<'a>) -> Parsed<&'a str> {
    args.next_pos().ok_or_else(|| "an argument is missing".into())
}

fn rest<'a>(args: &mut ArgumentConsumer<'a>) -> Vec<&'a str> {
    std::iter::from_fn(|| args.next_pos()).collect()
}

/// The request of a script command; `None` when the name is none of a command.
pub fn request(name: &str, args: &mut ArgumentConsumer<'_>) -> Parsed<Option<Request>> {
    let scope = args.take_key("key").map(word);
    let body = args.take_key("body").map(word).unwrap_or_default();
    let idempotency = scope.map(|scope| RequestKey { scope, body });
    let command = match name {
        "tick" => Command::Tick,
        "form" => form(args)?,
        "join" => Command::JoinNode(join(args)?),
        "update" => update(args)?,
        "change" => change(args)?,
        "remove" => Command::RemoveNode(RemoveNode {
            id: NodeId(next(args)?.parse()?),
            reason: text(args.take_key("reason").unwrap_or("told to")),
        }),
        "leader" => Command::AnnounceLeader(AnnounceLeader {
            id: NodeId(next(args)?.parse()?),
            term: parsed(args, "term")?.unwrap_or(1),
        }),
        "acquire" => acquire(args)?,
        "renew" => renew(args)?,
        "release" => {
            let by = args.take_key("by").unwrap_or_default();
            Command::ReleaseLock(ReleaseLock { key: text(next(args)?), secret: SecretHash(word(by)) })
        }
        "cancel" => {
            let node = NodeId(parsed(args, "node")?.unwrap_or(1));
            Command::CancelWait(CancelWait { waiter: WaiterId(word(next(args)?)), node })
        }
        "force" => Command::ForceReleaseLock(ForceReleaseLock {
            key: text(next(args)?),
            reason: text(args.take_key("reason").unwrap_or("stuck")),
            token: parsed(args, "token")?.map(FencingToken),
        }),
        "put" | "delete" | "write" => write(name, args)?,
        _ => return Ok(None),
    };
    args.reject_next()?;
    Ok(Some(Request { idempotency, command }))
}

fn form(args: &mut ArgumentConsumer<'_>) -> Parsed<Command> {
    let node = |name: &str| {
        let (name, incarnation) = name.split_once('/').unwrap_or((name, name));
        let info = NodeInfo { peer_addr: format!("{name}:7400"), ..NodeInfo::default() };
        JoinNode { name: name.to_string(), incarnation: Incarnation(word(incarnation)), info }
    };
    Ok(Command::FormCluster(FormCluster {
        cluster_id: ClusterId(word(args.take_key("id").unwrap_or("prod"))),
        formed_at_unix_ms: 1_700_000_000_000,
        voters_target: parsed(args, "voters")?.unwrap_or(3),
        nodes: rest(args).into_iter().map(node).collect(),
    }))
}

fn join(args: &mut ArgumentConsumer<'_>) -> Parsed<JoinNode> {
    let name = text(next(args)?);
    let incarnation = args.take_key("incarnation").map_or_else(|| word(&name), word);
    Ok(JoinNode { incarnation: Incarnation(incarnation), info: info(args, &name), name })
}

fn info(args: &mut ArgumentConsumer<'_>, name: &str) -> NodeInfo {
    let addr = args.take_key("addr").map_or_else(|| format!("{}:7400", name.get(..20).unwrap_or(name)), text);
    let metadata = args.take_key("metadata").map(|value| ("label".to_string(), text(value)));
    NodeInfo { peer_addr: addr, metadata: metadata.into_iter().collect(), ..NodeInfo::default() }
}

fn update(args: &mut ArgumentConsumer<'_>) -> Parsed<Command> {
    let incarnation = args.take_key("incarnation").ok_or("incarnation is missing")?;
    Ok(Command::UpdateNode(UpdateNode {
        id: NodeId(next(args)?.parse()?),
        incarnation: Incarnation(word(incarnation)),
        boot: parsed(args, "boot")?.unwrap_or(1),
        info: info(args, incarnation),
    }))
}

fn change(args: &mut ArgumentConsumer<'_>) -> Parsed<Command> {
    let status = match args.take_key("status") {
        None => None,
        Some("joining") => Some(NodeStatus::Joining),
        Some("active") => Some(NodeStatus::Active),
        Some("suspect") => Some(NodeStatus::Suspect),
        Some("inactive") => Some(NodeStatus::Inactive),
        Some("draining") => Some(NodeStatus::Draining),
        Some("left") => Some(NodeStatus::Left),
        Some(other) => return Err(format!("unknown status {other}").into()),
    };
    let role = match args.take_key("role") {
        None => None,
        Some("voter") => Some(NodeRole::Voter),
        Some("learner") => Some(NodeRole::Learner),
        Some(other) => return Err(format!("unknown role {other}").into()),
    };
    let generation = parsed(args, "generation")?.ok_or("generation is missing")?;
    Ok(Command::ChangeNode(ChangeNode { id: NodeId(next(args)?.parse()?), generation, status, role }))
}

fn acquire(args: &mut ArgumentConsumer<'_>) -> Parsed<Command> {
    let by = args.take_key("by").ok_or("by is missing")?;
    let time = |args: &mut ArgumentConsumer<'_>, key: &str| args.take_key(key).map(millis).transpose();
    Ok(Command::AcquireLock(AcquireLock {
        mode: match args.take_key("mode").unwrap_or("exclusive") {
            "shared" => LockMode::Shared,
            _ => LockMode::Exclusive,
        },
        owner: text(by),
        secret: SecretHash(word(args.take_key("secret").unwrap_or(by))),
        salt: args.take_key("salt").map(|salt| Salt(word(salt))),
        ttl: time(args, "ttl")?.unwrap_or(Millis(10_000)),
        wait: time(args, "wait")?.unwrap_or_default(),
        hold_max: time(args, "hold_max")?,
        metadata: args.take_key("metadata").map(text),
        waiter: WaiterId(word(args.take_key("waiter").unwrap_or(by))),
        node: NodeId(parsed(args, "node")?.unwrap_or(1)),
        keys: rest(args).into_iter().map(text).collect(),
    }))
}

/// `renew KEY by=S [ttl=T]`, or several as `KEY/S`, all of them `count` times.
fn renew(args: &mut ArgumentConsumer<'_>) -> Parsed<Command> {
    let ttl = args.take_key("ttl").map(millis).transpose()?;
    let by = args.take_key("by").unwrap_or_default();
    let count = parsed(args, "count")?.unwrap_or(1);
    let keys = rest(args);
    let renewals = keys.iter().cycle().take(keys.len() * count).map(|key| {
        let (key, secret) = key.split_once('/').unwrap_or((*key, by));
        RenewLock { key: text(key), secret: SecretHash(word(secret)), ttl }
    });
    Ok(Command::RenewLocks(renewals.collect()))
}

fn expect(value: &str) -> Parsed<KvExpect> {
    Ok(match value {
        "exists" => KvExpect::Exists,
        "absent" => KvExpect::Absent,
        revision => KvExpect::Revision(Revision(revision.parse()?)),
    })
}

/// `put KEY VALUE [if=absent|exists|REVISION] [ttl=T] [type=T]`, `delete KEY [if=...]`, or several at once:
/// `write put/KEY/VALUE delete/KEY if/KEY/absent`.
fn write(name: &str, args: &mut ArgumentConsumer<'_>) -> Parsed<Command> {
    let ttl = args.take_key("ttl").map(millis).transpose()?;
    let content_type = args.take_key("type").map(text);
    let put = |key: &str, value: &str| KvOperation::Put {
        key: text(key).into_bytes(),
        value: text(value).into_bytes(),
        content_type: content_type.clone(),
        ttl,
    };
    let delete = |key: &str| KvOperation::Delete { key: text(key).into_bytes() };
    let (mut conditions, mut operations) = (Vec::new(), Vec::new());
    let condition = args.take_key("if").map(expect).transpose()?;
    if name == "write" {
        for part in rest(args) {
            match part.split('/').collect::<Vec<_>>()[..] {
                ["put", key, value] => operations.push(put(key, value)),
                ["delete", key] => operations.push(delete(key)),
                ["if", key, what] => {
                    conditions.push(KvCondition { key: key.into(), expect: expect(what)? });
                }
                _ => return Err(format!("cannot read {part}").into()),
            }
        }
    } else {
        let key = next(args)?;
        conditions.extend(condition.map(|expect| KvCondition { key: text(key).into_bytes(), expect }));
        operations.push(if name == "put" { put(key, next(args)?) } else { delete(key) });
    }
    Ok(Command::WriteKv(WriteKv { conditions, operations }))
}
