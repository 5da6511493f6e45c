//! What the clients of a run share: names that no two of them use, the keys in use, the resources behind locks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::RngExt;
use rand::rngs::StdRng;

use super::session::Directory;

/// Operations on one register, all kinds together: what a checker can search.
const OPERATIONS_PER_REGISTER_MAX: u32 = 300;
/// So many of them are made while the register is in use; the rest is for looking at it again later.
const OPERATIONS_IN_USE: u32 = 270;
/// And of those so many are kept for the end of the run.
const OPERATIONS_AT_END: u32 = 12;
/// Clients that work on the same registers.
const CLIENTS_PER_GROUP: u32 = 5;
/// Registers that a group works on at once.
const REGISTERS_AT_ONCE: usize = 3;

/// What the clients of a run share.
#[derive(Debug)]
pub struct Shared {
    clients: u32,
    next_value: AtomicU64,
    next_name: AtomicU64,
    registers: Mutex<Registers>,
    resources: Mutex<BTreeMap<String, u64>>,
    sessions: Mutex<Directory>,
}

#[derive(Debug)]
struct Registers {
    next: u64,
    groups: Vec<Vec<Register>>,
    retired: Vec<Register>,
}

#[derive(Clone, Copy, Debug)]
struct Register {
    number: u64,
    operations: u32,
}

impl Register {
    fn name(self) -> String {
        format!("r{}", self.number)
    }
}

impl Registers {
    fn begin(&mut self) -> Register {
        self.next += 1;
        Register { number: self.next, operations: 0 }
    }
}

impl Shared {
    /// For so many clients.
    #[must_use]
    pub fn new(clients: u32) -> Self {
        let mut registers = Registers { next: 0, groups: Vec::new(), retired: Vec::new() };
        for _ in 0..clients.div_ceil(CLIENTS_PER_GROUP).max(1) {
            let group = (0..REGISTERS_AT_ONCE).map(|_| registers.begin()).collect();
            registers.groups.push(group);
        }
        Self {
            clients,
            next_value: AtomicU64::new(1),
            next_name: AtomicU64::new(1),
            registers: Mutex::new(registers),
            resources: Mutex::new(BTreeMap::new()),
            sessions: Mutex::default(),
        }
    }

    /// A value that nobody else writes; never 0.
    pub(super) fn new_value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    /// A name that nobody else has, such as that of an owner or of a retryable request.
    pub(super) fn new_name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    /// Names of objects of which each has so many clients.
    pub(super) fn objects(&self, prefix: &str, clients_per_object: u32) -> Vec<String> {
        let count = (self.clients / clients_per_object).max(1);
        (1..=count).map(|number| format!("{prefix}{number}")).collect()
    }

    /// A register for the next operation of `client`, which counts as made.
    pub(super) fn register(&self, client: u32, rng: &mut StdRng) -> String {
        let mut registers = lock(&self.registers);
        let group = (client / CLIENTS_PER_GROUP) as usize % registers.groups.len();
        let place = rng.random_range(0..REGISTERS_AT_ONCE);
        let register = &mut registers.groups[group][place];
        register.operations += 1;
        let used = *register;
        if used.operations == OPERATIONS_IN_USE {
            let fresh = registers.begin();
            registers.groups[group][place] = fresh;
            registers.retired.push(used);
        }
        used.name()
    }

    /// A register that nobody writes to any more, for one look at it.
    pub(super) fn retired_register(&self, rng: &mut StdRng) -> Option<String> {
        let mut registers = lock(&self.registers);
        let count = registers.retired.len();
        let register = registers.retired.get_mut(rng.random_range(0..count.max(1)))?;
        if register.operations >= OPERATIONS_PER_REGISTER_MAX - OPERATIONS_AT_END {
            return None;
        }
        register.operations += 1;
        Some(register.name())
    }

    /// The sessions of all clients. Not to be held for long.
    pub(super) fn sessions(&self) -> MutexGuard<'_, Directory> {
        lock(&self.sessions)
    }

    /// Every register of the run.
    pub(super) fn all_registers(&self) -> Vec<String> {
        let registers = lock(&self.registers);
        let all = registers.retired.iter().chain(registers.groups.iter().flatten());
        all.map(|register| register.name()).collect()
    }

    /// Uses the resource behind the lock `key`: the token before, and `Err` where a fence keeps this one out.
    pub(super) fn use_resource(&self, key: &str, token: u64, fenced: bool) -> Result<Option<u64>, u64> {
        let mut resources = lock(&self.resources);
        match resources.get_mut(key) {
            Some(last) if fenced && *last > token => Err(*last),
            Some(last) => Ok(Some(std::mem::replace(last, token))),
            None => {
                resources.insert(key.to_owned(), token);
                Ok(None)
            }
        }
    }
}

/// Every critical section leaves what it guards whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_register_has_a_bounded_number_of_operations() {
        let shared = Shared::new(16);
        let mut rng = StdRng::seed_from_u64(1);
        let mut operations = BTreeMap::new();
        for number in 0..20_000 {
            *operations.entry(shared.register(number % 16, &mut rng)).or_insert(0) += 1;
            if let Some(name) = shared.retired_register(&mut rng) {
                *operations.entry(name).or_insert(0) += 1;
            }
        }
        assert!(operations.values().all(|count| *count <= OPERATIONS_PER_REGISTER_MAX - OPERATIONS_AT_END));
        assert!(operations.values().any(|count| *count > OPERATIONS_IN_USE), "nobody looks again");
        let all = shared.all_registers();
        assert!(operations.keys().all(|name| all.contains(name)));
    }

    #[test]
    fn clients_of_a_group_meet_and_groups_do_not() {
        let shared = Shared::new(10);
        let mut rng = StdRng::seed_from_u64(1);
        let mut names =
            |client| -> BTreeSet<_> { (0..50).map(|_| shared.register(client, &mut rng)).collect() };
        let (first, fifth, sixth) = (names(0), names(4), names(5));
        assert_eq!(first.len(), REGISTERS_AT_ONCE);
        assert_eq!(first, fifth);
        assert!(first.is_disjoint(&sixth));
    }

    #[test]
    fn a_fence_keeps_older_tokens_out_and_only_those() {
        let shared = Shared::new(1);
        assert_eq!(shared.use_resource("l1", 5, true), Ok(None));
        assert_eq!(shared.use_resource("l1", 5, true), Ok(Some(5)));
        assert_eq!(shared.use_resource("l1", 7, true), Ok(Some(5)));
        assert_eq!(shared.use_resource("l1", 6, true), Err(7));
        assert_eq!(shared.use_resource("l2", 6, true), Ok(None));
        assert_eq!(shared.use_resource("l1", 6, false), Ok(Some(7)));
    }
}
