//! TLS as OVN uses it: both sides show a certificate that one authority has signed.
//!
//! OVS' own programs check that a certificate comes from the authority and do not look at the name in it: a server
//! is found under many names, and members of a cluster share one certificate. By default we do the same;
//! [`TlsSettings::check_name`] asks for more. The provider of cryptography is *ring*.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};

/// Files of a client: what it shows and whom it believes. They are read again for each connection, so new ones are
/// used from the next connection on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM: our certificate, with intermediate ones behind it.
    pub certificate: PathBuf,
    /// PEM: the private key of our certificate.
    pub private_key: PathBuf,
    /// PEM: certificates of the authorities that sign servers.
    pub authority: PathBuf,
    /// Whether a server's certificate must also name the host of its endpoint.
    pub check_name: bool,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is no PEM file.
    #[error("read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    /// Certificate, key or authority are refused.
    #[error("the TLS files do not fit together")]
    Refused(#[from] rustls::Error),
}

impl TlsSettings {
    /// Reads the files.
    pub(crate) fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate)?;
        }
        let roots = Arc::new(roots);
        let key = PrivateKeyDer::from_pem_file(&self.private_key)
            .map_err(|source| TlsError::File { path: self.private_key.clone(), source })?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if self.check_name {
            builder.with_root_certificates(roots)
        } else {
            builder.dangerous().with_custom_certificate_verifier(AnyName::new(roots, provider)?)
        };
        Ok(Arc::new(builder.with_client_auth_cert(certificates(&self.certificate)?, key)?))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    if found.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(found) }
}

/// Believes a server whose certificate the authority has signed, whatever name it carries.
#[derive(Debug)]
struct AnyName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    /// Answers what does not depend on names.
    strict: Arc<WebPkiServerVerifier>,
}

impl AnyName {
    fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Result<Arc<Self>, TlsError> {
        let strict = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Arc::new(Self { roots, provider, strict }))
    }
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.strict.root_hint_subjects()
    }
}
