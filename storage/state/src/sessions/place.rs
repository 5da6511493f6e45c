//! Where a session should go: rendezvous hashing with bounded load.
//!
//! Each node has a score for a key, and the highest one wins. So a node that comes or goes moves only the sessions
//! that it takes or had. A node that has more than its share already is passed over for the next best.

use alloc::vec::Vec;

use twox_hash::XxHash3_128;

use crate::command::NodeStatus;
use crate::{NodeId, State};

/// A node has at most so many quarters of the mean: 1.25 times as much.
const SHARE_QUARTERS: u64 = 5;

fn score(node: &str, key: &[u8]) -> u128 {
    // No name has this byte.
    XxHash3_128::oneshot(&[node.as_bytes(), &[0xff], key].concat())
}

impl State {
    /// The active node that a session with this key should go to, other than `without`. None when there is none.
    pub fn place(&self, key: &[u8], without: Option<NodeId>) -> Option<NodeId> {
        let fits = |id: NodeId| Some(id) != without && self.sessions.drains.get(&id).is_none();
        let nodes: Vec<_> =
            self.live_nodes().filter(|node| node.status == NodeStatus::Active && fits(node.id)).collect();
        let known: u64 = nodes.iter().map(|node| self.sessions.load(node.id).known).sum();
        let most = (SHARE_QUARTERS * (known + 1)).div_ceil(4 * (nodes.len() as u64).max(1));
        let open = nodes.into_iter().filter(|node| self.sessions.load(node.id).known < most);
        open.max_by_key(|node| (score(&node.name, key), node.id)).map(|node| node.id)
    }
}
