//! The `socket` audit device: TCP, UDP and Unix sockets.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio::time::timeout;

use super::Unsent;
use crate::audit::options::Network;

/// What a datagram over IPv4 has room for.
const LONGEST_UDP: usize = 65_507;

pub struct Socket {
    network: Network,
    address: String,
    time_out: Duration,
    connection: Option<Connection>,
}

enum Connection {
    Tcp(TcpStream),
    Udp(UdpSocket),
    Unix(UnixStream),
    UnixDatagram(UnixDatagram),
}

impl Socket {
    pub fn new(network: Network, address: String, time_out: Duration) -> Socket {
        Socket { network, address, time_out, connection: None }
    }

    /// Over the connection that there is, and once more over a new one.
    pub async fn send(&mut self, line: &[u8]) -> Result<(), Unsent> {
        if let Some(connection) = self.connection.take().filter(Connection::is_open)
            && let Ok(connection) = self.write(connection, line).await
        {
            self.connection = Some(connection);
            return Ok(());
        }
        let sent = match self.dial().await {
            Ok(connection) => self.write(connection, line).await,
            Err(e) => Err(e),
        };
        self.connection = Some(sent.map_err(|e| Unsent::unreachable(self.word(&e)))?);
        Ok(())
    }

    /// Whether its peer gets a stream of bytes, and no datagrams.
    pub fn is_stream(&self) -> bool {
        matches!(self.network, Network::Tcp | Network::Unix)
    }

    /// The longest line that can be sent at once.
    pub fn longest_line(&self) -> usize {
        match self.network {
            Network::Tcp | Network::Unix => usize::MAX,
            Network::Udp => LONGEST_UDP,
            Network::UnixDatagram => super::LONGEST_UNIX_DATAGRAM,
        }
    }

    /// Whether what was sent may still arrive.
    pub fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_open)
    }

    /// Over the connection that there is. False: there is a new one now, and nothing was sent.
    pub async fn send_in_order(&mut self, line: &[u8]) -> Result<bool, Unsent> {
        match self.connection.take().filter(Connection::is_open) {
            Some(connection) => {
                let sent = self.write(connection, line).await;
                self.connection = Some(sent.map_err(|e| Unsent::unreachable(self.word(&e)))?);
                Ok(true)
            }
            None => {
                self.connection = Some(self.dial().await.map_err(|e| Unsent::unreachable(self.word(&e)))?);
                Ok(false)
            }
        }
    }

    async fn dial(&self) -> io::Result<Connection> {
        let address = &self.address;
        let dialling = async {
            Ok(match self.network {
                Network::Tcp => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Connection::Tcp(stream)
                }
                Network::Udp => {
                    let to = tokio::net::lookup_host(address).await?.next().ok_or(io::ErrorKind::NotFound)?;
                    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
                    socket.connect(to).await?;
                    Connection::Udp(socket)
                }
                Network::Unix => Connection::Unix(UnixStream::connect(address).await?),
                Network::UnixDatagram => {
                    let socket = UnixDatagram::unbound()?;
                    socket.connect(address)?;
                    Connection::UnixDatagram(socket)
                }
            })
        };
        timeout(self.time_out, dialling).await?
    }

    /// The connection, where it is good for more.
    async fn write(&self, mut connection: Connection, line: &[u8]) -> io::Result<Connection> {
        timeout(self.time_out, connection.write(line)).await??;
        Ok(connection)
    }

    fn word(&self, e: &io::Error) -> String {
        let network = match self.network {
            Network::Tcp => "tcp",
            Network::Udp => "udp",
            Network::Unix => "unix",
            Network::UnixDatagram => "unixgram",
        };
        format!("dial {network} {}: {e}", self.address)
    }
}

impl Connection {
    /// What the peer has closed takes another line and loses it.
    fn is_open(&self) -> bool {
        let mut nothing = [0; 512];
        let read = match self {
            Connection::Tcp(stream) => stream.try_read(&mut nothing),
            Connection::Unix(stream) => stream.try_read(&mut nothing),
            // An error is one that an earlier line has met.
            Connection::Udp(_) | Connection::UnixDatagram(_) => return true,
        };
        match read {
            Ok(bytes) => bytes > 0,
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        }
    }

    async fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Connection::Tcp(stream) => stream.write_all(line).await,
            Connection::Unix(stream) => stream.write_all(line).await,
            Connection::Udp(socket) => socket.send(line).await.map(drop),
            Connection::UnixDatagram(socket) => socket.send(line).await.map(drop),
        }
    }
}
