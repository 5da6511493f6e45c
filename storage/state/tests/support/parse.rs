//! Script words to commands.

use std::error::Error;
use std::str::FromStr;

use goldenscript::ArgumentConsumer;
use ovncp_state::command::{
    AcquireLock, AcquireLockInSession, AnnounceLeader, AttachSession, CancelWait, ChangeNode,
    DescribeSession, DrainNode, EndSession, ForceReleaseLock, FormCluster, Invalidate, JoinNode, KvCondition,
    KvExpect, KvOperation, LockMode, MigrateSession, NewMessage, NodeInfo, NodeRole, NodeStatus,
    PublishMessages, Recipient, RegisterSession, ReleaseLock, RemoveNode, RenewLock, ReportCleared,
    ResumeNode, RotateSession, SessionEnd, SessionUpdate, SubscribeSession, UpdateNode, UpdateSessions,
    WriteKv,
};
use ovncp_state::{
    ClusterId, Command, FencingToken, Incarnation, InvalidationOffset, MessageOffset, Millis, NodeId,
    Request, RequestKey, Revision, Salt, SecretHash, SessionId, SessionNumber, WaiterId,
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
        _ => match later(name, args)? {
            Some(command) => command,
            None => return Ok(None),
        },
    };
    args.reject_next()?;
    Ok(Some(Request { idempotency, command }))
}

/// Sessions, messages and invalidations.
fn later(name: &str, args: &mut ArgumentConsumer<'_>) -> Parsed<Option<Command>> {
    let time = |args: &mut ArgumentConsumer<'_>, key: &str| args.take_key(key).map(millis).transpose();
    let id = |word: &str| SessionId(self::word(word));
    let list = |words: Option<&str>| -> Vec<String> {
        words.into_iter().flat_map(|words| words.split('+')).map(text).collect()
    };
    Ok(Some(match name {
        // register ID [user=U] [on=NODE] [ttl=T] [metadata=M]
        "register" => Command::RegisterSession(RegisterSession {
            id: id(next(args)?),
            user: text(args.take_key("user").unwrap_or("alice")),
            socket: parsed(args, "on")?.map(NodeId),
            ttl: time(args, "ttl")?.unwrap_or(Millis(60_000)),
            metadata: args.take_key("metadata").map(text),
        }),
        // attach ID on=NODE [token=T] [ttl=T]
        "attach" => Command::AttachSession(AttachSession {
            id: id(next(args)?),
            node: NodeId(parsed(args, "on")?.ok_or("on is missing")?),
            token: args.take_key("token").map(|token| SecretHash(word(token))),
            ttl: time(args, "ttl")?.unwrap_or(Millis(60_000)),
        }),
        // report NUMBER/EPOCH... on=NODE [idle=T] [position=N] [detach=true] [count=N]
        "report" => {
            let (idle, position) = (time(args, "idle")?.unwrap_or_default(), parsed(args, "position")?);
            let (detach, count) = (parsed(args, "detach")?.unwrap_or(false), parsed(args, "count")?);
            let node = NodeId(parsed(args, "on")?.unwrap_or(1));
            let mut updates = Vec::new();
            for which in rest(args) {
                let (number, epoch) = which.split_once('/').unwrap_or((which, "1"));
                updates.push(SessionUpdate {
                    number: SessionNumber(number.parse()?),
                    epoch: epoch.parse()?,
                    idle,
                    position: MessageOffset(position.unwrap_or(0)),
                    detach,
                });
            }
            let all = updates.len() * count.unwrap_or(1);
            Command::UpdateSessions(UpdateSessions {
                node,
                updates: updates.into_iter().cycle().take(all).collect(),
            })
        }
        "end" => Command::EndSession(EndSession {
            number: SessionNumber(next(args)?.parse()?),
            epoch: parsed(args, "epoch")?,
            cause: match args.take_key("cause") {
                Some("expired") => SessionEnd::Expired,
                _ => SessionEnd::Closed,
            },
        }),
        // migrate NUMBER [to=NODE] [epoch=N] token=T [valid=T]
        "migrate" => {
            let token = args.take_key("token").unwrap_or("token");
            Command::MigrateSession(MigrateSession {
                number: SessionNumber(next(args)?.parse()?),
                epoch: parsed(args, "epoch")?,
                target: parsed(args, "to")?.map(NodeId),
                token: SecretHash(word(token)),
                salt: Salt(word(token)),
                valid: time(args, "valid")?.unwrap_or(Millis(30_000)),
            })
        }
        "rotate" => Command::RotateSession(RotateSession {
            id: id(next(args)?),
            next: id(next(args)?),
            overlap: time(args, "overlap")?.unwrap_or(Millis(60_000)),
        }),
        "describe" => Command::DescribeSession(DescribeSession {
            number: SessionNumber(next(args)?.parse()?),
            metadata: args.next_pos().map(text),
        }),
        // subscribe NUMBER [epoch=N] [add=A+B] [remove=C]
        "subscribe" => Command::SubscribeSession(SubscribeSession {
            number: SessionNumber(next(args)?.parse()?),
            epoch: parsed(args, "epoch")?.unwrap_or(1),
            add: list(args.take_key("add")),
            remove: list(args.take_key("remove")),
        }),
        // publish session/7/DATA user/alice/DATA channel/news/DATA [from=N]
        "publish" => {
            let from = parsed(args, "from")?.map(SessionNumber);
            let mut messages = Vec::new();
            for part in rest(args) {
                let (to, data) = match part.split('/').collect::<Vec<_>>()[..] {
                    ["session", number, data] => (Recipient::Session(SessionNumber(number.parse()?)), data),
                    ["user", user, data] => (Recipient::User(text(user)), data),
                    ["channel", name, data] => (Recipient::Channel(text(name)), data),
                    _ => return Err(format!("cannot read {part}").into()),
                };
                messages.push(NewMessage { to, data: text(data), from });
            }
            Command::PublishMessages(PublishMessages { messages })
        }
        // bind SESSION KEYS... as acquire
        "bind" => {
            let session = id(next(args)?);
            let Command::AcquireLock(acquire) = acquire(args)? else { unreachable!("it is an acquire") };
            Command::AcquireLockInSession(AcquireLockInSession { acquire, session })
        }
        "drain" => Command::DrainNode(DrainNode {
            id: NodeId(next(args)?.parse()?),
            rate_per_s: parsed(args, "rate")?.unwrap_or(50),
        }),
        "resume" => Command::ResumeNode(ResumeNode { id: NodeId(next(args)?.parse()?) }),
        // invalidate PATTERN... [tags=A+B] [on=NODE] [waited=true] [count=N]
        "invalidate" => {
            let tags = list(args.take_key("tags"));
            let (origin, waited_for) =
                (NodeId(parsed(args, "on")?.unwrap_or(1)), parsed(args, "waited")?.unwrap_or(false));
            let count = parsed(args, "count")?.unwrap_or(1);
            let patterns: Vec<_> = rest(args).into_iter().map(text).collect();
            let all = patterns.len() * count;
            let patterns = patterns.into_iter().cycle().take(all).collect();
            Command::Invalidate(Invalidate { patterns, tags, origin, waited_for })
        }
        "cleared" => Command::ReportCleared(ReportCleared {
            node: NodeId(next(args)?.parse()?),
            next: InvalidationOffset(next(args)?.parse()?),
        }),
        _ => return Ok(None),
    }))
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
