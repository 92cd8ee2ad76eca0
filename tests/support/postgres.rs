//! A real PostgreSQL for tests and benchmarks: private, throw-away, gone with the process that started it.
//!
//! [`shared`] starts one for the whole process at its first use, or takes the one that
//! `SLUICEGATE_TEST_POSTGRES_URL` names (a role that may create databases). [`Server::start`] starts one of its
//! own, to be stopped, killed and paused. Each test takes a [`Server::database`] of its own.
//!
//! Nothing is left behind, not even after a SIGKILL of this process: a small shell waits at the other end of a
//! pipe that closes with this process, then kills the server and removes its folder. The server runs with
//! `fsync` on, for durability is what is tested.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each user needs a part of it, and a test that cannot go on has failed"
)]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const ROLE: &str = "sluicegate";
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that this process started, or was told of.
pub(crate) struct Server {
    /// Up to the name of the database, exclusively.
    base: String,
    own: Option<Own>,
}

struct Own {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    options: Vec<String>,
    /// Holds the pipe whose end tells it to clean up.
    guard: Child,
}

/// The server of this process, started at the first use.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "where a server is already there is for the tests alone"
    )]
    SHARED.get_or_init(|| match std::env::var("SLUICEGATE_TEST_POSTGRES_URL") {
        Ok(url) => Server::given(&url),
        // Tests of many threads have a store each.
        Err(_) => Server::start(&["max_connections=300"]),
    })
}

impl Server {
    fn given(url: &str) -> Self {
        let (base, _database) = url.rsplit_once('/').expect("an address with a database");
        Self {
            base: base.to_owned(),
            own: None,
        }
    }

    /// Starts a server with these settings, each `name=value`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let programs = installed();
        let folder = tempfile::Builder::new()
            .prefix("sluicegate-pg-")
            .tempdir()
            .expect("a folder")
            .keep();
        let guard = guard(&folder);
        if is_root() {
            let own = Command::new("chown").arg("postgres:").arg(&folder).status();
            assert!(own.expect("chown runs").success(), "the user postgres is there");
        }
        let data = folder.join("data");
        let init = as_postgres(&programs.join("initdb"))
            .args([
                "-U",
                ROLE,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .current_dir(&folder)
            .output()
            .expect("initdb runs");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        // Below those that the system gives to connections, one of which could hold it while the server is down.
        let port = std::iter::repeat_with(|| rand::random_range(15_000..32_000))
            .find(|port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
            .expect("a free port");
        let own = Own {
            programs,
            folder,
            port,
            options: settings.iter().map(|&setting| setting.to_owned()).collect(),
            guard,
        };
        own.run();
        Self {
            base: format!("postgres://{ROLE}@127.0.0.1:{port}"),
            own: Some(own),
        }
    }

    fn own(&self) -> &Own {
        self.own.as_ref().expect("a server of our own")
    }

    /// The address of the database `name`.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    /// The address of a new, empty database.
    pub(crate) fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"));
        self.url(&name)
    }

    /// Runs a statement as the superuser and answers what it printed.
    pub(crate) fn sql(&self, database: &str, statement: &str) -> String {
        psql(&self.url(database), statement)
    }

    /// SIGKILL to all of its processes, as when the machine goes down.
    pub(crate) fn kill(&self) {
        let pids = self.own().pids();
        signal("KILL", &pids);
        wait_until("all of the server is gone", || {
            pids.iter().all(|pid| !is_running(*pid))
        });
    }

    /// Stops it in an orderly way; sessions are cut.
    pub(crate) fn stop(&self) {
        let pids = self.own().pids();
        signal("INT", &pids[..1]);
        wait_until("the server stops", || pids.iter().all(|pid| !is_running(*pid)));
    }

    /// Starts it again after [`kill`](Self::kill) or [`stop`](Self::stop).
    pub(crate) fn restart(&self) {
        self.own().run();
    }

    /// SIGSTOP to all of its processes: connections stay open, and nobody answers.
    pub(crate) fn pause(&self) {
        signal("STOP", &self.own().pids());
    }

    /// Ends a [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        signal("CONT", &self.own().pids());
    }
}

impl Own {
    fn run(&self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .expect("a log");
        let mut command = as_postgres(&self.programs.join("postgres"));
        command
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["-p", &self.port.to_string(), "-k"])
            .arg(&self.folder)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=on"]);
        for option in &self.options {
            command.args(["-c", option]);
        }
        // A pid file of a killed server would be taken for the new one's.
        let _absent = fs::remove_file(self.folder.join("data/postmaster.pid"));
        command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            // Keys pressed at the terminal are not for it.
            .process_group(0);
        let mut server = command.spawn().expect("the server starts");
        let ready = || {
            if let Ok(Some(status)) = server.try_wait() {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                panic!("the server ended with {status}: {log}");
            }
            let probe = Command::new(self.programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status();
            probe.is_ok_and(|status| status.success())
        };
        wait_until("the server is ready", ready);
        // Reaps it whenever it ends, so that its id does not linger.
        std::thread::spawn(move || server.wait());
    }

    /// The server, then all that it started.
    fn pids(&self) -> Vec<u32> {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("it runs");
        let first: u32 = file
            .lines()
            .next()
            .expect("a line")
            .trim()
            .parse()
            .expect("an id");
        let mut pids = vec![first];
        for entry in fs::read_dir("/proc").expect("Linux").flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok());
            if let Some(pid) = pid
                && parent(pid) == Some(first)
            {
                pids.push(pid);
            }
        }
        pids
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Its pipe closes, and it cleans up.
        drop(self.guard.stdin.take());
        let _gone = self.guard.wait();
    }
}

/// Waits for the end of this process, or of its pipe; then nothing of the server is left.
fn guard(folder: &Path) -> Child {
    let script = r#"
        read -r _
        pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null)
        if [ -n "$pid" ]; then
            all="$pid $(ps -o pid= --ppid "$pid" 2>/dev/null || cat "/proc/$pid/task/$pid/children" 2>/dev/null)"
            kill -KILL $all 2>/dev/null
        fi
        for _ in 1 2 3 4 5; do rm -rf "$0" 2>/dev/null && break; sleep 0.2; done
    "#;
    Command::new("sh")
        .args(["-c", script])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C that ends this process must not end the guard before it has cleaned up.
        .process_group(0)
        .spawn()
        .expect("sh runs")
}

/// The folder with the server's programs; installs them if that is possible.
fn installed() -> PathBuf {
    if let Some(programs) = programs() {
        return programs;
    }
    if is_root() {
        let install = "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql";
        let _tried = Command::new("sh")
            .args(["-c", install])
            .stdout(Stdio::null())
            .status();
    }
    programs()
        .expect("PostgreSQL is needed: install the package `postgresql`, or set SLUICEGATE_TEST_POSTGRES_URL")
}

/// Debian keeps every version in a folder of its own; others have it in the path.
fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    folders.sort();
    let path = [
        "/usr/local/bin",
        "/usr/bin",
        "/opt/homebrew/bin",
        "/usr/local/pgsql/bin",
    ]
    .map(PathBuf::from);
    let mut all = folders.into_iter().rev().chain(path);
    all.find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
}

/// The server refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"])
        .arg(program);
    command
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
    })
}

fn psql(url: &str, statement: &str) -> String {
    let programs = programs().map_or_else(|| PathBuf::from("psql"), |folder| folder.join("psql"));
    let run = Command::new(programs)
        .args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
            url,
        ])
        // A test may have made the server read-only.
        .env("PGOPTIONS", "-c default_transaction_read_only=off")
        .output()
        .expect("psql runs");
    assert!(
        run.status.success(),
        "{statement}: {}",
        String::from_utf8_lossy(&run.stderr)
    );
    String::from_utf8_lossy(&run.stdout).trim().to_owned()
}

fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    // Some may have ended by themselves meanwhile.
    let _some_gone = Command::new("kill")
        .arg(format!("-{name}"))
        .args(pids)
        .stderr(Stdio::null())
        .status()
        .expect("kill runs");
}

/// A field of `/proc/PID/stat` after the name, which may hold anything.
fn stat(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(field).map(str::to_owned)
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid, 1)?.parse().ok()
}

fn is_running(pid: u32) -> bool {
    stat(pid, 0).is_some_and(|state| state != "Z")
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
