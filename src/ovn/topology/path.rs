//! The shortest way between two ports.

use std::collections::VecDeque;

use super::{End, Graph};

/// A way from one port to another: switches, routers and physical networks, and the ports between them.
///
/// It says how things are connected, not what becomes of a packet: routes, policies and ACLs decide that, and a trace
/// shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// From the first port to the last.
    pub hops: Vec<Hop>,
    /// Links that the search looked at: at most each one from both its ends.
    pub looked_at: usize,
}

/// One step of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Position in [`Graph::ports`].
    Port(usize),
    /// Position in [`Graph::nodes`].
    Node(usize),
}

/// Why there is no way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPath {
    /// Nothing connects them.
    NotConnected,
    /// There is one through ports that are disabled: these (positions in [`Graph::ports`]), on the shortest one.
    Disabled(Vec<usize>),
}

pub(super) fn find(graph: &Graph, from: usize, to: usize) -> Result<Path, NoPath> {
    let ends_enabled = [from, to].iter().all(|port| graph.ports[*port].enabled);
    if ends_enabled && let Some(path) = search(graph, from, to, false) {
        return Ok(path);
    }
    let Some(path) = search(graph, from, to, true) else { return Err(NoPath::NotConnected) };
    let disabled = path.hops.iter().filter_map(|hop| match hop {
        Hop::Port(port) if !graph.ports[*port].enabled => Some(*port),
        _ => None,
    });
    Err(NoPath::Disabled(disabled.collect()))
}

/// How a node was reached: out of one end, into the other.
#[derive(Clone, Copy)]
struct Step {
    out: End,
    into: End,
}

fn search(graph: &Graph, from: usize, to: usize, through_disabled: bool) -> Option<Path> {
    let (start, goal) = (graph.ports[from].node, graph.ports[to].node);
    let mut reached: Vec<Option<Step>> = vec![None; graph.nodes.len()];
    let mut queue = VecDeque::from([start]);
    let mut looked_at = 0;
    while reached[goal].is_none() && start != goal {
        let node = queue.pop_front()?;
        for position in &graph.around[node] {
            looked_at += 1;
            let link = &graph.links[*position];
            if !through_disabled && !graph.is_enabled(link) {
                continue;
            }
            // A switch may have two ports on one network, or a router be its own peer.
            let (out, into) =
                if link.from.node == node { (link.from, link.to) } else { (link.to, link.from) };
            if into.node != start && reached[into.node].is_none() {
                reached[into.node] = Some(Step { out, into });
                queue.push_back(into.node);
            }
        }
    }
    let mut steps = Vec::new();
    let mut node = goal;
    while node != start {
        let step = reached[node]?;
        steps.push(step);
        node = step.out.node;
    }
    steps.reverse();
    Some(Path { hops: hops(from, to, start, &steps), looked_at })
}

fn hops(from: usize, to: usize, start: usize, steps: &[Step]) -> Vec<Hop> {
    if from == to {
        return vec![Hop::Port(from)];
    }
    let mut hops = vec![Hop::Port(from), Hop::Node(start)];
    for step in steps {
        hops.extend(step.out.port.map(Hop::Port));
        hops.extend(step.into.port.map(Hop::Port));
        hops.push(Hop::Node(step.into.node));
    }
    hops.push(Hop::Port(to));
    // A port that is itself the end of the link is not crossed twice: nothing goes through its switch or router.
    if hops.len() > 3 && hops[0] == hops[2] {
        hops.drain(..2);
    }
    if let [.., last_port, _, end] = hops.as_slice()
        && last_port == end
    {
        hops.truncate(hops.len() - 2);
    }
    hops
}
