//! A throw-away RabbitMQ for tests and benchmarks: private, on loopback and random ports, gone with the
//! process that started it, however that ends.
//!
//! [`Broker::shared`] is one for the whole test binary (starting takes about 11 s); `SLUICEGATE_TEST_AMQP_URL`
//! names another one to use instead. [`Broker::to_break`] is a second one, for tests that kill, freeze or
//! starve it, one test at a time.
//!
//! Nothing is left behind: a small shell in a session of its own waits for the end of its input, which comes
//! when this process is gone, be it by SIGKILL. It then ends every process whose environment names the
//! broker's folder, `epmd` included, and removes the folder.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "for tests, each of which uses a part of it"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const BIN: &str = "/usr/lib/rabbitmq/bin";
const START: Duration = Duration::from_secs(90);

/// Started with the folder as `$1`; its input ends with the process that started it.
const CLEAN_UP: &str = r#"
trap "" INT TERM HUP
cat >/dev/null
for round in 1 2 3 4 5; do
  for process in /proc/[0-9]*; do
    if grep -qsaF "$1" "$process/environ"; then kill -9 "${process#/proc/}" 2>/dev/null; fi
  done
  sleep 0.2
done
rm -rf "$1"
"#;

/// A broker of our own, or somebody else's of which only the URL is known.
pub struct Broker {
    url: String,
    own: Option<Own>,
}

struct Own {
    folder: PathBuf,
    port: u16,
    tls_port: u16,
    environment: Vec<(&'static str, String)>,
    server: Mutex<Option<Child>>,
    /// Kept open: its end is what the watching shell waits for.
    _watch: Child,
}

/// Certificates for the TLS port, as PEM files.
pub struct Certificates {
    /// Whoever has this trusts the broker.
    pub ca: PathBuf,
    /// A client's certificate by the same authority, and its key (PKCS #8).
    pub client: (PathBuf, PathBuf),
}

impl Broker {
    /// The one of this test binary.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("SLUICEGATE_TEST_AMQP_URL") {
            Ok(url) => Self { url, own: None },
            Err(_) => Self::start(),
        })
    }

    /// One that may be broken, by one test at a time. It is mended before it is given out.
    pub fn to_break() -> MutexGuard<'static, &'static Self> {
        static FRAGILE: OnceLock<Mutex<&Broker>> = OnceLock::new();
        let broker = FRAGILE
            .get_or_init(|| Mutex::new(Box::leak(Box::new(Self::start()))))
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        broker.mend();
        broker
    }

    /// Starts a broker and waits until it answers.
    fn start() -> Self {
        install();
        // Another program may take a port between our looking and the broker's binding.
        for _ in 0..3 {
            let own = Own::prepare();
            own.launch();
            if own.wait_ready(START).is_ok() {
                let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", own.port);
                return Self { url, own: Some(own) };
            }
            eprintln!("{}", own.log());
        }
        panic!("the broker does not start; its output is above");
    }

    fn own(&self) -> &Own {
        self.own.as_ref().expect("needs a broker of its own")
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it is, encrypted.
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.own().tls_port)
    }

    /// What the encrypted port asks for and shows.
    pub fn certificates(&self) -> Certificates {
        let folder = self.own().folder.join("tls");
        Certificates {
            ca: folder.join("ca.pem"),
            client: (folder.join("client.pem"), folder.join("client.key")),
        }
    }

    /// The broker's process.
    pub fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.own().folder.join("pid")).expect("a running broker");
        text.trim().parse().expect("a process id")
    }

    /// SIGKILL.
    pub fn kill9(&self) {
        self.signal("KILL");
        let _gone = std::fs::remove_file(self.own().folder.join("pid"));
        if let Some(mut server) = self.own().server.lock().unwrap().take() {
            server.wait().expect("waits");
        }
    }

    /// SIGSTOP: it keeps its sockets and says nothing.
    pub fn stop_signal(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status();
        assert!(done.expect("kill runs").success(), "no broker to signal");
    }

    /// Starts it again on the same folders, after [`kill9`](Self::kill9), and waits until it answers.
    pub fn restart(&self) {
        self.own().launch();
        if let Err(error) = self.own().wait_ready(START) {
            panic!("{error}\n{}", self.own().log());
        }
    }

    /// Runs `rabbitmqctl`; answers what it prints.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(format!("{BIN}/rabbitmqctl"))
            .arg("-q")
            .args(arguments)
            .envs(self.own().environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .output()
            .expect("rabbitmqctl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let trouble = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {text}{trouble}"
        );
        text
    }

    /// Undoes what a test that failed may have left.
    fn mend(&self) {
        if self.own().folder.join("pid").exists() {
            self.cont();
            self.ctl(&["set_vm_memory_high_watermark", "absolute", "4GB"]);
        } else {
            self.restart();
        }
    }
}

impl Own {
    fn prepare() -> Self {
        let [port, tls_port, dist, epmd, ctl] = free_ports();
        let folder = std::env::temp_dir().join(format!("sluicegate-rabbit-{}-{port}", std::process::id()));
        for name in ["home", "mnesia", "log", "tls"] {
            std::fs::create_dir_all(folder.join(name)).expect("creates the broker's folder");
        }
        let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
        make_certificates(&folder.join("tls"));
        let tls = path("tls");
        let config = format!(
            "listeners.ssl.1 = 127.0.0.1:{tls_port}\n\
             ssl_options.cacertfile = {tls}/ca.pem\nssl_options.certfile = {tls}/server.pem\n\
             ssl_options.keyfile = {tls}/server.key\nssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = true\n\
             disk_free_limit.absolute = 50MB\nvm_memory_high_watermark.absolute = 4GB\n\
             loopback_users = none\nlog.console = false\nlog.file.level = info\n"
        );
        std::fs::write(folder.join("rabbitmq.conf"), config).expect("writes the configuration");
        std::fs::write(folder.join("plugins"), "[].\n").expect("writes the list of plugins");
        let environment = vec![
            ("HOME", path("home")),
            ("RABBITMQ_NODENAME", format!("t{port}@localhost")),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", dist.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
            ("RABBITMQ_CTL_DIST_PORT_MIN", ctl.to_string()),
            ("RABBITMQ_CTL_DIST_PORT_MAX", (ctl + 4).to_string()),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}".to_owned(),
            ),
        ];
        let watch = Command::new("setsid")
            .args(["sh", "-c", CLEAN_UP, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh and setsid run");
        Self {
            folder,
            port,
            tls_port,
            environment,
            server: Mutex::new(None),
            _watch: watch,
        }
    }

    fn launch(&self) {
        let output = || {
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.folder.join("output"))
                .expect("opens")
        };
        // Not the wrapper in /usr/sbin, which changes the user.
        let child = Command::new("setsid")
            .arg(format!("{BIN}/rabbitmq-server"))
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .spawn()
            .expect("rabbitmq-server starts");
        *self.server.lock().unwrap() = Some(child);
    }

    /// Ready is who answers the protocol header; a mere listening socket is not.
    fn wait_ready(&self, patience: Duration) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if answers(self.port) && answers_at_all(self.tls_port) {
                return Ok(());
            }
            let ended = self.server.lock().unwrap().as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                return Err(format!("the broker ended: {status}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the broker does not answer".to_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("output")).unwrap_or_default()
    }
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1))
}

fn answers_at_all(port: u16) -> bool {
    connect(port).is_ok()
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<u8> {
        let mut stream = connect(port)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    };
    matches!(ask(), Ok(1))
}

/// Below those that the system gives to connections, one of which could hold a port while the broker is down.
fn free_ports<const N: usize>() -> [u16; N] {
    let free = || {
        let any = std::iter::repeat_with(|| rand::random_range(15_000..32_000));
        any.filter_map(|port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
            .next()
    };
    let held = [(); N].map(|()| free().expect("a free port"));
    held.map(|listener| listener.local_addr().expect("an address").port())
}

/// An authority of our own, and what it signs for the broker and for a client.
fn make_certificates(folder: &Path) {
    let script = r#"
set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN=test-authority \
  -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign
for name in server client; do
  openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:false\nextendedKeyUsage=%sAuth\n' $name >$name.ext
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 30 -extfile $name.ext
done
"#;
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .output();
    let output = output.expect("sh runs");
    let trouble = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "install openssl: {trouble}");
}

/// Installs the package where that is possible; says what to install where it is not.
fn install() {
    if Path::new(BIN).join("rabbitmq-server").exists() {
        return;
    }
    let apt = "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q rabbitmq-server";
    let done = Command::new("sh").args(["-c", apt]).status();
    let there = Path::new(BIN).join("rabbitmq-server").exists();
    assert!(
        matches!(done, Ok(status) if status.success()) && there,
        "these tests need a RabbitMQ: install the package rabbitmq-server, \
         or set SLUICEGATE_TEST_AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f"
    );
}
