//! Encrypted connections: rustls below the driver, with the same cryptography (ring) as requests to
//! others have.
//!
//! A server is always asked for a certificate that a trusted authority made for its name. libpq's
//! `require` alone doesn't ask: it encrypts for whoever answers, and so keeps nothing from somebody who
//! can stand in between. For the same reason there is no `prefer`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use percent_encoding::percent_decode_str;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Encrypted;

/// What a URL says of encryption, and the rest of it.
pub(super) struct Asked {
    /// The URL without that: the driver doesn't know all of it.
    pub(super) url: String,
    /// Whether and how connections are encrypted.
    pub(super) tls: Option<Tls>,
}

/// How connections are encrypted.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Asked {
    /// Takes `sslmode` and `sslrootcert` out of a URL. `Err` is what is wrong with them.
    pub(super) fn of(url: &str) -> Result<Self, String> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut encrypts, mut roots, mut rest) = (false, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (key, value) {
                ("sslmode", "disable") => encrypts = false,
                ("sslmode", "require" | "verify-full") => encrypts = true,
                ("sslmode", _) => {
                    return Err("sslmode must be disable, require or verify-full".to_owned());
                }
                ("sslrootcert", path) => {
                    let path = percent_decode_str(path).decode_utf8();
                    let path = path.map_err(|_| "sslrootcert must be UTF-8".to_owned())?;
                    roots = Some(path.into_owned());
                }
                _ => rest.push(pair),
            }
        }
        if roots.is_some() && !encrypts {
            return Err("sslrootcert is used only with sslmode=require or verify-full".to_owned());
        }
        let url = match rest.as_slice() {
            [] => place.to_owned(),
            rest => format!("{place}?{}", rest.join("&")),
        };
        let tls = encrypts.then(|| Tls::trusting(roots.as_deref()));
        Ok(Self {
            url,
            tls: tls.transpose()?,
        })
    }
}

impl Tls {
    /// Trusts the authorities in a PEM file, or those that the system does.
    fn trusting(file: Option<&str>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = file {
            let wrong = |error: &dyn std::fmt::Display| format!("sslrootcert {path}: {error}");
            let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
            for certificate in found {
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"it has no certificate"));
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this system trusts no certificate authority: set sslrootcert".into());
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Connect;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, Self::Error> {
        Ok(Connect {
            connector: self.0.clone(),
            name: ServerName::try_from(host)?.to_owned(),
        })
    }
}

/// A connection that is about to be encrypted.
pub(super) struct Connect {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Connect {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let encrypted = self.connector.connect(self.name, stream).await?;
            Ok(Stream(encrypted))
        })
    }
}

/// An encrypted connection.
pub(super) struct Stream<S>(Encrypted<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    /// None: the server's name was verified.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        Asked::of(url).map(|_| ()).unwrap_err()
    }

    #[test]
    fn the_driver_gets_the_url_without_what_is_decided_here() {
        for (url, rest) in [
            ("postgres://h/d", "postgres://h/d"),
            ("postgres://h/d?sslmode=disable", "postgres://h/d"),
            (
                "postgres://h/d?a=b&sslmode=disable&c=d%26",
                "postgres://h/d?a=b&c=d%26",
            ),
        ] {
            let asked = Asked::of(url).unwrap();
            assert_eq!((asked.url.as_str(), asked.tls.is_some()), (rest, false));
        }
    }

    #[test]
    fn what_would_not_be_safe_is_refused_by_name() {
        for mode in ["prefer", "allow", "verify-ca", ""] {
            let error = refused(&format!("postgres://h/d?sslmode={mode}"));
            assert!(error.contains("disable, require or verify-full"), "{error}");
        }
        let error = refused("postgres://h/d?sslrootcert=ca.pem");
        assert!(error.contains("only with sslmode"), "{error}");
        let error = refused("postgres://h/d?sslmode=require&sslrootcert=/no%20where.pem");
        assert!(error.contains("sslrootcert /no where.pem: "), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let error = refused(&format!(
            "postgres://h/d?sslmode=require&sslrootcert={path}"
        ));
        assert!(error.contains("it has no certificate"), "{error}");
    }
}
