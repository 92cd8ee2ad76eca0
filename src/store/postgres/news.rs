//! Hears from the other processes what they settled.
//!
//! A commit that settles tells the ids over `NOTIFY`, in the same transaction, so nothing is told that is not
//! stored. Listening is best effort: what was told while the connection was away is lost, and
//! [`News::Missed`] says so once it is back. The store remains the truth.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{Notify, broadcast};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::row::transaction_id;
use crate::domain::TransactionId;

pub(super) const CHANNEL: &str = "sluicegate_settled";

/// What is told at once has to stay under 8,000 bytes: 32 for who tells it, 32 for each id.
const IDS_AT_ONCE: usize = 240;
/// So much may wait for one who listens slowly; more, and it has missed something.
const KEPT: usize = 1_024;
/// How often the connection is asked for a sign of life.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What other processes did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// They settled these.
    Settled(Vec<TransactionId>),
    /// Something may have been missed: whoever waits should look again.
    Missed,
}

/// The texts that tell of these.
pub(super) fn tell(who: Uuid, settled: &[Uuid]) -> Vec<String> {
    let text = |ids: &[Uuid]| {
        let mut text = who.as_simple().to_string();
        ids.iter()
            .for_each(|id| text += id.as_simple().encode_lower(&mut Uuid::encode_buffer()));
        text
    };
    settled.chunks(IDS_AT_ONCE).map(text).collect()
}

/// Reads such a text. `None` if it is this process's own.
fn heard(who: Uuid, text: &str) -> Option<News> {
    let id = |bytes: &[u8]| Uuid::try_parse_ascii(bytes).ok();
    let mut ids = text.as_bytes().chunks(32).map(id);
    match ids.next() {
        Some(Some(teller)) if teller == who => None,
        Some(Some(_)) => ids
            .map(|id| id.map(transaction_id))
            .collect::<Option<Vec<_>>>()
            .map(News::Settled)
            .or(Some(News::Missed)),
        // Another version tells it in another way.
        _ => Some(News::Missed),
    }
}

/// Passes on what is heard.
pub(super) struct Listener {
    told: broadcast::Sender<News>,
    /// Notified of all news.
    changed: Arc<Notify>,
}

impl Listener {
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        Self {
            told: broadcast::Sender::new(KEPT),
            changed,
        }
    }

    pub(super) fn stream(&self) -> impl Stream<Item = News> + Send + Unpin + use<> {
        // Whoever lags has missed something.
        BroadcastStream::new(self.told.subscribe()).map(|news| news.unwrap_or(News::Missed))
    }

    /// Listens until `stop`, connecting again as often as needed.
    pub(super) fn run(
        &self,
        options: PgConnectOptions,
        timeout: Duration,
        who: Uuid,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (told, changed) = (self.told.clone(), self.changed.clone());
        let tell = move |news| {
            let _nobody = told.send(news);
            changed.notify_waiters();
        };
        async move {
            let listen = async {
                loop {
                    match listen(&options, timeout, who, &tell).await {
                        Ok(()) => tracing::info!("the connection that listens for news was lost"),
                        Err(error) => tracing::debug!(%error, "cannot listen for news of other processes"),
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = listen => {}
            }
        }
    }
}

/// Listens on one connection until it is lost.
async fn listen(
    options: &PgConnectOptions,
    timeout: Duration,
    who: Uuid,
    tell: &(dyn Fn(News) + Send + Sync),
) -> Result<(), sqlx::Error> {
    // sqlx listens on a connection of a pool only, so it gets one of its own, for one connection.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(timeout)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    tokio::time::timeout(timeout, listener.listen(CHANNEL))
        .await
        .map_err(|_| sqlx::Error::PoolTimedOut)??;
    // Nobody listened until now.
    tell(News::Missed);
    loop {
        match tokio::time::timeout(PROBE_EVERY, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                if let Some(news) = heard(who, notification.payload()) {
                    tell(news);
                }
            }
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let alive = sqlx::query("SELECT 1").execute(&mut listener);
                tokio::time::timeout(timeout, alive)
                    .await
                    .map_err(|_| sqlx::Error::PoolTimedOut)??;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_by_others_only_and_fits() {
        let (me, other) = (Uuid::now_v7(), Uuid::now_v7());
        let ids: Vec<_> = (0..500).map(|_| Uuid::now_v7()).collect();
        let texts = tell(me, &ids);
        assert!(texts.iter().all(|text| text.len() < 8_000));
        let mut all = Vec::new();
        for text in &texts {
            assert_eq!(heard(me, text), None);
            match heard(other, text) {
                Some(News::Settled(ids)) => all.extend(ids),
                news => panic!("{news:?}"),
            }
        }
        assert_eq!(all, ids.into_iter().map(transaction_id).collect::<Vec<_>>());
        assert_eq!(heard(me, "something else"), Some(News::Missed));
        assert!(tell(me, &[]).is_empty());
    }
}
