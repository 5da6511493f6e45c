//! Certificates for `ssl:` remotes, made by openssl: an authority, one for the servers and one for clients.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::error::LabError;
use super::programs;
use super::tool::run;

const VALID_DAYS: &str = "3650";

/// The files of one authority and of what it has signed, in PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// What the servers present.
    pub server: KeyPair,
    /// What a client presents.
    pub client: KeyPair,
}

/// A certificate and its private key, in PEM.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key (PKCS #8).
    pub private_key: PathBuf,
}

impl Certificates {
    /// A new authority with its certificates in `dir`, which is created; what an earlier call left there is used
    /// again. Servers are known as `address` and `localhost`.
    pub async fn create(dir: &Path, address: Ipv4Addr) -> Result<Certificates, LabError> {
        let openssl = programs::find("openssl", "openssl")?;
        fs::create_dir_all(dir).map_err(|e| LabError::io(format!("create {}", dir.display()), e))?;
        let (authority, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        let made = Certificates { authority, server: pair(dir, "server"), client: pair(dir, "client") };
        // The last file to be made.
        if made.client.certificate.is_file() {
            return Ok(made);
        }
        let settings = dir.join("openssl.cnf");
        fs::write(&settings, configuration(address))
            .map_err(|e| LabError::io(format!("write {}", settings.display()), e))?;
        let request = |extensions: &str, name: &str, out: &KeyPair| {
            let mut line: Vec<String> =
                ["req", "-x509", "-newkey", "ec", "-pkeyopt"].map(str::to_owned).into();
            line.extend(["ec_paramgen_curve:prime256v1", "-nodes", "-days", VALID_DAYS].map(str::to_owned));
            line.extend(["-config".into(), text(&settings), "-extensions".into(), extensions.into()]);
            line.extend(["-subj".into(), format!("/CN=ovncp lab {name}")]);
            line.extend(["-keyout".into(), text(&out.private_key), "-out".into(), text(&out.certificate)]);
            line
        };
        let root = KeyPair { certificate: made.authority.clone(), private_key: key.clone() };
        run(&openssl, &request("authority", "authority", &root)).await?;
        for (name, out) in [("server", &made.server), ("client", &made.client)] {
            let mut line = request("member", name, out);
            line.extend(["-CA".into(), text(&made.authority), "-CAkey".into(), text(&key)]);
            run(&openssl, &line).await?;
        }
        Ok(made)
    }
}

fn pair(dir: &Path, name: &str) -> KeyPair {
    KeyPair { certificate: dir.join(format!("{name}.pem")), private_key: dir.join(format!("{name}.key")) }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// All that the certificates say, so that the distribution's own openssl.cnf does not matter. rustls wants version
/// 3, and no authority where a server presents itself.
fn configuration(address: Ipv4Addr) -> String {
    format!(
        "[req]\ndistinguished_name = name\nprompt = no\n\
         [name]\nCN = ovncp lab\n\
         [authority]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n\
         subjectKeyIdentifier = hash\n\
         [member]\nbasicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
         extendedKeyUsage = serverAuth, clientAuth\nsubjectAltName = IP:{address}, DNS:localhost\n"
    )
}
