//! Settings of PostgreSQL and OVN: read, checked and kept for the parts that use them.

use std::path::PathBuf;
use std::time::Duration;

use super::layers::Layers;
use super::section::section;
use super::value::{OvsdbEndpoint, Secret, SecretUrl};

section! {
    /// One PostgreSQL server.
    pub struct DatabaseServer, file DatabaseServerFile {
        /// Host name or IP address.
        host: Option<String> = None;
        /// Port.
        port: u16 = 5432;
        /// Name of the database.
        database: Option<String> = None;
        /// User.
        user: Option<String> = None;
        /// Password.
        password: Option<Secret> = None;
    }
}

section! {
    /// PostgreSQL pool.
    pub struct DatabasePool, file DatabasePoolFile {
        /// Connection URL; instead of `database.primary`.
        url: Option<SecretUrl> = None, env "DATABASE_URL";
        /// Connections that may be open at once.
        max_open_connections: u32 = 25, env "DB_MAX_OPEN_CONNECTIONS";
        /// Connections kept open while idle.
        max_idle_connections: u32 = 5, env "DB_MAX_IDLE_CONNECTIONS";
        /// Age at which a connection is replaced.
        connection_max_lifetime: Duration = Duration::from_secs(60 * 60), env "DB_CONNECTION_MAX_LIFETIME";
    }
}

/// PostgreSQL: where and how many connections.
#[derive(Clone, Debug, Default)]
pub struct DatabaseConfig {
    /// URL and pool.
    pub pool: DatabasePool,
    /// The server that takes writes.
    pub primary: Option<DatabaseServer>,
    /// Servers that take reads.
    pub replicas: Vec<DatabaseServer>,
}

section! {
    /// The OVN northbound database: what the network should be.
    pub struct NorthboundConfig, file NorthboundFile {
        /// Its servers.
        endpoints: Vec<OvsdbEndpoint> = Vec::new(), env "OVN_NORTHBOUND_DB";
    }
}

section! {
    /// The OVN southbound database: what the network is.
    pub struct SouthboundConfig, file SouthboundFile {
        /// Its servers.
        endpoints: Vec<OvsdbEndpoint> = Vec::new(), env "OVN_SOUTHBOUND_DB";
    }
}

section! {
    /// OVN connections.
    pub struct OvnPool, file OvnPoolFile {
        /// Connections that may be open at once.
        max_connections: u32 = 10, env "OVN_MAX_CONNECTIONS";
        /// Time to connect.
        connection_timeout: Duration = Duration::from_secs(30), env "OVN_CONNECTION_TIMEOUT";
        /// Idle time after which a connection is closed.
        connection_idle_timeout: Duration = Duration::from_secs(5 * 60);
        /// Age at which a connection is replaced.
        connection_lifetime: Duration = Duration::from_secs(30 * 60);
        /// Silence after which a server is asked whether it is there; after twice as long another is tried. `0s`: never.
        probe_interval: Duration = Duration::from_secs(5), env "OVN_PROBE_INTERVAL";
    }
}

section! {
    /// Certificates for `ssl:` endpoints. OVSDB servers want one of their clients too.
    pub struct OvnTls, file OvnTlsFile {
        /// Our private key (PEM).
        private_key: Option<PathBuf> = None, env "OVN_PRIVATE_KEY";
        /// Our certificate (PEM).
        certificate: Option<PathBuf> = None, env "OVN_CERTIFICATE";
        /// The authorities that sign the servers' certificates (PEM).
        ca_certificate: Option<PathBuf> = None, env "OVN_CA_CERTIFICATE";
        /// Whether a server's certificate must name its host. Off as in OVN's own programs: ovs-pki names no hosts.
        check_name: bool = false, env "OVN_TLS_CHECK_NAME";
    }
}

/// OVN: where and how many connections.
#[derive(Clone, Debug, Default)]
pub struct OvnConfig {
    /// Limits and timeouts.
    pub pool: OvnPool,
    /// Certificates.
    pub tls: OvnTls,
    /// The northbound database.
    pub northbound: NorthboundConfig,
    /// The southbound database.
    pub southbound: SouthboundConfig,
}

/// `database:` in the file. Flattened by hand: serde's `flatten` would lose the positions.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DatabaseFile {
    primary: Option<DatabaseServerFile>,
    replicas: Option<Vec<DatabaseServerFile>>,
    url: Option<serde_saphyr::Spanned<String>>,
    max_open_connections: Option<serde_saphyr::Spanned<String>>,
    max_idle_connections: Option<serde_saphyr::Spanned<String>>,
    connection_max_lifetime: Option<serde_saphyr::Spanned<String>>,
}

/// `ovn:` in the file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OvnFile {
    northbound: Option<NorthboundFile>,
    southbound: Option<SouthboundFile>,
    max_connections: Option<serde_saphyr::Spanned<String>>,
    connection_timeout: Option<serde_saphyr::Spanned<String>>,
    connection_idle_timeout: Option<serde_saphyr::Spanned<String>>,
    connection_lifetime: Option<serde_saphyr::Spanned<String>>,
    probe_interval: Option<serde_saphyr::Spanned<String>>,
    tls: Option<OvnTlsFile>,
}

impl DatabaseConfig {
    pub(crate) fn overlay(&mut self, file: Option<DatabaseFile>, layers: &mut Layers<'_>) {
        let file = file.unwrap_or_default();
        let pool = DatabasePoolFile {
            url: file.url,
            max_open_connections: file.max_open_connections,
            max_idle_connections: file.max_idle_connections,
            connection_max_lifetime: file.connection_max_lifetime,
        };
        self.pool.overlay("database", Some(pool), layers);
        if let Some(primary) = file.primary {
            let mut server = DatabaseServer::default();
            server.overlay("database.primary", Some(primary), layers);
            self.primary = Some(server);
        }
        for (rank, replica) in file.replicas.into_iter().flatten().enumerate() {
            let mut server = DatabaseServer::default();
            server.overlay(&format!("database.replicas[{rank}]"), Some(replica), layers);
            self.replicas.push(server);
        }
    }

    pub(crate) fn show(&self, out: &mut Vec<super::render::Line>) {
        self.pool.show("database", out);
        if let Some(primary) = &self.primary {
            primary.show("database.primary", out);
        }
        for (rank, replica) in self.replicas.iter().enumerate() {
            replica.show(&format!("database.replicas[{rank}]"), out);
        }
    }

    pub(crate) fn describe(out: &mut Vec<super::docs::Described>) {
        DatabasePool::describe("database", out);
        DatabaseServer::describe("database.primary", out);
        DatabaseServer::describe("database.replicas[]", out);
    }
}

impl OvnConfig {
    pub(crate) fn overlay(&mut self, file: Option<OvnFile>, layers: &mut Layers<'_>) {
        let file = file.unwrap_or_default();
        let pool = OvnPoolFile {
            max_connections: file.max_connections,
            connection_timeout: file.connection_timeout,
            connection_idle_timeout: file.connection_idle_timeout,
            connection_lifetime: file.connection_lifetime,
            probe_interval: file.probe_interval,
        };
        self.pool.overlay("ovn", Some(pool), layers);
        self.tls.overlay("ovn.tls", file.tls, layers);
        self.northbound.overlay("ovn.northbound", file.northbound, layers);
        self.southbound.overlay("ovn.southbound", file.southbound, layers);
    }

    pub(crate) fn show(&self, out: &mut Vec<super::render::Line>) {
        self.pool.show("ovn", out);
        self.tls.show("ovn.tls", out);
        self.northbound.show("ovn.northbound", out);
        self.southbound.show("ovn.southbound", out);
    }

    pub(crate) fn describe(out: &mut Vec<super::docs::Described>) {
        OvnPool::describe("ovn", out);
        OvnTls::describe("ovn.tls", out);
        NorthboundConfig::describe("ovn.northbound", out);
        SouthboundConfig::describe("ovn.southbound", out);
    }
}
