//! Registers that are linearizable.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{Answer, Ask, World};

/// Operations on one register before its clients move to a new one.
const OPERATIONS_PER_KEY: u64 = 250;

/// Registers in one log.
#[derive(Debug)]
pub struct Registers {
    groups: u64,
    asked: Vec<u64>,
    next_value: i64,
    log_index: u64,
    registers: BTreeMap<String, (i64, u64)>,
    /// What each client last saw: key, value, revision.
    seen: BTreeMap<u64, (String, i64, u64)>,
}

impl Registers {
    /// Used by clients in that many groups, each group with a register of its own at any time.
    pub fn new(groups: u64) -> Self {
        Self {
            groups,
            asked: vec![0; groups as usize],
            next_value: 1,
            log_index: 10,
            registers: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn write(&mut self, key: &str, value: i64) -> u64 {
        self.log_index += 1;
        self.registers.insert(key.to_owned(), (value, self.log_index));
        self.log_index
    }
}

impl World for Registers {
    fn ask(&mut self, client: u64, _: u64, rng: &mut StdRng) -> Ask {
        let group = client % self.groups;
        let asked = &mut self.asked[group as usize];
        let key = format!("r{}", *asked / OPERATIONS_PER_KEY * self.groups + group);
        *asked += 1;
        self.next_value += 1;
        let to = self.next_value;
        let seen = self.seen.get(&client).filter(|(of, ..)| *of == key);
        let (f, value) = match (rng.random_range(0..10), seen) {
            (0..5, _) => ("read", Value::Null),
            (5, _) => ("create", json!({"to": to})),
            (6..8, Some((_, from, revision))) => {
                ("cas", json!({"from": from, "to": to, "revision": revision}))
            }
            _ => ("write", json!({"value": to})),
        };
        Ask { f, key, value, patience_ns: 0 }
    }

    fn apply(&mut self, _: u64, ask: &Ask, _: u64) -> Option<Answer> {
        let now = self.registers.get(&ask.key).copied();
        let number = |name: &str| ask.value.get(name).and_then(Value::as_i64).unwrap_or_default();
        let answer = match ask.f {
            "read" => Answer::ok(json!({"value": now.map(|now| now.0), "revision": now.map(|now| now.1)})),
            "write" => {
                let value = number("value");
                Answer::ok(json!({"value": value, "revision": self.write(&ask.key, value)}))
            }
            "create" if now.is_none() => {
                Answer::ok(json!({"to": number("to"), "revision": self.write(&ask.key, number("to"))}))
            }
            "cas" if now.is_some_and(|now| now.1 as i64 == number("revision")) => Answer::ok(
                json!({"from": number("from"), "to": number("to"), "revision": self.write(&ask.key, number("to"))}),
            ),
            _ => Answer::fail("revision_mismatch"),
        };
        Some(answer)
    }

    fn learn(&mut self, client: u64, ask: &Ask, answer: Option<&Answer>, _: u64) {
        let Some(answer) = answer else { return };
        let value = answer.value.get("value").or_else(|| answer.value.get("to")).and_then(Value::as_i64);
        let revision = answer.value.get("revision").and_then(Value::as_u64);
        if let (Some(value), Some(revision)) = (value, revision) {
            self.seen.insert(client, (ask.key.clone(), value, revision));
        }
    }

    fn at_the_end(&self) -> Vec<(Ask, Answer)> {
        let read = |(key, (value, revision)): (&String, &(i64, u64))| {
            let ask = Ask { f: "final-read", key: key.clone(), value: Value::Null, patience_ns: 0 };
            (ask, Answer::ok(json!({"value": value, "revision": revision})))
        };
        self.registers.iter().map(read).collect()
    }
}
