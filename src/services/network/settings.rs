//! From the configuration to databases.

use ovncp_ovn::database::DatabaseSettings;
use ovncp_ovn::trace::TraceTls;
use ovncp_ovn::wire::endpoint::Endpoint;

use crate::config::Config;
use crate::config::value::OvsdbEndpoint;

/// Silence after which a server is asked whether it is there; OVN's own default.
const PROBE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

/// The northbound database, if servers are named.
pub(super) fn northbound(config: &Config) -> Option<DatabaseSettings> {
    database("OVN_Northbound", &config.ovn.northbound.endpoints, config)
}

/// The southbound database, if servers are named.
pub(super) fn southbound(config: &Config) -> Option<DatabaseSettings> {
    database("OVN_Southbound", &config.ovn.southbound.endpoints, config)
}

/// Certificates for ovn-trace.
pub(super) fn trace_tls(_config: &Config) -> Option<TraceTls> {
    None
}

fn database(name: &'static str, endpoints: &[OvsdbEndpoint], config: &Config) -> Option<DatabaseSettings> {
    // Their form was checked when the configuration was read.
    let endpoints: Vec<Endpoint> = endpoints.iter().filter_map(|endpoint| endpoint.0.parse().ok()).collect();
    if endpoints.is_empty() {
        return None;
    }
    Some(DatabaseSettings {
        name,
        endpoints,
        connect_timeout: config.ovn.pool.connection_timeout,
        tls: None,
        leader_only: true,
        tables: None,
        probe_interval: PROBE_INTERVAL,
    })
}
