//! Tables come to be, once, whoever starts first.

use super::server::shared;
use super::session::Sessions;
use super::testing::{metrics, settings};
use super::{PostgresStore, SchemaStatus, migrate, schema_status};
use crate::store::{StoreError, TransactionStore};

fn text<T>(result: Result<T, StoreError>) -> String {
    result.err().expect("is refused").to_string()
}

fn database(url: &str) -> &str {
    url.rsplit('/').next().expect("a name")
}

#[tokio::test]
async fn many_nodes_may_start_at_once() {
    let settings = settings(&shared().database());
    let starts = (0..8).map(|_| PostgresStore::connect(&settings, metrics()));
    for started in futures_util::future::join_all(starts).await {
        started.expect("connects").close().await;
    }
    let made = shared().sql(
        database(settings.url.expose().path()),
        "SELECT count(*) FROM _sqlx_migrations",
    );
    assert_eq!(made, "3");
}

#[tokio::test]
async fn migrate_says_what_it_did_and_a_check_changes_nothing() {
    let settings = settings(&shared().database());
    let before = SchemaStatus {
        version: 0,
        outstanding: ["1 transactions", "2 checkpoints", "3 tenants"]
            .map(str::to_owned)
            .to_vec(),
    };
    for _ in 0..2 {
        assert_eq!(schema_status(&settings).await.expect("looks"), before);
    }
    assert_eq!(
        migrate(&settings).await.expect("migrates"),
        ["1 transactions", "2 checkpoints", "3 tenants"]
    );
    assert_eq!(migrate(&settings).await.expect("migrates"), Vec::<String>::new());
    assert_eq!(schema_status(&settings).await.expect("looks").version, 3);
}

#[tokio::test]
async fn serve_without_the_right_to_migrate_refuses_old_tables() {
    let mut settings = settings(&shared().database());
    settings.migrate = false;
    let refused = text(PostgresStore::connect(&settings, metrics()).await);
    assert!(refused.contains("run `sluicegate migrate`"), "{refused}");
    migrate(&settings).await.expect("migrates");
    let store = PostgresStore::connect(&settings, metrics())
        .await
        .expect("connects");
    store.close().await;
}

#[tokio::test]
async fn tables_of_a_newer_version_are_refused_with_the_remedy() {
    let settings = settings(&shared().database());
    migrate(&settings).await.expect("migrates");
    let database = database(settings.url.expose().path());
    shared().sql(
        database,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (999, 'from the future', true, '', 0)",
    );
    for refused in [
        text(PostgresStore::connect(&settings, metrics()).await),
        text(migrate(&settings).await),
        text(schema_status(&settings).await),
    ] {
        assert!(
            refused.contains("schema 999") && refused.contains("newer sluicegate"),
            "{refused}"
        );
    }
    shared().sql(database, "DELETE FROM _sqlx_migrations WHERE version = 999");
    shared().sql(database, "UPDATE _sqlx_migrations SET checksum = ''");
    let refused = text(migrate(&settings).await);
    assert!(refused.contains("not the one of this version"), "{refused}");
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_told_why_and_without_the_password() {
    let url = shared().url("no_such_database").replace("@", ":hunter2@");
    let refused = text(PostgresStore::connect(&settings(&url), metrics()).await);
    assert!(
        refused.contains("does not exist") && !refused.contains("hunter2"),
        "{refused}"
    );
    let name = format!("latin_{}", std::process::id());
    let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
    shared().sql("postgres", &create);
    let refused = text(PostgresStore::connect(&settings(&shared().url(&name)), metrics()).await);
    assert!(refused.contains("UTF8"), "{refused}");
}

#[tokio::test]
async fn sessions_are_durable_whatever_the_address_and_the_database_say() {
    let url = shared().database();
    let name = database(&url);
    shared().sql(
        "postgres",
        &format!("ALTER DATABASE {name} SET synchronous_commit = local"),
    );
    for address in [url.clone(), format!("{url}?options[synchronous_commit]=off")] {
        let sessions = Sessions::new(&settings(&address)).expect("an address");
        let asked = "SELECT current_setting('synchronous_commit') || ' ' || \
                     current_setting('application_name') || ' ' || current_setting('statement_timeout')";
        let rows = sessions.rows(sqlx::query(asked)).await.expect("answers");
        let told: String = sqlx::Row::get(&rows[0], 0);
        assert_eq!(told, "on sluicegate 20500ms");
    }
}
