//! From the configuration to databases.

use ovncp_ovn::database::DatabaseSettings;
use ovncp_ovn::trace::TraceTls;
use ovncp_ovn::wire::endpoint::Endpoint;
use ovncp_ovn::wire::tls::TlsSettings;

use crate::config::Config;
use crate::config::value::OvsdbEndpoint;

/// The northbound database, if servers are named.
pub(super) fn northbound(config: &Config) -> Option<DatabaseSettings> {
    database("OVN_Northbound", &config.ovn.northbound.endpoints, config)
}

/// The southbound database, if servers are named.
pub(super) fn southbound(config: &Config) -> Option<DatabaseSettings> {
    database("OVN_Southbound", &config.ovn.southbound.endpoints, config)
}

/// Certificates for the databases. That all are there where one is, or an endpoint needs them, was checked when the
/// configuration was read.
fn tls(config: &Config) -> Option<TlsSettings> {
    let tls = &config.ovn.tls;
    Some(TlsSettings {
        certificate: tls.certificate.clone()?,
        private_key: tls.private_key.clone()?,
        authority: tls.ca_certificate.clone()?,
        check_name: tls.check_name,
    })
}

/// The same for ovn-trace, which does not check names.
pub(super) fn trace_tls(config: &Config) -> Option<TraceTls> {
    let tls = tls(config)?;
    Some(TraceTls {
        private_key: tls.private_key,
        certificate: tls.certificate,
        ca_certificate: tls.authority,
    })
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
        tls: tls(config),
        leader_only: true,
        tables: None,
        probe_interval: config.ovn.pool.probe_interval,
    })
}
