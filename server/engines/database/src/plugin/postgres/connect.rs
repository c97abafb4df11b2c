//! Connecting to PostgreSQL, with TLS as `sslmode` says.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_sdk::Error;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::Address;
use super::words;
use crate::details::Details;
use crate::plugin::tls::{Material, Trust, client_config};

/// Connecting may take this, unless `connect_timeout` says otherwise.
const TIME_OUT: Duration = Duration::from_secs(10);

/// Words of the address that are the client's, not the server's.
const OURS: &[&str] =
    &["sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslsni", "connect_timeout", "application_name"];

/// How TLS is done.
#[derive(Clone)]
pub struct Tls {
    mode: SslMode,
    config: Arc<ClientConfig>,
    time_out: Duration,
}

impl Tls {
    pub fn of(address: &Address, details: &Details<'_>) -> Result<Tls, String> {
        let read = |key: &str| match address.setting(key).filter(|path| !path.is_empty()) {
            None => Ok(None),
            Some(path) => {
                holdfast_sdk::read_file(path).map(Some).map_err(|e| format!("unable to read {key} {path:?}: {e}"))
            }
        };
        let parameter = |key: &str| details.text(key).map(|t| (!t.is_empty()).then(|| t.as_bytes().to_vec()));
        let word = address.setting("sslmode").unwrap_or("prefer");
        let mode = match word {
            "disable" => SslMode::Disable,
            "allow" | "prefer" => SslMode::Prefer,
            "require" | "verify-ca" | "verify-full" => SslMode::Require,
            _ => return Err("cannot parse connection url: sslmode is invalid".into()),
        };
        let mut material = Material::default();
        if mode != SslMode::Disable {
            material.authority = read("sslrootcert")?;
            material.certificate = match (read("sslcert")?, read("sslkey")?) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => return Err("both sslcert and sslkey are wanted, or none".into()),
            };
            if material.authority.is_none() && word.starts_with("verify") {
                material.authority = parameter("tls_ca")?;
            }
            if let (None, Some(certificate), Some(key)) =
                (&material.certificate, parameter("tls_certificate")?, parameter("private_key")?)
            {
                material.certificate = Some((certificate, key));
            }
        }
        let trust = match word {
            "verify-full" => Trust::Name,
            "verify-ca" => Trust::Authority,
            "require" if material.authority.is_some() => Trust::Authority,
            _ => Trust::Anybody,
        };
        let time_out = match address.setting("connect_timeout") {
            None | Some("0" | "") => TIME_OUT,
            Some(text) => Duration::from_secs(
                text.parse()
                    .map_err(|_| format!("cannot parse connection url: connect_timeout {text:?} is no number"))?,
            ),
        };
        Ok(Tls { mode, config: Arc::new(client_config(trust, &material)?), time_out })
    }
}

/// Why there is no connection.
pub struct Refused {
    text: String,
    why: Why,
}

#[derive(PartialEq, Eq)]
enum Why {
    Password,
    /// The server has answered.
    Answered,
    Unreached,
}

impl Refused {
    /// The server knows the user, or does not say so, and not this password.
    pub fn is_refused_password(&self) -> bool {
        self.why == Why::Password
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused.why {
            Why::Unreached => Error::Unreachable(refused.text),
            Why::Password | Why::Answered => Error::Internal(refused.text),
        }
    }
}

pub async fn connect(address: &Address, password: Option<&str>, tls: &Tls) -> Result<Client, Refused> {
    let mut config = Config::new();
    let user = address.user.as_deref().unwrap_or("postgres");
    let database = address.database.as_deref().unwrap_or(user);
    let mut at = Vec::new();
    for (host, port) in &address.hosts {
        config.host(host).port(*port);
        at.push(format!("{host}:{port}"));
    }
    let at = at.join(",");
    let refused = |text: String, why: Why| Refused {
        text: format!("failed to connect to `user={user} database={database}`: {at}: {text}"),
        why,
    };
    if address.hosts.is_empty() {
        return Err(refused("the address names no host".into(), Why::Answered));
    }
    config.user(user).dbname(database).ssl_mode(tls.mode).connect_timeout(tls.time_out);
    config.application_name(address.setting("application_name").unwrap_or("holdfast"));
    if let Some(password) = password {
        config.password(password);
    }
    let settings: Vec<String> = address
        .settings
        .iter()
        .filter(|(key, _)| !OURS.contains(&key.as_str()))
        .map(|(key, value)| format!("-c {key}={}", value.replace('\\', "\\\\").replace(' ', "\\ ")))
        .collect();
    if !settings.is_empty() {
        config.options(settings.join(" "));
    }
    // Time for the login too, which the client's own time-out leaves out.
    let connecting = tokio::time::timeout(tls.time_out, config.connect(Maker(tls.config.clone())));
    match connecting.await {
        Ok(Ok((client, connection))) => {
            tokio::spawn(async move {
                if let Err(e) = connection.await {
                    tracing::debug!(error = %words(&e), "a connection to PostgreSQL has ended");
                }
            });
            Ok(client)
        }
        Ok(Err(e)) => {
            let why = match e.code().map(|c| c.code()) {
                Some("28P01" | "28000") => Why::Password,
                Some(_) => Why::Answered,
                None => Why::Unreached,
            };
            Err(refused(words(&e), why))
        }
        Err(_) => Err(refused("it did not answer in time".into(), Why::Unreached)),
    }
}

#[derive(Clone)]
struct Maker(Arc<ClientConfig>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Maker {
    type Stream = Encrypted<S>;
    type TlsConnect = Named;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Named, Self::Error> {
        Ok(Named { name: ServerName::try_from(domain.to_owned())?, config: self.0.clone() })
    }
}

struct Named {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Named {
    type Stream = Encrypted<S>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let connected = TlsConnector::from(self.config).connect(self.name, stream).await?;
            Ok(Encrypted(Box::new(connected)))
        })
    }
}

/// A connection inside TLS. It is not bound to its channel: SCRAM goes without.
struct Encrypted<S>(Box<TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.get_mut().0).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.get_mut().0).poll_shutdown(cx)
    }
}
