//! TLS for `https`, verified against the machine's root certificates.

use std::sync::{Arc, OnceLock};

use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use super::{NetError, Stream};

/// The machine's root certificates, read when first needed.
#[derive(Clone, Default)]
pub(super) struct Roots(Arc<OnceLock<Result<TlsConnector, NetError>>>);

impl Roots {
    pub(super) fn connector(&self) -> Result<TlsConnector, NetError> {
        self.0.get_or_init(load).clone()
    }
}

fn load() -> Result<TlsConnector, NetError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(NetError::own(
            "failed to verify https: no root certificates here; set SSL_CERT_FILE, or probe `from: runner` where there are some",
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| NetError::own(format!("failed to set up TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

pub(super) async fn handshake(connector: &TlsConnector, host: &str, stream: Stream) -> Result<Stream, NetError> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let name =
        ServerName::try_from(bare.to_owned()).map_err(|_| NetError::peer(format!("`{host}` cannot be the name in a certificate")))?;
    let stream = connector.connect(name, stream).await.map_err(|error| NetError::io(&format!("TLS with {host}"), &error))?;
    Ok(Box::new(stream))
}
