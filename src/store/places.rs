//! Every store that the conformance suite runs against, and where each of them lives.

use std::sync::Arc;

use super::TransactionStore;
use super::documents::DocumentStore;
use super::embedded::{self, DataFolder, EmbeddedStore};
use super::postgres::{self, PostgresStore};
use crate::config::PostgresSettings;
use crate::kv::EngineKind;
use crate::telemetry::metrics::Metrics;

/// A store under test, and what it takes to open it again.
pub(super) enum Place {
    Embedded(EngineKind, tempfile::TempDir),
    Postgres(PostgresSettings),
}

impl Place {
    /// One of every kind, each empty.
    pub(super) fn all() -> Vec<Self> {
        let folder = || tempfile::tempdir().expect("folder");
        let mut all: Vec<_> = EngineKind::ALL
            .into_iter()
            .map(|kind| Self::Embedded(kind, folder()))
            .collect();
        all.push(Self::Postgres(postgres::testing::settings(
            &postgres::server::shared().database(),
        )));
        all
    }

    pub(super) async fn open(&self) -> Arc<dyn TransactionStore> {
        self.open_both().await.0
    }

    /// The store, with its documents.
    pub(super) async fn open_both(&self) -> (Arc<dyn TransactionStore>, Arc<dyn DocumentStore>) {
        let metrics = Metrics::new().expect("metrics").store();
        match self {
            Self::Embedded(kind, folder) => {
                let path = folder.path().join("store");
                let store = EmbeddedStore::open(*kind, &path, 1 << 20, metrics).expect("opens");
                let store = Arc::new(store);
                (store.clone(), store)
            }
            Self::Postgres(settings) => {
                let store = PostgresStore::connect(settings, metrics).await.expect("connects");
                let store = Arc::new(store);
                (store.clone(), store)
            }
        }
    }

    /// As many as can use the place at once: several processes, or one.
    pub(super) async fn open_several(&self) -> Vec<(Arc<dyn TransactionStore>, Arc<dyn DocumentStore>)> {
        match self {
            Self::Embedded(..) => vec![self.open_both().await],
            Self::Postgres(_) => {
                let mut all = Vec::new();
                for _ in 0..3 {
                    all.push(self.open_both().await);
                }
                all
            }
        }
    }

    /// What a store that is closed can be checked for.
    pub(super) fn check(&self, records: usize) {
        let Self::Embedded(kind, folder) = self else {
            return;
        };
        let path = folder.path().join("store");
        let folder = DataFolder::hold(folder.path(), *kind).expect("holds");
        // The maintenance check expects the store at its usual place.
        std::fs::rename(path, folder.store()).expect("renames");
        let report = embedded::check(&folder, 1 << 20).expect("checks");
        assert_eq!(report.findings, []);
        assert_eq!(report.records(), records as u64);
    }
}
