//! The port at which members speak to each other, spoken to by others: a stranger, and a thief.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use serde_json::{Value, json};

use holdfast_tests::program::command;

use super::newcomer::members;
use super::nodes::Nodes;

/// Questions by their first byte; see the cluster's page on what members say.
const SNAPSHOT: u8 = 2;
const HELLO: u8 = 4;
const MEMBERS: u8 = 5;
const UNKNOWN: u8 = 99;

/// What somebody shows, and the key that he has.
struct Shown {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Shown {
    /// The certificate of one key, with another key to sign with.
    fn with(certified: &KeyPair, has: &KeyPair) -> Shown {
        let params = CertificateParams::new(vec!["holdfast-node".to_owned()]).expect("parameters");
        let certificate = params.self_signed(certified).expect("a certificate").der().clone();
        Shown { certificate, key: PrivatePkcs8KeyDer::from(has.serialize_der()).into() }
    }

    fn stranger() -> Shown {
        let own = KeyPair::generate().expect("a key");
        Shown::with(&own, &own)
    }

    fn config(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.key).expect("a key to sign with");
        let pair = SingleCertAndKey::from(CertifiedKey::new(vec![self.certificate.clone()], key));
        let mut config = builder.with_client_cert_resolver(Arc::new(pair));
        config.alpn_protocols = vec![b"holdfast-peer/1".to_vec()];
        Arc::new(config)
    }

    /// A channel to a member, as far as the caller's side is done with shaking hands.
    fn call(&self, port: u16) -> io::Result<Channel> {
        self.call_with(port, &[&rustls::version::TLS13])
    }

    fn call_with(&self, port: u16, versions: &[&'static rustls::SupportedProtocolVersion]) -> io::Result<Channel> {
        let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        let name = ServerName::try_from("holdfast-node").expect("a name");
        let mut session = ClientConnection::new(self.config(versions), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Channel(StreamOwned::new(session, stream)))
    }
}

/// Strangers and thieves believe anybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

struct Channel(StreamOwned<ClientConnection, TcpStream>);

impl Channel {
    fn ask(&mut self, kind: u8, head: &[u8], parts: &[&[u8]]) -> io::Result<()> {
        let length = |n: usize| (n as u32).to_be_bytes();
        let mut question = [&[kind][..], &length(head.len()), head, &length(parts.len())].concat();
        for part in parts {
            question.extend_from_slice(&length(part.len()));
            question.extend_from_slice(part);
        }
        self.0.write_all(&question)?;
        self.0.flush()
    }

    fn answer(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// What comes until the other side closes.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _closed_or_reset = self.0.read_to_end(&mut rest);
        rest
    }
}

/// The key by which the others know a member.
fn key_of(folder: &Path) -> KeyPair {
    let pem = std::fs::read_to_string(folder.join("node/key.pem")).expect("a member's key");
    KeyPair::from_pem(&pem).expect("a key")
}

#[test]
fn a_stranger_is_not_heard_and_a_members_certificate_is_of_no_use_without_its_key() {
    let mut nodes = Nodes::start(2);
    nodes.until_all_vote();
    let before = members(&nodes);
    let port = nodes.member_port(0);
    let hello = json!({"cluster_addr": "127.0.0.1:1", "api_addr": "", "key_hash": "ab", "level": 99}).to_string();

    // More than sockets hold: he may not get it off, and hears all the same that he is none.
    let much = vec![7; 64 << 10];
    let much: Vec<&[u8]> = vec![&much; 4];
    for kind in [MEMBERS, SNAPSHOT, UNKNOWN] {
        let mut channel = Shown::stranger().call(port).expect("whoever has a key shakes hands");
        let _may_be_cut_off =
            channel.ask(HELLO, hello.as_bytes(), &[]).and_then(|()| channel.ask(kind, hello.as_bytes(), &much));
        let told = channel.answer().expect("he is told that he is no member");
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.starts_with("holdfast: this node is no member "), "{told}");
        assert!(!told.contains("127.0.0.1") && told.len() < 100, "he is told more than that: {told}");
        assert_eq!(channel.rest(), b"", "question {kind}");
    }
    nodes.server(0).until_logged("a node that is no member of this cluster was refused");

    // A member's own key, as the proof that the same questions are answered to a member.
    nodes.kill(1);
    let member = key_of(&nodes.stored(1));
    let mut channel = Shown::with(&member, &member).call(port).expect("a channel");
    channel.ask(MEMBERS, b"", &[]).expect("a question");
    let known: Value = serde_json::from_slice(&channel.answer().expect("an answer")).expect("JSON");
    assert_eq!(known.as_array().map(Vec::len), Some(2), "{known}");

    // Its certificate with another key: the handshake is refused, which a caller hears behind his own part of it.
    let thief = KeyPair::generate().expect("a key");
    let heard = Shown::with(&member, &thief).call(port).and_then(|mut channel| {
        channel.ask(MEMBERS, b"", &[])?;
        channel.answer()
    });
    let refused = heard.expect_err("a stolen certificate was accepted").to_string();
    assert!(refused.contains("alert"), "{refused}");
    nodes.server(0).until_logged("who called at the members' port did not show a member's certificate");
    let old = Shown::with(&member, &member).call_with(port, &[&rustls::version::TLS12]);
    let refused = old.err().expect("TLS 1.2 is spoken").to_string();
    assert!(refused.contains("alert"), "{refused}");
    // Without a certificate nobody gets anywhere either.
    let mut bare = command("openssl");
    bare.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-alpn", "holdfast-peer/1", "-ign_eof"]);
    let said = holdfast_tests::program::run(&mut bare);
    let said = said.stdout + &said.stderr;
    assert!(said.contains("certificate required"), "{said}");

    nodes.start_again(1);
    nodes.until_all_vote();
    assert_eq!(members(&nodes), before);
}
