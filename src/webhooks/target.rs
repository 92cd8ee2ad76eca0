//! The guard against being sent where only the gateway can go: metadata services, the loopback, private networks.
//!
//! - A URL is checked when it is accepted and again before every delivery.
//! - A name is resolved once for a delivery, every address it has is checked, and the connection goes to those
//!   addresses and no others ([`Guard`] is the client's resolver): a name that changes in between gains nothing.
//! - A literal address never reaches a resolver; it is checked in the URL. The parser has by then turned spellings
//!   such as `0x7f.1` into the address they stand for.
//! - Redirects are not followed and no proxy is used, by whoever sends.
//!
//! What a name resolves to at acceptance is remembered for a moment, and never used for a delivery.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::{Host, Url};

use super::address::not_public;
use crate::config::AllowedTarget;

/// The longest URL.
pub(super) const MAX_URL: usize = 2_048;
const MAX_HOST: usize = 253;

/// How long an accept may wait for a name.
const LOOK_UP: Duration = Duration::from_secs(2);
/// Each look-up holds a thread for as long as the resolver takes. So many accepts may look up at once; others do not wait.
const LOOK_UPS_AT_ONCE: usize = 32;
/// How long an accept may rely on what an earlier one was told, and how many names are remembered.
const REMEMBERED: Duration = Duration::from_secs(10);
const MOST_REMEMBERED: usize = 1_024;

/// Why nothing may be sent there; a sentence about the URL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Forbidden(String);

/// What knows the addresses of names.
pub(super) trait Names: Send + Sync + 'static {
    /// All addresses of a name. Blocks.
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's resolver.
struct SystemNames;

impl Names for SystemNames {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let addresses = (name, 0).to_socket_addrs()?;
        Ok(addresses.map(|address| address.ip()).collect())
    }
}

/// Decides where webhooks may be sent.
#[derive(Clone)]
pub struct Guard(Arc<Inner>);

struct Inner {
    allowed: Vec<AllowedTarget>,
    names: Arc<dyn Names>,
    /// The right of an accept to look up a name.
    for_accepts: Arc<Semaphore>,
    /// The right of a delivery to.
    for_deliveries: Arc<Semaphore>,
    remembered: Mutex<HashMap<String, Remembered>>,
}

/// What a name was found to be, and when.
type Remembered = (Instant, Result<(), Forbidden>);

/// Why a name has no address to connect to.
#[derive(Debug, Error)]
enum NoAddress {
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error("the name {0} cannot be resolved: {1}")]
    Unknown(String, io::Error),
}

impl Guard {
    /// A guard that lets through what is public, and `allowed`. So many deliveries look up names at once.
    pub fn new(allowed: Vec<AllowedTarget>, deliveries: usize) -> Self {
        Self::with_names(allowed, deliveries, Arc::new(SystemNames))
    }

    fn with_names(allowed: Vec<AllowedTarget>, deliveries: usize, names: Arc<dyn Names>) -> Self {
        Self(Arc::new(Inner {
            allowed,
            names,
            for_accepts: Arc::new(Semaphore::new(LOOK_UPS_AT_ONCE)),
            for_deliveries: Arc::new(Semaphore::new(deliveries)),
            remembered: Mutex::default(),
        }))
    }

    /// Reads a URL and checks everything that can be known without asking anybody.
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn read(&self, text: &str) -> Result<Url, Forbidden> {
        let wrong = |what: &str| Err(Forbidden(what.to_owned()));
        if text.len() > MAX_URL {
            return wrong(&format!("has more than {MAX_URL} bytes"));
        }
        let Ok(url) = Url::parse(text) else {
            return wrong("must be a URL such as https://erp.example/hooks/ledger");
        };
        if !matches!(url.scheme(), "http" | "https") {
            return wrong("must start with https:// or http://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("must not hold a user name or password; receivers check the signature");
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.judge(None, address.into())?,
            Some(Host::Ipv6(address)) => self.judge(None, address.into())?,
            // What it stands for is not up to a resolver (RFC 6761).
            Some(Host::Domain(name)) if is_local(name) => {
                self.judge(Some(name), Ipv4Addr::LOCALHOST.into())?
            }
            // No resolver knows a longer one (RFC 1035), and it is part of a key in the store.
            Some(Host::Domain(name)) if name.len() > MAX_HOST => {
                return wrong(&format!("names a host of more than {MAX_HOST} bytes"));
            }
            Some(Host::Domain(_)) => {}
            None => return wrong("must name a host"),
        }
        Ok(url)
    }

    /// What [`read`](Self::read) checks, and where the host's name leads now. A name that does not resolve, or not
    /// in time, or that there is no place to look up now, is let through: it is looked at again before anything is sent.
    ///
    /// # Errors
    /// [`Forbidden`].
    pub async fn accept(&self, text: &str) -> Result<(), Forbidden> {
        let url = self.read(text)?;
        let Some(Host::Domain(name)) = url.host() else {
            return Ok(());
        };
        if let Some(verdict) = self.remembered(name) {
            return verdict;
        }
        // Who waited here would wait for other tenants' names (I9).
        let Ok(permit) = self.0.for_accepts.clone().try_acquire_owned() else {
            return Ok(());
        };
        let verdict = match tokio::time::timeout(LOOK_UP, self.addresses(name, permit)).await {
            Ok(Err(NoAddress::Forbidden(forbidden))) => Err(forbidden),
            Ok(Ok(_) | Err(NoAddress::Unknown(..))) | Err(_) => Ok(()),
        };
        let mut remembered = self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(name.to_owned(), (Instant::now(), verdict.clone()));
        verdict
    }

    fn remembered(&self, name: &str) -> Option<Result<(), Forbidden>> {
        let remembered = self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, verdict) = remembered.get(name)?;
        (at.elapsed() < REMEMBERED).then(|| verdict.clone())
    }

    /// The addresses of a name, all of which may be connected to.
    async fn addresses(&self, name: &str, permit: OwnedSemaphorePermit) -> Result<Vec<IpAddr>, NoAddress> {
        let unknown = |error| NoAddress::Unknown(name.to_owned(), error);
        let (names, asked) = (self.0.names.clone(), name.to_owned());
        let looked_up = tokio::task::spawn_blocking(move || {
            // Held for as long as the thread is, even if nobody waits for it any more.
            let _permit = permit;
            names.resolve(&asked)
        });
        let addresses = looked_up
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(unknown)?;
        if addresses.is_empty() {
            return Err(unknown(io::Error::other("it has no address")));
        }
        for address in &addresses {
            self.judge(Some(name), *address)?;
        }
        Ok(addresses)
    }

    /// Judges an address, and the name that led to it.
    fn judge(&self, name: Option<&str>, address: IpAddr) -> Result<(), Forbidden> {
        let Some(kind) = not_public(address) else {
            return Ok(());
        };
        if self.0.allowed.iter().any(|allowed| allowed.covers(name, address)) {
            return Ok(());
        }
        // Whoever asks must not learn the addresses of names that only this machine can resolve.
        let leads = match name {
            Some(name) => {
                tracing::debug!(name, %address, kind, "a webhook may not go there");
                format!("leads to {name}, which is not a public address")
            }
            None => format!("leads to {address}"),
        };
        Err(Forbidden(format!(
            "{leads}: {kind}; webhooks go to public addresses, and to what the operator lists in webhooks.allow_targets"
        )))
    }
}

fn is_local(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

impl reqwest::dns::Resolve for Guard {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let permit = guard.0.for_deliveries.clone().acquire_owned().await?;
            let addresses = guard.addresses(name.as_str(), permit).await?;
            let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(sockets) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use reqwest::dns::Resolve;

    use super::*;

    /// Answers in turn, the last answer for ever.
    struct Script(Vec<&'static [&'static str]>, AtomicUsize);

    impl Names for Script {
        fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            let turn = self.1.fetch_add(1, Ordering::Relaxed).min(self.0.len() - 1);
            if name == "missing.example" {
                return Err(io::Error::other("no such name"));
            }
            Ok(self.0[turn]
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect())
        }
    }

    fn guard(allowed: &[&str], answers: &[&'static [&'static str]]) -> Guard {
        let allowed = allowed
            .iter()
            .map(|text| text.parse().expect("a target"))
            .collect();
        Guard::with_names(
            allowed,
            1,
            Arc::new(Script(answers.to_vec(), AtomicUsize::new(0))),
        )
    }

    #[test]
    fn urls_are_read_strictly_and_literal_addresses_judged() {
        let guard = guard(&["10.1.0.0/16", "fd00::/8"], &[&[]]);
        for good in [
            "https://erp.example/hooks?tenant=1",
            "http://erp.example:8443/",
            "http://8.8.8.8:1/",
            "http://10.1.2.3/",
            "http://[::ffff:10.1.2.3]/",
            "http://[fd00::1]/",
        ] {
            assert!(guard.read(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "must be a URL"),
            ("erp.example/hooks", "must be a URL"),
            ("ftp://erp.example/", "https:// or http://"),
            ("file:///etc/passwd", "https:// or http://"),
            ("https://me@erp.example/", "user name"),
            ("https://me:secret@erp.example/", "user name"),
            ("https://", "must be a URL"),
            ("http://10.2.0.1/", "private"),
            ("http://127.0.0.1/", "loopback"),
            ("http://127.1/", "loopback"),
            ("http://0x7f.1/", "loopback"),
            ("http://2130706433/", "loopback"),
            ("http://017700000001/", "loopback"),
            ("http://①②⑦.0.0.1/", "loopback"),
            ("http://127.0.0.1./", "loopback"),
            ("http://169.254.169.254/latest/meta-data/", "link-local"),
            ("http://0xa9fea9fe/", "link-local"),
            ("http://2852039166/", "link-local"),
            ("http://[::ffff:a9fe:a9fe]/", "link-local"),
            ("http://[64:ff9b::a9fe:a9fe]/", "link-local"),
            ("http://[::1]/", "loopback"),
            ("http://localhost/", "loopback"),
            ("http://LocalHost.:80/", "loopback"),
            ("http://a.localhost/", "loopback"),
            ("http://[fe80::1]/", "link-local"),
        ] {
            let refused = guard.read(bad).expect_err(bad).to_string();
            assert!(refused.contains(why), "{bad}: {refused}");
        }
        let long = format!("https://erp.example/{}", "x".repeat(MAX_URL));
        assert!(guard.read(&long).is_err());
    }

    #[tokio::test]
    async fn a_name_is_refused_if_any_of_its_addresses_is_not_public() {
        let both = guard(&[], &[&["8.8.8.8", "169.254.169.254"]]);
        let refused = both
            .accept("http://meta.example/")
            .await
            .expect_err("is refused")
            .to_string();
        assert!(
            refused.contains("meta.example, which is not a public address: link-local"),
            "{refused}"
        );
        assert!(!refused.contains("169.254"), "{refused}");
        let public = guard(&[], &[&["8.8.8.8", "2606:4700::1"]]);
        assert_eq!(public.accept("http://erp.example/").await, Ok(()));
        assert_eq!(
            public.accept("http://missing.example/").await,
            Ok(()),
            "it may come to be"
        );
    }

    #[tokio::test]
    async fn a_name_is_allowed_by_itself_or_by_its_address() {
        for allowed in ["erp.lan", "ERP.lan.", "192.168.1.0/24", "192.168.1.7"] {
            let guard = guard(&[allowed], &[&["192.168.1.7"]]);
            assert_eq!(guard.accept("http://erp.lan/").await, Ok(()), "{allowed}");
        }
        for other in ["lan", "x.erp.lan", "192.168.2.0/24"] {
            let guard = guard(&[other], &[&["192.168.1.7"]]);
            assert!(guard.accept("http://erp.lan/").await.is_err(), "{other}");
        }
    }

    /// DNS rebinding: what counts is what is resolved for the connection itself.
    #[tokio::test]
    async fn a_name_that_changes_after_it_was_accepted_is_not_connected_to() {
        let guard = guard(&[], &[&["8.8.8.8"], &["127.0.0.1"]]);
        assert_eq!(guard.accept("http://rebinding.example/").await, Ok(()));
        let resolved = guard.resolve("rebinding.example".parse().expect("a name")).await;
        let refused = resolved.err().expect("is refused").to_string();
        assert!(refused.contains("not a public address: loopback"), "{refused}");
    }

    /// A resolver that knows one name, and keeps whoever asks for another until the other end is dropped.
    struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);

    impl Names for Stuck {
        fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
            if name != "erp.example" {
                let _gone = self.0.lock().expect("lock").recv();
            }
            Ok(vec![Ipv4Addr::new(8, 8, 8, 8).into()])
        }
    }

    fn stuck() -> (Guard, std::sync::mpsc::Sender<()>) {
        let (hold, held) = std::sync::mpsc::channel();
        let names = Arc::new(Stuck(Mutex::new(held)));
        (Guard::with_names(Vec::new(), 1, names), hold)
    }

    #[tokio::test(start_paused = true)]
    async fn an_accept_does_not_wait_for_ever_for_a_name() {
        let (guard, hold) = stuck();
        let accepted = guard.accept("http://slow.example/");
        tokio::pin!(accepted);
        assert!(futures_util::poll!(&mut accepted).is_pending());
        tokio::time::advance(LOOK_UP).await;
        assert_eq!(accepted.await, Ok(()));
        drop(hold);
    }

    #[tokio::test]
    async fn i9_slow_names_of_some_hold_up_no_other_accept_and_no_delivery() {
        let (guard, hold) = stuck();
        let mut waiting = Vec::new();
        for n in 0..LOOK_UPS_AT_ONCE {
            let guard = guard.clone();
            let mut accept =
                Box::pin(async move { guard.accept(&format!("http://slow-{n}.example/")).await });
            assert!(futures_util::poll!(&mut accept).is_pending());
            waiting.push(accept);
        }
        let mut other = Box::pin(guard.accept("http://other.example/"));
        assert_eq!(futures_util::poll!(&mut other), std::task::Poll::Ready(Ok(())));
        let delivery = guard.resolve("erp.example".parse().expect("a name"));
        assert!(delivery.await.is_ok());
        drop(hold);
        for accept in waiting {
            assert_eq!(accept.await, Ok(()));
        }
    }
}
