//! ovncp: edges, services, adapters and wiring around the Raft group.
