//! The `http` audit device: each line is the body of a POST.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use tokio::time::timeout;

use super::Unsent;
use crate::outbound::Origin;

/// How long a connection and a line may take.
const TIME_OUT: Duration = Duration::from_secs(5);
/// An answer is read so far that the connection can be used again.
const MAX_ANSWER_BYTES: usize = 64 << 10;

pub struct Http {
    uri: Uri,
    origin: Origin,
    headers: HeaderMap,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    pub fn new(uri: &str, given: &[(String, String)]) -> Result<Http, String> {
        let wrong = |e: &dyn std::fmt::Display| format!("uri {uri:?}: {e}");
        let uri: Uri = uri.parse().map_err(|e| wrong(&e))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong(&"http:// or https:// is expected")),
        };
        let host = uri.host().ok_or_else(|| wrong(&"it names no host"))?;
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let origin = Origin::new(host, port, tls).map_err(|e| wrong(&e))?;
        let mut headers = HeaderMap::new();
        let authority = uri.authority().map_or("", |a| a.as_str());
        let named = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        headers.insert(HOST, HeaderValue::try_from(named).map_err(|e| wrong(&e))?);
        for (name, value) in given {
            let wrong = |e: &dyn std::fmt::Display| format!("failed to parse headers: {name}: {e}");
            let name = HeaderName::try_from(name.as_str()).map_err(|e| wrong(&e))?;
            let mut value = HeaderValue::try_from(value.as_str()).map_err(|e| wrong(&e))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Http { uri, origin, headers, connection: None })
    }

    pub async fn send(&mut self, line: &[u8]) -> Result<(), Unsent> {
        let sending = self.exchange(line);
        let late = || Unsent::unreachable("the server did not answer in time");
        let sent = timeout(TIME_OUT, sending).await.unwrap_or_else(|_| Err(late()));
        if sent.is_err() {
            self.connection = None;
        }
        sent.map_err(|e| Unsent { text: format!("failed to perform request: {}", e.text), ..e })
    }

    async fn exchange(&mut self, line: &[u8]) -> Result<(), Unsent> {
        // The server may have closed a connection that was idle: then the line goes over a new one.
        if let Some(mut open) = self.connection.take()
            && open.ready().await.is_ok()
            && let Ok(answer) = open.send_request(self.request(line)?).await
        {
            return self.finish(open, answer).await;
        }
        let post = |e: &dyn std::fmt::Display| Unsent::unreachable(format!("Post {:?}: {e}", self.uri.to_string()));
        let mut open = self.origin.connect().await.map_err(|e| post(&e))?;
        let answer = open.send_request(self.request(line)?).await.map_err(|e| post(&e))?;
        self.finish(open, answer).await
    }

    fn request(&self, line: &[u8]) -> Result<Request<Full<Bytes>>, Unsent> {
        let path = self.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(line)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().map_err(|e| Unsent::refused(format!("{path}: {e}")))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    async fn finish(
        &mut self,
        open: SendRequest<Full<Bytes>>,
        answer: hyper::Response<hyper::body::Incoming>,
    ) -> Result<(), Unsent> {
        let status = answer.status();
        if Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.is_ok() {
            self.connection = Some(open);
        }
        if !status.is_success() {
            return Err(Unsent::refused(format!("status code not 2xx: {}", status.as_u16())));
        }
        Ok(())
    }
}
