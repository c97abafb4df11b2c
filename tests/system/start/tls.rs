//! TLS: versions, key exchange, HTTP/2, client certificates, changed certificates.

use std::sync::Arc;
use std::time::Duration;

use holdfast_tests::certificates::{Authority, client_config};
use holdfast_tests::program::{command, run};
use holdfast_tests::{Client, Connection, Server, Setup, Site, until};
use rustix::process::Signal;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, SupportedProtocolVersion};

use crate::http2;

fn with_versions(site: &Site, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    // The same trust, other versions.
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    roots.add(CertificateDer::from_pem_file(site.authority.ca()).expect("the CA")).expect("the CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn connect(server: &Server, config: &Arc<ClientConfig>) -> std::io::Result<Connection> {
    let mut connection = Connection::open(&server.listeners[0], Some(config))?;
    connection.request("GET", "/v1/sys/seal-status", &[], b"")?;
    assert_eq!(connection.reply(false)?.status, 200);
    Ok(connection)
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_older_ones_are_not() {
    let site = Site::make(Setup::shamir());
    let server = site.start();
    for (version, wanted) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let connection = connect(&server, &with_versions(&site, &[version])).expect("a connection");
        assert_eq!(connection.session().expect("TLS").protocol_version(), Some(wanted));
    }
    let mut old = command("openssl");
    old.args([
        "s_client",
        "-tls1_1",
        "-cipher",
        "ALL:@SECLEVEL=0",
        "-connect",
        &format!("127.0.0.1:{}", server.port()),
    ]);
    let said = run(&mut old);
    assert_ne!(said.code, Some(0), "TLS 1.1 is spoken: {}", said.stdout);
}

#[test]
fn versions_can_be_limited() {
    let site = Site::make(Setup::shamir().with_listener("tls_min_version = \"tls13\""));
    let server = site.start();
    assert!(connect(&server, &with_versions(&site, &[&rustls::version::TLS12])).is_err());
    connect(&server, &with_versions(&site, &[&rustls::version::TLS13])).expect("TLS 1.3");
    let site = Site::make(Setup::shamir().with_listener("tls_max_version = \"tls12\""));
    let server = site.start();
    let connection = connect(&server, &site.authority.client_config()).expect("TLS 1.2");
    assert_eq!(connection.session().expect("TLS").protocol_version(), Some(ProtocolVersion::TLSv1_2));
}

#[test]
fn the_post_quantum_key_exchange_is_preferred() {
    let site = Site::make(Setup::shamir());
    let server = site.start();
    let group = |config: &Arc<ClientConfig>| {
        let connection = connect(&server, config).expect("a connection");
        connection.session().expect("TLS").negotiated_key_exchange_group().expect("a group").name()
    };
    assert_eq!(group(&site.authority.client_config()), NamedGroup::X25519MLKEM768);

    // A client that would rather have another, but can: the server asks for the hybrid.
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.sort_by_key(|g| g.name() == NamedGroup::X25519MLKEM768);
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    roots.add(CertificateDer::from_pem_file(site.authority.ca()).expect("the CA")).expect("the CA");
    let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    println!("a client that offers a share for another group gets {:?}", group(&Arc::new(config)));

    // And one that cannot is served all the same.
    provider.kx_groups.retain(|g| g.name() == NamedGroup::X25519);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert_eq!(group(&Arc::new(config)), NamedGroup::X25519);
}

#[tokio::test]
async fn http_2_is_spoken_with_many_requests_on_one_connection() {
    let running = holdfast_tests::Running::start(Setup::hardware());
    let sender = http2::connect(&running.server.listeners[0], &running.site.authority.client_config()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..100 {
        let (sender, token) = (sender.clone(), running.keys.root_token.clone());
        tasks.spawn(async move {
            let body = format!(r#"{{"data":{{"i":{i}}}}}"#);
            let path = format!("/v1/secret/data/h2/{i}");
            let (status, _) = http2::ask(&sender, "POST", &path, &token, body.into()).await;
            assert_eq!(status, 200);
            let (status, body) = http2::ask(&sender, "GET", &path, &token, Default::default()).await;
            assert_eq!((status, &body["data"]["data"]["i"]), (200, &i.into()));
        });
    }
    tasks.join_all().await;
    let keys = running.root.list("secret/metadata/h2").expect(200).at("/data/keys");
    assert_eq!(keys.as_array().expect("a list").len(), 100);
}

#[test]
fn a_required_client_certificate_is_one_of_the_named_ca() {
    let setup = Setup::shamir();
    let site = Site::make(setup);
    let other = Authority::make(&site.folder().join("other"));
    let ca = site.authority.ca().display().to_string();
    let keys = format!("tls_client_ca_file = \"{ca}\"\n  tls_require_and_verify_client_cert = true");
    site.write_config(&site.config().replace("tls_cert_file", &format!("{keys}\n  tls_cert_file")));
    let server = site.start();
    let with = |c: &holdfast_tests::certificates::Certified| client_config(&site.authority.ca(), Some(c));
    connect(&server, &with(&site.authority.client("alice"))).expect("a good certificate");
    assert!(connect(&server, &site.authority.client_config()).is_err(), "none is accepted");
    assert!(connect(&server, &with(&other.client("mallory"))).is_err(), "one of a foreign CA is accepted");
    connect(&server, &with(&site.authority.client("bob"))).expect("others are still served");
}

#[test]
fn sighup_reads_the_certificate_again_and_a_broken_one_changes_nothing() {
    let site = Site::make(Setup::shamir());
    let server = site.start();
    let shown = || {
        let connection = connect(&server, &site.authority.client_config()).expect("a connection");
        connection.session().and_then(|s| s.peer_certificates()).expect("a certificate")[0].clone()
    };
    let first = shown();
    let mut open = Connection::open(&server.listeners[0], Some(&site.authority.client_config())).expect("it");
    site.authority.server("server");
    assert_eq!(shown(), first, "the certificate changed by itself");
    server.signal(Signal::HUP);
    let second = until(Duration::from_secs(5), "the new certificate", || Some(shown()).filter(|c| *c != first));

    // What is open stays open.
    open.request("GET", "/v1/sys/seal-status", &[], b"").expect("sent");
    assert_eq!(open.reply(false).expect("an answer").status, 200);

    std::fs::write(site.folder().join("tls/server.pem"), "no certificate").expect("written");
    server.signal(Signal::HUP);
    server.until_logged("the old certificate stays in use");
    assert_eq!(shown(), second);
}

#[test]
fn tls_auto_reload_notices_changed_files() {
    let site = Site::make(Setup::shamir().with_listener("tls_auto_reload = true"));
    let server = site.start();
    let shown = || {
        let connection = connect(&server, &site.authority.client_config()).expect("a connection");
        connection.session().and_then(|s| s.peer_certificates()).expect("a certificate")[0].clone()
    };
    let first = shown();
    site.authority.server("server");
    until(Duration::from_secs(30), "the new certificate", || {
        std::thread::sleep(Duration::from_millis(300));
        Some(shown()).filter(|c| *c != first)
    });
}

#[test]
fn plain_http_on_a_tls_port_is_no_harm() {
    let site = Site::make(Setup::shamir());
    let server = site.start();
    let plain = Client::new(server.listeners[0].clone(), None);
    assert!(plain.try_call("GET", "sys/health", None).is_err());
    server.client().get("sys/health").expect(501);
}
