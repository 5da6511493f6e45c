//! Faults: what they are called, who makes them, and what a fault must be able to prove about itself.
//!
//! A fault is started, lasts a while, and is healed; several may be at work at once. Each family of faults is a
//! file with a `start` that gives a `Running` state and a `heal` that takes it back and says what was *measured*:
//! frames that were dropped, a process seen stopped, an error that was injected. A fault that shows no effect makes
//! the verdict of its run "unknown". [`schedule`] says when, [`conductor`] does it and writes it down, [`Env`] is
//! what faults work on.

pub mod clock;
pub mod conductor;
mod disk;
mod drain;
mod env;
pub(crate) mod membership;
mod network;
mod process;
pub mod schedule;

use std::time::Duration;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use env::{Env, Pick};

use crate::cluster::NodeError;

/// The faults, by name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum NemesisKind {
    /// One node is cut off from the others.
    PartitionOne,
    /// The leader is cut off from the others.
    PartitionLeader,
    /// Two halves do not hear each other.
    PartitionHalves,
    /// One node does not hear the others, or is not heard by them.
    PartitionOneway,
    /// Two sides do not hear each other; one node hears both.
    PartitionBridge,
    /// Frames are lost.
    Loss,
    /// Frames come late.
    Delay,
    /// Frames come twice.
    Duplicate,
    /// Frames overtake each other.
    Reorder,
    /// Links are slow.
    Rate,
    /// kill -9 of one node.
    KillOne,
    /// kill -9 of the leader.
    KillLeader,
    /// kill -9 of all nodes at once.
    KillAll,
    /// One node stops running for a while and does not know it.
    Pause,
    /// One node loses power: what was not synced is gone.
    PowerOne,
    /// All nodes lose power at once.
    PowerAll,
    /// fsync fails.
    FsyncEio,
    /// fsync takes long.
    FsyncSlow,
    /// A disk is full.
    DiskFull,
    /// A bit of a stopped node's files is turned round.
    BitFlip,
    /// A file of a stopped node is cut off.
    Truncate,
    /// A wall clock jumps.
    ClockJump,
    /// A wall clock runs too fast or too slow.
    ClockDrift,
    /// Nodes join, leave, and are replaced by ones with an empty disk.
    Membership,
    /// Two nodes join, and the change that makes them voters is cut in two while it is under way.
    MembershipCut,
    /// SIGTERM and start, one node after the other.
    Rolling,
    /// A node is emptied of its sessions and taken back.
    Drain,
}

/// Why a fault is not made.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Never on this machine, or never in this run.
    #[error("not possible: {0}")]
    NotPossible(String),
    /// Not while other faults are at work.
    #[error("not now: {0}")]
    NotNow(String),
    /// The harness could not do what it tried.
    #[error("{0}")]
    Failed(String),
}

impl From<NodeError> for FaultError {
    fn from(error: NodeError) -> Self {
        use std::error::Error;
        let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Self::Failed(format!("{error}{cause}"))
    }
}

/// A fault that has begun.
#[derive(Debug)]
pub struct Begun<S> {
    /// Nodes that it harms.
    pub targets: Vec<String>,
    /// What exactly it does, for people.
    pub detail: Value,
    /// What its `heal` needs.
    pub state: S,
}

/// What a fault did, as measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Whether the measurements prove that the fault was there.
    pub effective: bool,
    /// The measurements. `findings` in it, if any, are faults of the product that the fault itself saw.
    pub measured: Value,
}

/// A fault at work, by family.
#[derive(Debug)]
pub enum Running {
    /// See [`network`].
    Network(network::Running),
    /// See [`process`].
    Process(process::Running),
    /// See [`membership`].
    Membership(membership::Running),
    /// See [`disk`].
    Disk(disk::Running),
    /// See [`clock`].
    Clock(clock::Running),
    /// See [`drain`].
    Drain(drain::Running),
}

impl NemesisKind {
    /// All of them, in the order in which they are listed.
    pub fn all() -> &'static [Self] {
        <Self as clap::ValueEnum>::value_variants()
    }

    /// The name, as on the command line and in the history.
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How long it lasts: at least, at most.
    pub fn lasts(self) -> (Duration, Duration) {
        let (least, most) = match self {
            Self::PartitionOne | Self::PartitionLeader | Self::PartitionHalves => (1_500, 6_000),
            Self::PartitionOneway | Self::PartitionBridge => (1_500, 6_000),
            Self::Loss | Self::Delay | Self::Duplicate | Self::Reorder | Self::Rate => (2_000, 6_000),
            Self::KillOne | Self::KillLeader => (500, 4_000),
            Self::KillAll | Self::PowerAll => (200, 1_500),
            Self::Pause => (500, 5_000),
            Self::PowerOne | Self::BitFlip | Self::Truncate => (500, 4_000),
            Self::FsyncEio | Self::FsyncSlow | Self::DiskFull => (2_000, 5_000),
            Self::ClockJump | Self::ClockDrift => (2_000, 6_000),
            Self::Membership => (2_000, 6_000),
            // Two sides take some seconds to elect somebody, one of them with a node that has just been started.
            Self::MembershipCut => (4_000, 8_000),
            Self::Rolling => (0, 0),
            Self::Drain => (2_000, 6_000),
        };
        (Duration::from_millis(least), Duration::from_millis(most))
    }

    /// Whether healing it waits for nodes that need a working cluster.
    pub fn heals_slowly(self) -> bool {
        matches!(
            self,
            Self::BitFlip
                | Self::Truncate
                | Self::DiskFull
                | Self::FsyncEio
                | Self::MembershipCut
                | Self::Drain
        )
    }

    /// Says why it can never be made in this run, if so.
    pub fn possible(self, env: &Env) -> Result<(), String> {
        match Family::of(self) {
            Family::Network => network::possible(self, env),
            Family::Process | Family::Drain => Ok(()),
            Family::Membership => membership::possible(self, env),
            Family::Disk => disk::possible(self, env),
            Family::Clock => clock::possible(env),
        }
    }

    /// Makes it. Chance comes from `rng` only.
    pub async fn start(self, env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
        match Family::of(self) {
            Family::Network => Ok(network::start(self, env, rng).await?.map(Running::Network)),
            Family::Process => Ok(process::start(self, env, rng).await?.map(Running::Process)),
            Family::Membership => Ok(membership::start(self, env, rng).await?.map(Running::Membership)),
            Family::Disk => Ok(disk::start(self, env, rng).await?.map(Running::Disk)),
            Family::Clock => Ok(clock::start(self, env, rng).await?.map(Running::Clock)),
            Family::Drain => Ok(drain::start(env, rng).await?.map(Running::Drain)),
        }
    }
}

impl Running {
    /// Whether it can be healed without waiting for something that other faults may hold up.
    async fn is_settled(&self, env: &Env) -> bool {
        match self {
            Self::Membership(running) => membership::is_settled(running, env).await,
            Self::Drain(running) => drain::is_settled(running, env).await,
            _ => true,
        }
    }

    /// Whether it has shown an effect, where that can be seen before it is healed.
    pub fn shows_effect(&self, env: &Env) -> bool {
        match self {
            Self::Network(running) => network::shows_effect(running, env),
            _ => true,
        }
    }

    /// Takes the fault back and measures what it did.
    pub async fn heal(self, env: &mut Env) -> Result<Effect, FaultError> {
        match self {
            Self::Network(running) => Ok(network::heal(running, env)),
            Self::Process(running) => process::heal(running, env).await,
            Self::Membership(running) => membership::heal(running, env).await,
            Self::Disk(running) => disk::heal(running, env).await,
            Self::Clock(running) => clock::heal(running, env).await,
            Self::Drain(running) => drain::heal(running, env).await,
        }
    }
}

impl<S> Begun<S> {
    fn map<T>(self, change: impl FnOnce(S) -> T) -> Begun<T> {
        Begun { targets: self.targets, detail: self.detail, state: change(self.state) }
    }
}

/// Which file makes a fault.
enum Family {
    Network,
    Process,
    Disk,
    Clock,
    Membership,
    Drain,
}

impl Family {
    fn of(kind: NemesisKind) -> Self {
        use NemesisKind as K;
        match kind {
            K::PartitionOne | K::PartitionLeader | K::PartitionHalves | K::PartitionOneway => Self::Network,
            K::PartitionBridge | K::Loss | K::Delay | K::Duplicate | K::Reorder | K::Rate => Self::Network,
            K::KillOne | K::KillLeader | K::KillAll | K::Pause | K::Rolling => Self::Process,
            K::PowerOne | K::PowerAll | K::FsyncEio | K::FsyncSlow => Self::Disk,
            K::DiskFull | K::BitFlip | K::Truncate => Self::Disk,
            K::ClockJump | K::ClockDrift => Self::Clock,
            K::Drain => Self::Drain,
            K::Membership | K::MembershipCut => Self::Membership,
        }
    }
}
