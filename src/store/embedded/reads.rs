//! Reads that may visit many entries, off the async threads.
//!
//! Such a read cannot be broken off: when whoever asked is gone, it goes on to its end and holds the engine, and so the file,
//! until then. They are counted among the tasks of the gateway, which waits for them before it is done: whoever opens the
//! file next, in the same process too, finds it closed. A process that dies takes them along; they change nothing.

use tokio_util::task::TaskTracker;

use super::EmbeddedStore;
use crate::kv::KvEngine;
use crate::store::StoreError;

impl EmbeddedStore {
    /// Has reads that are under way counted among these tasks.
    pub fn tracked_by(mut self, tasks: &TaskTracker) -> Self {
        self.reads = tasks.clone();
        self
    }

    /// Runs a read that may visit many entries without holding up the async runtime. Dropping the future leaves the read
    /// to itself.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn KvEngine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = self.engine.clone();
        let read = self.reads.spawn_blocking(move || read(&*engine));
        read.await
            .map_err(|error| StoreError::Unavailable(format!("a read was given up: {error}")))?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;
    use crate::kv::EngineKind;
    use crate::store::embedded::DataFolder;
    use crate::telemetry::metrics::Metrics;

    /// What is dropped while it reads, as a lane that stops does, keeps the file open.
    #[tokio::test]
    async fn the_file_is_closed_when_the_last_read_that_nobody_waits_for_has_ended() {
        for kind in EngineKind::ALL {
            let place = tempfile::tempdir().expect("folder");
            let folder = DataFolder::hold(place.path(), kind).expect("holds");
            let open = || {
                let metrics = Metrics::new().expect("metrics").store();
                EmbeddedStore::open(kind, &folder.store(), 1 << 20, metrics)
            };
            let tasks = TaskTracker::new();
            let store = open().expect("opens").tracked_by(&tasks);
            let (go_on, may) = mpsc::channel::<()>();
            let read = store.blocking(move |_| Ok(may.recv().is_ok()));
            assert!(read.now_or_never().is_none(), "it is under way");
            drop(store);
            tasks.close();
            assert!(tasks.wait().now_or_never().is_none(), "{kind}: it is counted");
            assert!(open().is_err(), "{kind}: the file is held");
            go_on.send(()).expect("it waits for this");
            tasks.wait().await;
            open().expect("opens");
        }
    }
}
