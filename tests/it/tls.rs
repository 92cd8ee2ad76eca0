//! TLS as clients and operators meet it: real certificates, a real client, files that change.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use reqwest::{Certificate, Client, Identity};
use sluicegate::app;
use sluicegate::config::{Settings, TlsSettings};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{DEADLINE, TestApp, add, eventually, spawn};

/// A certificate authority of the test's own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).expect("signs").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate and its key, PEM.
    fn certify(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        self.certify_until(2_100, name, purpose)
    }

    /// One that ends when that year begins.
    fn certify_until(&self, year: i32, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), name.to_owned()]).expect("params");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages.push(purpose);
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self) -> (String, String) {
        self.certify("localhost", ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn identity(&self, name: &str) -> Identity {
        let (cert, key) = self.certify(name, ExtendedKeyUsagePurpose::ClientAuth);
        Identity::from_pem(format!("{cert}{key}").as_bytes()).expect("identity")
    }

    /// A client that trusts this authority alone and keeps no connection.
    fn client(&self, identity: Option<Identity>) -> Client {
        let root = Certificate::from_pem(self.pem.as_bytes()).expect("root");
        let mut builder = Client::builder()
            .no_proxy()
            .timeout(DEADLINE)
            .pool_max_idle_per_host(0)
            .tls_certs_only([root]);
        if let Some(identity) = identity {
            builder = builder.identity(identity);
        }
        builder.build().expect("client")
    }
}

/// The files that a configuration names.
struct Files {
    folder: TempDir,
}

impl Files {
    fn of((cert, key): &(String, String)) -> Self {
        let files = Self {
            folder: tempfile::tempdir().expect("folder"),
        };
        files.put("cert.pem", cert);
        files.put("key.pem", key);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("writes");
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: None,
        }
    }
}

async fn serving(tls: TlsSettings) -> TestApp {
    TestApp::with(|settings| settings.http.tls = Some(tls)).await
}

/// `/metrics` of a gateway with TLS.
pub(crate) async fn metrics() -> String {
    let authority = Authority::new();
    let files = Files::of(&authority.server());
    let app = serving(files.settings()).await;
    let text = told(&authority.client(None), &app).await;
    app.leave().await;
    text
}

async fn told(client: &Client, app: &TestApp) -> String {
    let answer = client.get(format!("https://{}/metrics", app.address)).send();
    answer.await.expect("answers").text().await.expect("a text")
}

async fn live(client: &Client, app: &TestApp) -> Result<u16, reqwest::Error> {
    let answer = client
        .get(format!("https://{}/livez", app.address))
        .send()
        .await?;
    Ok(answer.status().as_u16())
}

#[tokio::test]
async fn a_transaction_over_tls() {
    let authority = Authority::new();
    let files = Files::of(&authority.server());
    let app = serving(files.settings()).await;
    let client = authority.client(None);
    let request = client.post(format!("https://{}/v1/transactions", app.address));
    let request = request.header("prefer", "wait=30").json(&add("visits", 1));
    assert_eq!(request.send().await.expect("answers").status(), 200);
    // Whoever does not know the authority, or speaks plainly, gets nowhere.
    assert!(live(&Authority::new().client(None), &app).await.is_err());
    let plain = format!("http://{}/livez", app.address);
    assert!(client.get(plain).send().await.is_err());
    app.leave().await;
}

#[tokio::test]
async fn a_stalled_handshake_holds_nobody_up_and_ends() {
    let authority = Authority::new();
    let files = Files::of(&authority.server());
    let tls = files.settings();
    let app = TestApp::with(|settings| {
        settings.http.tls = Some(tls);
        settings.http.header_timeout = Duration::from_millis(500);
    })
    .await;
    let mut stalled = Vec::new();
    for half in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(app.address).await.expect("connects");
            stream.write_all(half).await.expect("writes");
            stalled.push(stream);
        }
    }
    assert_eq!(live(&authority.client(None), &app).await.expect("answers"), 200);
    for mut stream in stalled {
        let mut byte = [0];
        let ended = tokio::time::timeout(DEADLINE, stream.read(&mut byte))
            .await
            .expect("is closed");
        assert!(!matches!(ended, Ok(1..)), "nothing was said");
    }
    // Nor does one that is there at the end hold up the end.
    let _last = TcpStream::connect(app.address).await.expect("connects");
    app.leave().await;
}

#[tokio::test]
async fn the_end_of_the_certificate_in_use_is_told() {
    let authority = Authority::new();
    let until = |year| authority.certify_until(year, "localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let (first, second) = (until(2_040), until(2_041));
    let files = Files::of(&first);
    let app = serving(files.settings()).await;
    let client = authority.client(None);
    let line = |seconds| {
        format!("sluicegate_certificate_end_timestamp_seconds{{setting=\"http.tls_cert\"}} {seconds}\n")
    };
    let metrics = told(&client, &app).await;
    assert!(metrics.contains(&line(2_208_988_800_u64)), "{metrics}");
    files.put("key.pem", &second.1);
    files.put("cert.pem", &second.0);
    eventually("the new end is told", async || {
        let metrics = told(&client, &app).await;
        metrics.contains(&line(2_240_611_200)).then_some(())
    })
    .await;
    app.leave().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_under_load() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::of(&old.server());
    let app = serving(files.settings()).await;
    // One connection is there all the time and does not notice.
    let lasting = {
        let root = Certificate::from_pem(old.pem.as_bytes()).expect("root");
        let builder = Client::builder()
            .no_proxy()
            .timeout(DEADLINE)
            .tls_certs_only([root]);
        builder.build().expect("client")
    };
    assert_eq!(live(&lasting, &app).await.expect("answers"), 200);

    // Halves that do not fit together, then no certificate at all, change nothing.
    let pair = new.server();
    let wrong_key = old.server().1;
    let both = [old.client(None), new.client(None)];
    let stop = Arc::new(AtomicBool::new(false));
    let address = app.address;
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (both, stop) = (both.clone(), stop.clone());
            spawn(async move {
                let mut answered = [0_u32; 2];
                while !stop.load(Ordering::Relaxed) {
                    // At any moment one of the two authorities is the right one; the certificate may change in between.
                    let mut reached = false;
                    for _ in 0..2 {
                        for (client, count) in both.iter().zip(&mut answered) {
                            let answer = client.get(format!("https://{address}/livez")).send().await;
                            if let Ok(answer) = answer {
                                assert_eq!(answer.status(), 200);
                                *count += 1;
                                reached = true;
                            }
                        }
                    }
                    assert!(reached, "no certificate is valid");
                }
                answered
            })
        })
        .collect();
    files.put("cert.pem", "-----BEGIN CERTIFICATE-----\nhalf");
    files.put("key.pem", &wrong_key);
    // Longer than files are looked at: what is broken was seen, and is not used.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(live(&both[0], &app).await.expect("the old one stays"), 200);
    files.put("cert.pem", &pair.0);
    files.put("key.pem", &pair.1);
    eventually("the new certificate is in use", async || {
        live(&both[1], &app).await.ok()
    })
    .await;
    assert!(live(&both[0], &app).await.is_err(), "the old one is not");
    stop.store(true, Ordering::Relaxed);
    for load in load {
        let answered = load.await.expect("no request was lost");
        assert!(answered[0] > 0, "{answered:?}");
    }
    assert_eq!(live(&lasting, &app).await.expect("goes on"), 200);
    app.leave().await;
}

#[tokio::test]
async fn clients_without_a_certificate_of_the_authority_are_not_let_in() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let files = Files::of(&authority.server());
    files.put("ca.pem", &clients.pem);
    let tls = TlsSettings {
        client_ca: Some(files.path("ca.pem")),
        ..files.settings()
    };
    let app = serving(tls).await;
    let known = authority.client(Some(clients.identity("erp")));
    assert_eq!(live(&known, &app).await.expect("answers"), 200);
    let none = authority.client(None);
    let stranger = authority.client(Some(Authority::new().identity("erp")));
    // A certificate for servers is none for clients.
    let (cert, key) = clients.server();
    let server = Identity::from_pem(format!("{cert}{key}").as_bytes()).expect("identity");
    let server = authority.client(Some(server));
    for client in [&none, &stranger, &server] {
        assert!(live(client, &app).await.is_err());
    }
    assert_eq!(live(&known, &app).await.expect("answers"), 200);
    app.leave().await;
}

#[tokio::test]
async fn files_that_do_not_serve_are_named_at_the_start() {
    let authority = Authority::new();
    let pair = authority.server();
    let files = Files::of(&pair);
    files.put("other.pem", &authority.server().1);
    files.put("empty.pem", "");
    let path = |name| files.path(name);
    let cases: [(TlsSettings, &str); 5] = [
        (
            TlsSettings {
                cert: path("none.pem"),
                ..files.settings()
            },
            "http.tls_cert: cannot read",
        ),
        (
            TlsSettings {
                cert: path("empty.pem"),
                ..files.settings()
            },
            "http.tls_cert: the file holds no certificate",
        ),
        (
            TlsSettings {
                key: path("cert.pem"),
                ..files.settings()
            },
            "http.tls_key: the file holds no private key",
        ),
        (
            TlsSettings {
                key: path("other.pem"),
                ..files.settings()
            },
            "http.tls_key: certificate and key do not fit",
        ),
        (
            TlsSettings {
                client_ca: Some(path("key.pem")),
                ..files.settings()
            },
            "http.tls_client_ca: the file holds no certificate",
        ),
    ];
    for (tls, expected) in cases {
        let mut settings = Settings::default();
        settings.http.listen.set_port(0);
        settings.http.tls = Some(tls);
        let refusal = app::build(settings)
            .await
            .err()
            .expect("does not start")
            .to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
}
