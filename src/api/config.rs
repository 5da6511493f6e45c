//! Settings of the HTTP edge.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::config::section::section;
use crate::config::value::Secret;

section! {
    /// The HTTP listener, its metrics port and its limits.
    pub struct ServerConfig, file ServerFile {
        /// Address that the HTTP, metrics and peer listeners bind.
        listen: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED), env "OVNCP_LISTEN_ADDRESS";
        /// Port of the HTTP and WebSocket listener; 0 takes a free one.
        port: u16 = 8080, env "NODE_PORT";
        /// Where clients reach the cluster, such as `https://ovncp.example.com`: what a client that is asked to move is
        /// told. Without it, that is the address of the node it is sent to.
        public_url: Option<String> = None, env "OVNCP_PUBLIC_URL";
        /// Port of `/metrics`; 0 takes a free one.
        metrics_port: u16 = 9090, env "METRICS_PORT", env "OVNCP_METRICS_PORT";
        /// Bearer token of administrators (forced release, removal, transfer). Without it these calls are
        /// accepted from loopback only.
        admin_token: Option<Secret> = None, env "OVNCP_ADMIN_TOKEN";
        /// Requests that may be in progress at once, waiting lock requests included; more wait 100 ms, then are answered 429.
        concurrent_requests_max: usize = 20_000, env "OVNCP_CONCURRENT_REQUESTS_MAX";
        /// Connections that may be open at once; more wait in the listen queue.
        connections_max: usize = 20_000, env "OVNCP_CONNECTIONS_MAX";
        /// Time to send the head of a request, and time a kept-alive connection may idle before its next one.
        header_timeout: Duration = Duration::from_secs(75), env "OVNCP_HEADER_TIMEOUT";
        /// Time to send the body of a request.
        body_timeout: Duration = Duration::from_secs(10), env "OVNCP_BODY_TIMEOUT";
        /// How long a client may take nothing of what it is sent before its connection is closed.
        write_timeout: Duration = Duration::from_secs(30), env "OVNCP_WRITE_TIMEOUT";
        /// How long a write may take to be replicated before it is answered 504.
        propose_timeout: Duration = Duration::from_secs(5), env "OVNCP_PROPOSE_TIMEOUT";
        /// How long a read may wait for a leader to confirm it before it is answered 503.
        read_timeout: Duration = Duration::from_millis(1_500), env "OVNCP_READ_TIMEOUT";
        /// How long a stopping node goes on answering while `/health/ready` says that it drains: longer than load
        /// balancers need to see it and to send nobody here any more.
        drain_delay: Duration = Duration::from_secs(1), env "OVNCP_DRAIN_DELAY";
        /// How long a stopping node lets requests finish after that.
        shutdown_timeout: Duration = Duration::from_secs(10), env "OVNCP_SHUTDOWN_TIMEOUT";
    }
}
