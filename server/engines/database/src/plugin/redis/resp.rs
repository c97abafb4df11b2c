//! RESP 2, the protocol of Redis and Valkey: commands are lists of words, so that no word has a meaning of its own.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Connecting and logging in may take this.
const TIME_OUT: Duration = Duration::from_secs(10);
/// Words and lists of an answer are not longer.
const MAX_BYTES: usize = 1 << 20;
const MAX_ITEMS: usize = 10_000;
const MAX_DEPTH: usize = 8;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Text(String),
    Number(i64),
    Nothing,
    List(Vec<Answer>),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Refused {
    /// The server says so.
    Server(String),
    /// The connection, or words that are none of the protocol's.
    Broken(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Server(text) => write!(f, "response returned from Conn: {text}"),
            Refused::Broken(text) => f.write_str(text),
        }
    }
}

impl From<std::io::Error> for Refused {
    fn from(e: std::io::Error) -> Refused {
        Refused::Broken(e.to_string())
    }
}

fn broken(text: &str) -> Refused {
    Refused::Broken(text.to_owned())
}

pub struct Client {
    stream: BufStream<Box<dyn Stream>>,
}

impl crate::plugin::pool::Connection for Client {
    async fn answers(&mut self) -> bool {
        self.ask(&["PING"]).await.is_ok()
    }
}

impl Client {
    /// Connect and log in.
    pub async fn connect(
        (host, port): (&str, u16),
        (user, password): (&str, &str),
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Client, Refused> {
        let connecting = async {
            let dial = |e: std::io::Error| Refused::Broken(format!("dial tcp {host}:{port}: {e}"));
            let stream = TcpStream::connect((host, port)).await.map_err(dial)?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some(config) => {
                    let name =
                        ServerName::try_from(host.to_owned()).map_err(|e| Refused::Broken(format!("tls: {e}")))?;
                    let connected = TlsConnector::from(config.clone()).connect(name, stream).await;
                    Box::new(connected.map_err(|e| Refused::Broken(format!("tls: {e}")))?)
                }
            };
            let mut client = Client { stream: BufStream::new(stream) };
            client.ask(&["AUTH", user, password]).await?;
            Ok(client)
        };
        let late = || Refused::Broken(format!("{host}:{port} did not answer in time"));
        tokio::time::timeout(TIME_OUT, connecting).await.unwrap_or_else(|_| Err(late()))
    }

    pub async fn ask(&mut self, words: &[&str]) -> Result<Answer, Refused> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            command.extend_from_slice(word.as_bytes());
            command.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&command).await?;
        self.stream.flush().await?;
        self.answer(0).await
    }

    async fn line(&mut self) -> Result<String, Refused> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(MAX_BYTES as u64);
        limited.read_until(b'\n', &mut line).await?;
        let text = line.strip_suffix(b"\r\n").ok_or_else(|| broken("the connection has ended"))?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    async fn answer(&mut self, depth: usize) -> Result<Answer, Refused> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| broken("an empty answer"))?;
        let length = |most: usize| match rest.parse::<i64>() {
            Ok(n) if n < 0 => Ok(None),
            Ok(n) => usize::try_from(n).ok().filter(|n| *n <= most).map(Some).ok_or_else(|| broken("a long answer")),
            Err(_) => Err(broken("an answer that is none")),
        };
        match kind {
            "+" => Ok(Answer::Text(rest.to_owned())),
            "-" => Err(Refused::Server(rest.to_owned())),
            ":" => rest.parse().map(Answer::Number).map_err(|_| broken("a number that is none")),
            "$" => match length(MAX_BYTES)? {
                None => Ok(Answer::Nothing),
                Some(n) => {
                    let mut bytes = vec![0; n + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    bytes.truncate(n);
                    Ok(Answer::Text(String::from_utf8_lossy(&bytes).into_owned()))
                }
            },
            "*" => match length(MAX_ITEMS)? {
                None => Ok(Answer::Nothing),
                Some(_) if depth == MAX_DEPTH => Err(broken("an answer nested too deeply")),
                Some(n) => {
                    let mut items = Vec::new();
                    for _ in 0..n {
                        items.push(Box::pin(self.answer(depth + 1)).await?);
                    }
                    Ok(Answer::List(items))
                }
            },
            _ => Err(broken("an answer that is none of the protocol's")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(bytes: &'static [u8]) -> Result<Answer, Refused> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        Client { stream: BufStream::new(Box::new(ours) as Box<dyn Stream>) }.answer(0).await
    }

    #[tokio::test]
    async fn answers_are_read_and_what_is_cut_off_is_none() {
        let list = answered(b"*3\r\n$1\r\na\r\n:7\r\n*-1\r\n").await.unwrap();
        assert_eq!(list, Answer::List(vec![Answer::Text("a".into()), Answer::Number(7), Answer::Nothing]));
        assert!(matches!(answered(b"-ERR no\r\n").await, Err(Refused::Server(e)) if e == "ERR no"));
        for bad in [&b"$9\r\nab\r\n"[..], b"", b"*99999999\r\n", b"+cut", b"?\r\n", b"$x\r\n"] {
            assert!(matches!(answered(bad).await, Err(Refused::Broken(_))), "{bad:?}");
        }
        assert!(matches!(
            answered(b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n+x\r\n").await,
            Err(Refused::Broken(_))
        ));
    }
}
