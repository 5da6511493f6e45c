//! What a member of a clustered database says of its cluster (`cluster/status`).

/// One member's view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterStatus {
    /// `cluster member` once it has joined.
    pub status: String,
    /// `leader`, `follower` or `candidate`.
    pub role: String,
    /// The term it knows.
    pub term: u64,
    /// Whom it follows: `self`, the short id of another member, or `unknown`.
    pub leader: String,
    /// Its own short id.
    pub id: String,
}

impl ClusterStatus {
    /// It has joined and may serve.
    pub fn is_member(&self) -> bool {
        self.status == "cluster member"
    }

    /// It believes to lead.
    pub fn is_leader(&self) -> bool {
        self.role == "leader"
    }

    /// It knows who leads.
    pub fn knows_leader(&self) -> bool {
        !matches!(self.leader.as_str(), "" | "unknown")
    }

    pub(super) fn parse(text: &str) -> ClusterStatus {
        let mut lines = text.lines();
        let id = lines.next().unwrap_or_default().trim().to_owned();
        let mut status = ClusterStatus { id, ..ClusterStatus::default() };
        for line in lines {
            let Some((name, value)) = line.split_once(": ") else { continue };
            let value = value.trim().to_owned();
            match name {
                "Status" => status.status = value,
                "Role" => status.role = value,
                "Term" => status.term = value.parse().unwrap_or_default(),
                "Leader" => status.leader = value,
                _ => {}
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_from_the_text() {
        let text = "82e2\nName: OVN_Northbound\nCluster ID: 5ab1 (5ab1c-1)\nServer ID: 82e2 (82e2-9)\n\
            Address: tcp:127.0.0.1:16661\nStatus: cluster member\nRole: follower\nTerm: 12\nLeader: 4f0a\nVote: 4f0a\n\
            \nElection timer: 1000\nServers:\n    4f0a (4f0a at tcp:127.0.0.1:16662) last msg 20 ms ago\n";
        let status = ClusterStatus::parse(text);
        assert_eq!((status.id.as_str(), status.role.as_str(), status.term), ("82e2", "follower", 12));
        assert!(status.is_member() && !status.is_leader() && status.knows_leader());
        assert!(!ClusterStatus::parse("").is_member());
    }
}
