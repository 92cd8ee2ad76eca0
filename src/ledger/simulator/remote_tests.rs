//! A simulator behind a real socket: the same ledger, and honest about what the socket does to it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::testkit::{MemoryEngine, Running};
use super::*;
use crate::clock::SystemClock;
use crate::ledger::conformance::{Calls, outcomes_of, request, run};

/// A ledger in memory and its server, which can be stopped and started.
struct Served {
    ledger: Arc<SimulatorLedger>,
    address: SocketAddr,
    tasks: TaskTracker,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let running = Running::open(
            MemoryEngine::default(),
            10,
            Duration::from_millis(5),
            Arc::new(SystemClock),
        );
        Self::serve(Arc::new(running.ledger), SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    async fn serve(ledger: Arc<SimulatorLedger>, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let server = tasks.spawn(serve(listener, ledger.clone(), stop.clone()));
        Self {
            ledger,
            address,
            tasks,
            stop,
            server,
        }
    }

    fn remote(&self) -> RemoteSimulator {
        remote_at(self.address, &self.tasks)
    }

    async fn stop(self) -> (Arc<SimulatorLedger>, SocketAddr) {
        self.stop.cancel();
        self.server.await.expect("ends well");
        (self.ledger, self.address)
    }
}

fn remote_at(address: SocketAddr, tasks: &TaskTracker) -> RemoteSimulator {
    RemoteSimulator::new(&format!("http://{address}"), tasks).expect("a client")
}

async fn add(ledger: &dyn LedgerBackend) -> Prepared {
    let request = request("counter", "Add", &["c", "1"]);
    ledger.prepare(&request).await.expect("prepared")
}

#[tokio::test]
async fn conforms_over_a_socket() {
    let served = Served::start().await;
    run(&served.remote(), &Calls::COUNTER).await;
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let (served, tasks) = (Served::start().await, TaskTracker::new());
    let prepared = add(&served.remote()).await;
    let (_, address) = served.stop().await;
    let remote = remote_at(address, &tasks);
    let cause = remote.probe().await.expect_err("down");
    let start = format!("the devnet at http://{address}/ cannot be reached: Connection refused");
    assert!(
        cause.code == "UNREACHABLE" && cause.message.starts_with(&start),
        "{cause}"
    );
    let call = request("counter", "Add", &["c", "1"]);
    assert!(matches!(
        remote.prepare(&call).await,
        Err(PrepareError::Unavailable(_))
    ));
    assert!(matches!(
        remote.submit(&prepared).await,
        Err(SubmitError::Unavailable(_))
    ));
    assert!(matches!(
        remote.query(&(Calls::COUNTER.get)("c")).await,
        Err(QueryError::Unavailable(_))
    ));
    assert!(matches!(
        remote.lookup(&prepared.tx_id).await,
        Outcome::Unavailable(_)
    ));
    assert!(
        remote.check(&request("counter", "get", &[])).is_err(),
        "known without asking"
    );
}

/// I2: only who knows that nothing left may say so.
#[tokio::test]
async fn i2_a_lost_answer_is_unknown() {
    let (served, tasks) = (Served::start().await, TaskTracker::new());
    let prepared = add(&served.remote()).await;
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnu",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n?",
        "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let remote = remote_at(listener.local_addr().expect("an address"), &tasks);
        let lossy = async {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut seen = vec![0; 16];
            socket.read_exact(&mut seen).await.expect("the request has left");
            socket.write_all(answer.as_bytes()).await.expect("writes");
        };
        let (sent, ()) = tokio::join!(remote.submit(&prepared), lossy);
        assert!(
            matches!(sent, Err(SubmitError::Unknown(_))),
            "{answer:?}: {sent:?}"
        );
    }
}

#[tokio::test]
async fn what_the_ledger_says_arrives_as_it_is() {
    let served = Served::start().await;
    let remote = served.remote();
    let mut broken = add(&remote).await;
    broken.envelope = "{}".into();
    let (Err(here), Err(there)) = (served.ledger.submit(&broken).await, remote.submit(&broken).await) else {
        panic!("a broken envelope was taken");
    };
    assert_eq!(format!("{there:?}"), format!("{here:?}"));
    // An identifier may hold anything.
    let odd = LedgerTxId("a/b?c#d%20e f".into());
    let (here, there) = (served.ledger.lookup(&odd).await, remote.lookup(&odd).await);
    assert_eq!(format!("{there:?}"), format!("{here:?}"));

    let http = reqwest::Client::builder().no_proxy().build().expect("client");
    let url = format!("http://{}/submit", served.address);
    let nonsense = http.post(url).body("{}").send().await.expect("an answer");
    assert_eq!(nonsense.status(), 503);
    let body = nonsense.text().await.expect("a body");
    assert!(
        body.starts_with(r#"{"unavailable":{"code":"BAD_REQUEST""#),
        "{body}"
    );
}

/// The stream comes back by itself, and what is prepared then does not miss its outcome.
#[tokio::test]
async fn a_stream_outlives_its_connection() {
    let served = Served::start().await;
    let tasks = TaskTracker::new();
    let remote = remote_at(served.address, &tasks);
    let mut stream = remote.outcomes();
    let mut served = served;
    for _ in 0..3 {
        let sent = add(&remote).await;
        remote.submit(&sent).await.expect("taken");
        outcomes_of(&mut stream, &[&sent.tx_id]).await;
        let stopping = Instant::now();
        let (ledger, address) = served.stop().await;
        assert!(stopping.elapsed() < Duration::from_secs(1), "streams end at once");
        remote.probe().await.expect_err("down");
        served = Served::serve(ledger, address).await;
    }
    drop(stream);
    tasks.close();
    tokio::time::timeout(Duration::from_secs(1), tasks.wait())
        .await
        .expect("a dropped stream leaves nothing behind");
    // Nobody listens, so nobody waits.
    add(&remote).await;
}

/// A stream that cannot come up holds nothing up for long.
#[tokio::test]
async fn a_ledger_without_a_stream_is_used_all_the_same() {
    let served = Served::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let tasks = TaskTracker::new();
    let remote = remote_at(listener.local_addr().expect("an address"), &tasks);
    let routes = router(served.ledger.clone(), CancellationToken::new());
    let deaf = axum::Router::new()
        .route(
            "/outcomes",
            axum::routing::get(async || axum::http::StatusCode::NOT_FOUND),
        )
        .fallback_service(routes);
    tasks.spawn(async { axum::serve(listener, deaf).await });
    let _stream = remote.outcomes();
    let sent = add(&remote).await;
    remote.submit(&sent).await.expect("taken");
}

#[tokio::test]
async fn addresses_are_checked() {
    for bad in ["", "127.0.0.1:7060", "devnet"] {
        assert!(RemoteSimulator::new(bad, &TaskTracker::new()).is_err(), "{bad}");
    }
}
