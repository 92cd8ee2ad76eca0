//! The stream of outcomes from a ledger in another process, and when it is up.
//!
//! A task of its own holds the connection, from the call of `outcomes` until the stream is dropped. It connects
//! again by itself, after a pause; what is told meanwhile is missed, and look-ups find it. It counts as up with
//! the first line, which the other side sends once it listens to its ledger.
//!
//! Nothing here is stored, so a crash of either side costs a new connection and look-ups.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Url;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use super::wire::{Group, HEARTBEAT};
use crate::ledger::Outcomes;

/// Groups that may wait for a slow reader; then the other side waits, and drops some in the end.
const GROUPS: usize = 256;

/// A connection that says nothing for so long is dead. Far more than a heartbeat, for a busy machine.
const SILENCE: Duration = Duration::from_secs(5 * HEARTBEAT.as_secs());

/// Shortest and longest pause before it connects again.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 100..=1_000;

/// How long to wait at most for streams that are not up. Well below half of the shortest lease (500 ms), which
/// is when the lane gives a call up.
const PATIENCE: Duration = Duration::from_millis(300);

/// All streams of one ledger.
#[derive(Default)]
pub(super) struct Links {
    /// How many of them are not up.
    down: watch::Sender<usize>,
    /// Somebody waits for them: no pauses now.
    hurry: Notify,
}

impl Links {
    /// Waits until all streams there are are up, but not for long. To be called when the other side was just
    /// seen alive, so that it is only a matter of connecting.
    pub(super) async fn up(&self) {
        let mut down = self.down.subscribe();
        if *down.borrow() == 0 {
            return;
        }
        self.hurry.notify_waiters();
        // In vain: outcomes may be missed, and look-ups find them. Better than not to submit at all.
        let _late = timeout(PATIENCE, down.wait_for(|down| *down == 0)).await;
    }
}

/// One stream's share of the count.
struct Link {
    links: Arc<Links>,
    is_up: bool,
    /// That it is down has been logged.
    is_troubled: bool,
}

impl Link {
    fn new(links: Arc<Links>) -> Self {
        links.down.send_modify(|down| *down += 1);
        Self {
            links,
            is_up: false,
            is_troubled: false,
        }
    }

    fn set(&mut self, is_up: bool) {
        if self.is_up != is_up {
            self.is_up = is_up;
            self.links.down.send_modify(|down| match is_up {
                true => *down -= 1,
                false => *down += 1,
            });
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A stream that is gone keeps nobody waiting.
        self.set(true);
    }
}

/// Starts a stream. It counts as down at once, so that whoever prepares after this waits for it.
pub(super) fn subscribe(http: reqwest::Client, url: Url, links: Arc<Links>, tasks: &TaskTracker) -> Outcomes {
    let (sink, groups) = mpsc::channel(GROUPS);
    let link = Link::new(links);
    tasks.spawn(async move {
        tokio::select! {
            () = sink.closed() => {}
            () = follow(&http, &url, link, &sink) => {}
        }
    });
    ReceiverStream::new(groups).boxed()
}

/// Connects again and again.
async fn follow(http: &reqwest::Client, url: &Url, mut link: Link, sink: &mpsc::Sender<Group>) {
    loop {
        let reason = listen(http, url, &mut link, sink).await;
        link.set(false);
        // The change is logged, not every try.
        if !std::mem::replace(&mut link.is_troubled, true) {
            tracing::warn!(%url, reason, "no outcomes are told; connecting again until they are");
        }
        let pause = Duration::from_millis(rand::random_range(PAUSE_MS));
        // Ends early if somebody waits; not being told is no reason to wait longer than the pause.
        let _early = timeout(pause, link.links.hurry.notified()).await;
    }
}

/// Passes on what one connection tells, and answers why that ended.
async fn listen(http: &reqwest::Client, url: &Url, link: &mut Link, sink: &mpsc::Sender<Group>) -> String {
    let silent = |_| format!("it said nothing for {SILENCE:?}");
    let sent = timeout(SILENCE, http.get(url.clone()).send()).await;
    let answer = sent.map_err(silent).and_then(|sent| {
        let answer = sent.and_then(reqwest::Response::error_for_status);
        answer.map_err(|error| super::remote::root(&error))
    });
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(reason) => return reason,
    };
    let mut line = Vec::new();
    loop {
        let chunk = match timeout(SILENCE, answer.chunk()).await.map_err(silent) {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return "it ended the stream".to_owned(),
            Ok(Err(error)) => return super::remote::root(&error),
            Err(reason) => return reason,
        };
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if !line.ends_with(b"\n") {
                continue;
            }
            let group: Group = match serde_json::from_slice(&line) {
                Ok(group) => group,
                Err(error) => return format!("it said something strange: {error}"),
            };
            line.clear();
            link.set(true);
            if std::mem::take(&mut link.is_troubled) {
                tracing::info!(%url, "outcomes are told again");
            }
            if !group.is_empty() && sink.send(group).await.is_err() {
                return "nobody listens any more".to_owned();
            }
        }
    }
}
