//! The tables, and how they come to be: migrations built into the program.
//!
//! They run one after the other under an advisory lock, each in a transaction together with the note that it
//! was made. So any number of nodes may start at once, and a crash in the midst leaves all of a migration or
//! nothing; the next start goes on from there. A database that a newer version has migrated is refused.

use sqlx::migrate::{Migrate, Migration, MigrationType};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row, SqlSafeStr};

use super::failure::Failure;
use super::session::Sessions;
use crate::config::PostgresSettings;
use crate::store::StoreError;

const NOTES: &str = "_sqlx_migrations";

fn migrations() -> Vec<Migration> {
    let migration = |version, name: &'static str, sql: &'static str| {
        let kind = MigrationType::Simple;
        Migration::new(version, name.into(), kind, sql.into_sql_str(), false)
    };
    vec![
        migration(
            1,
            "transactions",
            include_str!("../../../migrations/0001_transactions.sql"),
        ),
        migration(
            2,
            "checkpoints",
            include_str!("../../../migrations/0002_checkpoints.sql"),
        ),
        migration(3, "tenants", include_str!("../../../migrations/0003_tenants.sql")),
    ]
}

/// Where the tables of a database stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaStatus {
    /// The last migration that was made; 0 if none was.
    pub version: i64,
    /// Those still to be made, `number name`.
    pub outstanding: Vec<String>,
}

/// Looks at the tables of the configured database and changes nothing.
///
/// # Errors
/// [`StoreError::Unavailable`] if the database cannot be reached, [`StoreError::Damaged`] if a newer version
/// has migrated it or a migration was tampered with.
pub async fn schema_status(settings: &PostgresSettings) -> Result<SchemaStatus, StoreError> {
    let sessions = Sessions::new(settings)?;
    let mut connection = connect(&sessions).await?;
    let status = read(&mut connection).await.map_err(Failure::into_store_error);
    // It was read-only, and the process goes on without it.
    let _closed = connection.close().await;
    status
}

/// Makes the outstanding migrations and answers those that this call made, `number name`.
///
/// # Errors
/// As [`schema_status`].
pub async fn migrate(settings: &PostgresSettings) -> Result<Vec<String>, StoreError> {
    let sessions = Sessions::new(settings)?;
    let mut connection = connect(&sessions).await?;
    // Nothing to do needs no right to do it.
    let status = read(&mut connection).await.map_err(Failure::into_store_error)?;
    if status.outstanding.is_empty() {
        return Ok(Vec::new());
    }
    let made = apply(&mut connection).await.map_err(Failure::into_store_error);
    // Closing also releases the lock if something failed.
    let _closed = connection.close().await;
    made
}

async fn connect(sessions: &Sessions) -> Result<PgConnection, StoreError> {
    let deadline = sessions.deadline();
    sessions
        .connect(deadline)
        .await
        .map_err(Failure::into_store_error)
}

async fn apply(connection: &mut PgConnection) -> Result<Vec<String>, Failure> {
    // Building an index over what is there, or waiting for another node that does, takes its time.
    connection
        .execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        .await?;
    let failed = |error| Failure::Sql(sqlx::Error::Migrate(Box::new(error)));
    connection.lock().await.map_err(failed)?;
    connection.ensure_migrations_table(NOTES).await.map_err(failed)?;
    // Read again: another node may have made them while this one waited for the lock.
    let status = read(connection).await?;
    let mut made = Vec::new();
    for migration in migrations() {
        if migration.version > status.version {
            connection.apply(NOTES, &migration).await.map_err(failed)?;
            made.push(title(&migration));
        }
    }
    connection.unlock().await.map_err(failed)?;
    Ok(made)
}

async fn read(connection: &mut PgConnection) -> Result<SchemaStatus, Failure> {
    let known = migrations();
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(NOTES)
        .fetch_one(&mut *connection)
        .await?;
    let rows = if exists {
        sqlx::query("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(&mut *connection)
            .await?
    } else {
        Vec::new()
    };
    let newest = known.last().map_or(0, |migration| migration.version);
    let mut version = 0;
    for row in rows {
        version = row.try_get("version")?;
        let checksum: Vec<u8> = row.try_get("checksum")?;
        match known.iter().find(|migration| migration.version == version) {
            Some(migration) if *migration.checksum == *checksum => {}
            Some(_) => {
                return Err(Failure::Damaged(format!(
                    "migration {version} of the database is not the one of this version: \
                     was it made by an unreleased sluicegate?"
                )));
            }
            None => {
                return Err(Failure::Damaged(format!(
                    "the database has schema {version} and this version knows {newest}: \
                     a newer sluicegate has migrated it; start that one"
                )));
            }
        }
    }
    let outstanding = known.iter().filter(|migration| migration.version > version);
    Ok(SchemaStatus {
        version,
        outstanding: outstanding.map(title).collect(),
    })
}

fn title(migration: &Migration) -> String {
    format!("{} {}", migration.version, migration.description)
}
