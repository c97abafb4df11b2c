//! `custom_response_headers`: what a listener adds to its answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use holdfast_config::{HeaderStatus, ResponseHeaders as Configured};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

type Added = Vec<(HeaderName, HeaderValue)>;

/// Headers by status. Of several that fit the most exact counts, header by header.
#[derive(Debug, Clone, Default)]
pub struct ResponseHeaders {
    all: Added,
    hundreds: BTreeMap<u16, Added>,
    exact: BTreeMap<u16, Added>,
}

impl ResponseHeaders {
    /// As configured. The second part: names that are left out, since they frame the answer.
    pub fn new(configured: &[Configured]) -> (ResponseHeaders, Vec<String>) {
        let mut made = ResponseHeaders::default();
        let mut left_out = Vec::new();
        for c in configured {
            let into = match c.status {
                HeaderStatus::Default => &mut made.all,
                HeaderStatus::Hundred(n) => made.hundreds.entry(n).or_default(),
                HeaderStatus::Exactly(n) => made.exact.entry(n).or_default(),
            };
            for (name, values) in &c.headers {
                // Several values are one header, as in the reference.
                match (HeaderName::try_from(name), HeaderValue::try_from(values.join("; "))) {
                    (Ok(name), Ok(value)) if may_be_set(&name) => into.push((name, value)),
                    _ => left_out.push(name.clone()),
                }
            }
        }
        (made, left_out)
    }

    /// Add them to an answer; they replace what the server says by itself.
    pub fn add_to(&self, status: StatusCode, headers: &mut HeaderMap) {
        let status = status.as_u16();
        let fitting = [Some(&self.all), self.hundreds.get(&(status / 100)), self.exact.get(&status)];
        for (name, value) in fitting.into_iter().flatten().flatten() {
            headers.insert(name, value.clone());
        }
    }
}

/// What a listener adds now; the configuration may be read again while it serves.
#[derive(Debug, Clone, Default)]
pub struct CurrentHeaders(Arc<ArcSwap<ResponseHeaders>>);

impl CurrentHeaders {
    pub fn new(headers: ResponseHeaders) -> CurrentHeaders {
        CurrentHeaders(Arc::new(ArcSwap::from_pointee(headers)))
    }

    /// For all answers from now on.
    pub fn replace(&self, headers: ResponseHeaders) {
        self.0.store(Arc::new(headers));
    }

    pub fn add_to(&self, status: StatusCode, headers: &mut HeaderMap) {
        self.0.load().add_to(status, headers);
    }
}

/// Not what belongs to the server, nor what says where the answer ends.
fn may_be_set(name: &HeaderName) -> bool {
    const FRAMING: &[&str] =
        &["connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade"];
    !name.as_str().starts_with("x-vault-") && !FRAMING.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(status: HeaderStatus, headers: &[(&str, &[&str])]) -> Configured {
        let values = |v: &[&str]| v.iter().map(|v| (*v).to_owned()).collect();
        Configured { status, headers: headers.iter().map(|(n, v)| ((*n).to_owned(), values(v))).collect() }
    }

    #[test]
    fn the_most_exact_status_counts_and_what_is_the_servers_own_stays() {
        let (headers, left_out) = ResponseHeaders::new(&[
            configured(HeaderStatus::Exactly(200), &[("X-B", &["200"])]),
            configured(
                HeaderStatus::Default,
                &[("X-A", &["d1", "d2"]), ("X-B", &["d"]), ("Cache-Control", &["public"])],
            ),
            configured(HeaderStatus::Hundred(2), &[("x-b", &["2xx"]), ("X-C", &["2xx"])]),
            configured(HeaderStatus::Default, &[("X-Vault-Index", &["1"]), ("Content-Length", &["0"])]),
        ]);
        assert_eq!(left_out, ["X-Vault-Index", "Content-Length"]);
        let of = |status: u16| {
            let mut map = HeaderMap::new();
            map.insert("x-vault-index", HeaderValue::from_static("kept"));
            map.insert("cache-control", HeaderValue::from_static("no-store"));
            headers.add_to(StatusCode::from_u16(status).unwrap(), &mut map);
            let text = |n: &str| map.get(n).map_or("", |v| v.to_str().unwrap()).to_owned();
            ["x-a", "x-b", "x-c", "cache-control", "x-vault-index"].map(text)
        };
        assert_eq!(of(200), ["d1; d2", "200", "2xx", "public", "kept"]);
        assert_eq!(of(204), ["d1; d2", "2xx", "2xx", "public", "kept"]);
        assert_eq!(of(404), ["d1; d2", "d", "", "public", "kept"]);
    }
}
