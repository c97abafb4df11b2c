//! Connecting to MySQL or MariaDB and logging in.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::address::{Address, At};
use super::wire::{Packets, Reader, Stream, WireError, broken, error};

const TIME_OUT: Duration = Duration::from_secs(10);
/// Seconds that a statement waits for others' locks.
const LOCK_WAIT_SECS: u64 = 20;

const LONG_PASSWORD: u32 = 1;
const CONNECT_WITH_DB: u32 = 8;
const PROTOCOL_41: u32 = 0x200;
const SSL: u32 = 0x800;
const TRANSACTIONS: u32 = 0x2000;
const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;
const UTF8MB4: u8 = 45;

/// TLS of a connection.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    /// Whose certificate is wanted; none: the host's.
    pub server_name: Option<String>,
    /// Go on without it where the server has none.
    pub optional: bool,
}

pub async fn connect(address: &Address, password: &str, tls: Option<&Tls>) -> Result<Packets, WireError> {
    let limit = address.time_out.unwrap_or(TIME_OUT);
    match tokio::time::timeout(limit, log_in(address, password, tls)).await {
        Ok(ended) => ended,
        Err(_) => Err(WireError::Broken(format!("{} did not answer in time", address.at))),
    }
}

async fn log_in(address: &Address, password: &str, tls: Option<&Tls>) -> Result<Packets, WireError> {
    let dial = |e: std::io::Error| WireError::Broken(format!("dial {}: {e}", address.at));
    let stream: Box<dyn Stream> = match &address.at {
        At::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(dial)?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        At::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(dial)?),
    };
    let mut packets = Packets::new(stream);
    let greeting = Greeting::read(&packets.read().await?)?;
    let mut capabilities = LONG_PASSWORD | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH;
    if !address.database.is_empty() {
        capabilities |= CONNECT_WITH_DB;
    }
    let mut secret = matches!(address.at, At::Unix(_));
    match tls {
        Some(tls) if greeting.capabilities & SSL != 0 => {
            capabilities |= SSL;
            packets.write(&head(capabilities)).await?;
            packets = encrypt(packets, &address.at, tls).await?;
            secret = true;
        }
        Some(tls) if !tls.optional => return Err(broken("TLS requested but server does not support TLS")),
        _ => {}
    }
    let mut login = Login { password, secret, plugin: greeting.plugin, salt: greeting.salt };
    let answer = login.answer()?;
    let mut response = head(capabilities);
    response.extend_from_slice(address.user.as_bytes());
    response.push(0);
    response.push(u8::try_from(answer.len()).map_err(|_| broken("the password is too long"))?);
    response.extend_from_slice(&answer);
    if !address.database.is_empty() {
        response.extend_from_slice(address.database.as_bytes());
        response.push(0);
    }
    response.extend_from_slice(login.plugin.as_bytes());
    response.push(0);
    packets.write(&response).await?;
    login.finish(&mut packets).await?;
    packets.query(&format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_SECS}")).await?;
    for (name, value) in &address.variables {
        packets.query(&format!("SET {name} = {value}")).await?;
    }
    Ok(packets)
}

/// The first 32 bytes of an answer to the greeting, which are all that is said before TLS.
fn head(capabilities: u32) -> Vec<u8> {
    let mut out = capabilities.to_le_bytes().to_vec();
    out.extend_from_slice(&(1u32 << 24).to_le_bytes());
    out.push(UTF8MB4);
    out.extend_from_slice(&[0; 23]);
    out
}

async fn encrypt(packets: Packets, at: &At, tls: &Tls) -> Result<Packets, WireError> {
    let name = match (&tls.server_name, at) {
        (Some(name), _) => name.clone(),
        (None, At::Tcp(host, _)) => host.clone(),
        (None, At::Unix(_)) => "localhost".into(),
    };
    let name = ServerName::try_from(name).map_err(|e| WireError::Broken(format!("tls: {e}")))?;
    let (stream, sequence) = packets.into_parts();
    let connecting = TlsConnector::from(tls.config.clone()).connect(name, stream);
    let stream = connecting.await.map_err(|e| WireError::Broken(format!("tls: {e}")))?;
    Ok(Packets::go_on(Box::new(stream), sequence))
}

struct Greeting {
    capabilities: u32,
    plugin: String,
    salt: Vec<u8>,
}

impl Greeting {
    fn read(packet: &[u8]) -> Result<Greeting, WireError> {
        if packet.first() == Some(&0xff) {
            return Err(error(packet));
        }
        Greeting::parse(packet).ok_or_else(|| broken("this is no MySQL server"))
    }

    fn parse(packet: &[u8]) -> Option<Greeting> {
        let mut r = Reader(packet);
        if r.take(1)? != [10] {
            return None;
        }
        r.until_zero();
        r.take(4)?;
        let mut salt = r.take(8)?.to_vec();
        r.take(1)?;
        let low = r.take(2)?;
        r.take(3)?;
        let high = r.take(2)?;
        let capabilities = u32::from_le_bytes([low[0], low[1], high[0], high[1]]);
        let length = usize::from(*r.take(1)?.first()?);
        r.take(10)?;
        // The last byte is a zero.
        salt.extend_from_slice(r.take(length.saturating_sub(8).max(13))?.strip_suffix(&[0])?);
        let plugin = String::from_utf8_lossy(r.until_zero()).into_owned();
        let plugin = if plugin.is_empty() { "mysql_native_password".into() } else { plugin };
        Some(Greeting { capabilities, plugin, salt })
    }
}

struct Login<'a> {
    password: &'a str,
    /// Nobody listens.
    secret: bool,
    plugin: String,
    salt: Vec<u8>,
}

impl Login<'_> {
    fn answer(&mut self) -> Result<Vec<u8>, WireError> {
        let password = self.password.as_bytes();
        match self.plugin.as_str() {
            _ if password.is_empty() => Ok(Vec::new()),
            "mysql_native_password" => {
                let sha1 = |b: &[u8]| digest(&SHA1_FOR_LEGACY_USE_ONLY, b);
                let once = sha1(password);
                let mixed = sha1(&[&self.salt, sha1(once.as_ref()).as_ref()].concat());
                Ok(xor(once.as_ref(), mixed.as_ref()))
            }
            "caching_sha2_password" => {
                let sha256 = |b: &[u8]| digest(&SHA256, b);
                let once = sha256(password);
                let mixed = sha256(&[sha256(once.as_ref()).as_ref(), &self.salt].concat());
                Ok(xor(once.as_ref(), mixed.as_ref()))
            }
            "mysql_clear_password" if self.secret => Ok([password, &[0]].concat()),
            // What the server proposes first need not be the user's way: it says which that is.
            _ if self.salt.is_empty() => {
                Err(WireError::Broken(format!("the login by {:?} is not supported", self.plugin)))
            }
            _ => {
                self.plugin = "mysql_native_password".into();
                self.answer()
            }
        }
    }

    async fn finish(&mut self, packets: &mut Packets) -> Result<(), WireError> {
        // A switch to another plugin, and what that one says, are all that may come.
        for _ in 0..4 {
            let packet = packets.read().await?;
            match packet.split_first() {
                Some((0x00, _)) => return Ok(()),
                Some((0xff, _)) => return Err(error(&packet)),
                Some((0xfe, rest)) => {
                    let mut r = Reader(rest);
                    self.plugin = String::from_utf8_lossy(r.until_zero()).into_owned();
                    self.salt = r.0.strip_suffix(&[0]).unwrap_or(r.0).to_vec();
                    if !matches!(
                        self.plugin.as_str(),
                        "mysql_native_password" | "caching_sha2_password" | "mysql_clear_password"
                    ) {
                        return Err(WireError::Broken(format!("the login by {:?} is not supported", self.plugin)));
                    }
                    let answer = self.answer()?;
                    packets.write(&answer).await?;
                }
                // The server knows the password by heart, or wants it whole.
                Some((0x01, [3])) => {}
                Some((0x01, [4])) if self.secret => packets.write(&[self.password.as_bytes(), &[0]].concat()).await?,
                Some((0x01, [4])) => {
                    return Err(broken(
                        "the server wants the password whole, which is sent over TLS alone: add tls=true, or tls_ca",
                    ));
                }
                _ => return Err(broken("the server's answer to the login is not understood")),
            }
        }
        Err(broken("the login comes to no end"))
    }
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}
