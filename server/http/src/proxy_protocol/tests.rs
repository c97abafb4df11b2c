use proptest::prelude::*;

use super::*;

fn peer() -> SocketAddr {
    "10.1.2.3:5000".parse().unwrap()
}

fn proxies(behavior: ProxyProtocol, authorized: &str) -> Proxies {
    Proxies { behavior, authorized: vec![Network::parse(authorized).unwrap()] }
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [V2_SIGNATURE, &[0x20 | command, family], &length, rest].concat()
}

/// What comes of a connection that begins with these bytes, in pieces of `step`.
fn begun(proxies: &Proxies, bytes: &[u8], step: usize) -> Result<Begun, ProxyError> {
    struct Pieces<'a>(&'a [u8], usize);
    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let n = self.1.min(self.0.len()).min(buf.remaining());
            let (now, later) = self.0.split_at(n);
            buf.put_slice(now);
            self.0 = later;
            std::task::Poll::Ready(Ok(()))
        }
    }
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut pieces = Pieces(bytes, step);
    let polled = std::pin::pin!(proxies.read(&mut pieces, peer())).poll(&mut cx);
    let std::task::Poll::Ready(mut result) = polled else { panic!("it waits for what is there") };
    if let Ok(begun) = &mut result {
        begun.ahead.extend_from_slice(pieces.0);
    }
    result
}

#[test]
fn both_versions_name_the_client() {
    let always = proxies(ProxyProtocol::UseAlways, "192.0.2.0/24");
    let mut v6 = [0_u8; 36];
    v6[15] = 1;
    v6[32..34].copy_from_slice(&4711_u16.to_be_bytes());
    let more = [&[1, 2, 3, 4, 5, 6, 7, 8, 0x12, 0x34, 0, 80][..], b"\x04\x00\x01x"].concat();
    for (header, client) in [
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n".to_vec(), "1.2.3.4:1000"),
        (b"PROXY TCP6 ::1 ::2 65535 1\r\n".to_vec(), "[::1]:65535"),
        (b"PROXY UNKNOWN ffff::1 whatever\r\n".to_vec(), "10.1.2.3:5000"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "10.1.2.3:5000"),
        (v2(1, 0x11, &more), "1.2.3.4:4660"),
        (v2(1, 0x21, &v6), "[::1]:4711"),
        (v2(0, 0x11, b"xx"), "10.1.2.3:5000"),
        (v2(1, 0x00, b""), "10.1.2.3:5000"),
    ] {
        for step in [1, 7, 4096] {
            let bytes = [&header[..], b"GET / HTTP/1.1\r\n\r\nPROXY "].concat();
            let got = begun(&always, &bytes, step).unwrap();
            assert_eq!(got.address.to_string(), client, "{header:?}");
            assert_eq!(got.ahead, b"GET / HTTP/1.1\r\n\r\nPROXY ", "{header:?}");
        }
    }
}

#[test]
fn what_is_no_header_is_left_as_it_is() {
    let always = proxies(ProxyProtocol::UseAlways, "192.0.2.0/24");
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PUT / HTTP/1.1\r\n",
        b"PROPFIND /",
        b"\x16\x03\x01",
        b"\r\n\r\nGET",
        b"",
        b"PROX",
    ] {
        let got = begun(&always, bytes, 3).unwrap();
        assert_eq!((got.address, &got.ahead[..]), (peer(), bytes));
    }
}

#[test]
fn a_malformed_header_ends_the_connection() {
    let always = proxies(ProxyProtocol::UseAlways, "192.0.2.0/24");
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    let much = v2(1, 0x11, &vec![0; MAX_V2_REST_BYTES + 1]);
    for bytes in [
        &b"PROXY TCP4 1.2.3 5.6.7.8 1000 2000\r\n"[..],
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1000 2000\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 70000\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1000\r\n",
        b"PROXY TCP4 ::1 ::2 1000 2000\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1000 2000\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1000 2000\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1000 2000\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\n",
        b"PROXY \xFF\r\n",
        &long,
        &much,
        &v2(2, 0x11, &[0; 12]),
        &v2(1, 0x11, &[0; 11]),
        &v2(1, 0x21, &[0; 35]),
        &v2(1, 0x12, &[0; 12]),
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
    ] {
        assert!(matches!(begun(&always, bytes, 5), Err(ProxyError::Malformed(_))), "{bytes:?}");
    }
}

#[test]
fn the_word_of_the_authorised_counts() {
    let header = b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\nrest";
    let client = |p: &Proxies| begun(p, header, 64).map(|b| (b.address.to_string(), b.ahead));
    let rest = b"rest".to_vec();
    let (used, passed_over) = (("1.2.3.4:1000".to_owned(), rest.clone()), ("10.1.2.3:5000".to_owned(), rest));
    assert_eq!(client(&proxies(ProxyProtocol::AllowAuthorized, "10.0.0.0/8")).unwrap(), used);
    assert_eq!(client(&proxies(ProxyProtocol::AllowAuthorized, "10.9.0.0/16")).unwrap(), passed_over);
    assert_eq!(client(&proxies(ProxyProtocol::DenyUnauthorized, "10.1.2.3")).unwrap(), used);
    let denied = client(&proxies(ProxyProtocol::DenyUnauthorized, "10.9.0.0/16"));
    assert!(matches!(denied, Err(ProxyError::Unauthorized(_))));
    let off = Proxies::default();
    assert_eq!(begun(&off, header, 64).unwrap(), Begun { address: peer(), ahead: header.to_vec() });
}

proptest! {
    #[test]
    fn any_bytes_are_a_header_or_all_still_there(
        start in prop_oneof![Just(&b""[..]), Just(&b"PROXY "[..]), Just(&b"PROXY TCP4 1.2.3.4 "[..]), Just(V2_SIGNATURE), Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..])],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
        step in 1..64_usize,
    ) {
        let bytes = [start, &rest[..]].concat();
        let always = proxies(ProxyProtocol::UseAlways, "192.0.2.0/24");
        let whole = begun(&always, &bytes, usize::MAX);
        let pieces = begun(&always, &bytes, step);
        match (whole, pieces) {
            (Ok(a), Ok(b)) => {
                prop_assert!(bytes.ends_with(&a.ahead));
                prop_assert_eq!(a, b);
            }
            (Err(_), Err(_)) => {}
            (a, b) => prop_assert!(false, "{a:?} {b:?}"),
        }
    }

    #[test]
    fn a_header_of_any_client_comes_back(ip: [u8; 16], port: u16, six: bool, rest in proptest::collection::vec(any::<u8>(), 0..40)) {
        let ip = if six { IpAddr::from(ip) } else { IpAddr::from([ip[0], ip[1], ip[2], ip[3]]) };
        let (word, family) = if six { ("TCP6", 0x21) } else { ("TCP4", 0x11) };
        let first = format!("PROXY {word} {ip} {ip} {port} 80\r\n").into_bytes();
        let octets = match ip { IpAddr::V4(a) => a.octets().to_vec(), IpAddr::V6(a) => a.octets().to_vec() };
        let second = v2(1, family, &[&octets[..], &octets, &port.to_be_bytes(), &[0, 80]].concat());
        for header in [first, second] {
            let got = begun(&proxies(ProxyProtocol::UseAlways, "192.0.2.0/24"), &[&header[..], &rest].concat(), 9).unwrap();
            prop_assert_eq!(got, Begun { address: SocketAddr::new(ip, port), ahead: rest.clone() });
        }
    }
}
