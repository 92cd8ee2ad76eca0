//! Sessions with the database: opened as needed, used again while sound, thrown away at the first doubt.
//!
//! Why not sqlx's pool: it gives a connection back after a statement was abandoned as soon as a ping passes,
//! which waits for that statement without limit; it does not tell why no connection could be had; and it pings
//! at every return. Here:
//!
//! - Every wait has a deadline, the one of the call it is for.
//! - A [`Session`] goes back only if nothing is under way on it. Dropping it in the midst of a statement, or
//!   after a failure that [`Failure::spares_session`] does not know to be harmless, closes its socket; the
//!   server rolls back what was not committed.
//! - When one fails as they all would (the server went away), those opened before are not used again, so a
//!   database that came back is used at once.
//! - One that was idle for long is asked for a sign of life first.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::address;
use super::failure::Failure;
use crate::config::{PostgresSettings, ServerUrl};
use crate::store::StoreError;

/// A session that was idle longer is asked for a sign of life before it is trusted.
const TRUSTED: Duration = Duration::from_secs(1);
/// Plans are made anew after so long: those made while a table was small do not fit once it has grown, and the
/// server itself notices only when it next gathers statistics.
const PLANS_LAST: Duration = Duration::from_secs(10);
/// Sessions that nobody needed for so long are closed.
const SPARE: Duration = Duration::from_secs(300);
/// Pauses between tries to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The server gives a statement up so long after we did.
const SERVER_PATIENCE: Duration = Duration::from_millis(500);
/// PostgreSQL 13: the oldest with `pg_current_xact_id` and without a known end.
const OLDEST_SERVER: u32 = 130_000;

/// A query with its arguments.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// All sessions of one store.
pub(super) struct Sessions {
    options: PgConnectOptions,
    url: ServerUrl,
    timeout: Duration,
    permits: Arc<Semaphore>,
    most: u32,
    idle: Mutex<Vec<Idle>>,
    /// Goes up when sessions opened before are not to be used again.
    generation: AtomicU64,
    closed: AtomicBool,
}

struct Idle {
    connection: PgConnection,
    generation: u64,
    since: Instant,
    planned: Instant,
}

impl Sessions {
    /// Sessions as the settings want them; none is opened yet.
    pub(super) fn new(settings: &PostgresSettings) -> Result<Arc<Self>, StoreError> {
        let most = settings.max_connections.get();
        Ok(Arc::new(Self {
            options: address::options(&settings.url)?,
            url: settings.url.clone(),
            timeout: settings.timeout,
            permits: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(usize::MAX))),
            most,
            idle: Mutex::default(),
            generation: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }))
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// How long a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn most(&self) -> u32 {
        self.most
    }

    /// When a call that begins now has to end.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Runs one statement on a session and answers its rows.
    pub(super) async fn rows(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, Failure> {
        self.take(self.deadline()).await?.rows(statement).await
    }

    /// A sound session, to be used until `deadline`.
    pub(super) async fn take(&self, deadline: Instant) -> Result<Session<'_>, Failure> {
        let permit = match timeout_at(deadline, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(Failure::Closed),
            Err(_) => {
                return Err(Failure::NoSession(format!(
                    "all {} connections are busy for longer than {:?}",
                    self.most, self.timeout
                )));
            }
        };
        while let Some(mut idle) = self.pop() {
            let stale = idle.planned.elapsed() > PLANS_LAST;
            if stale || idle.since.elapsed() > TRUSTED {
                let alive = async {
                    if stale {
                        idle.planned = Instant::now();
                        return idle.connection.execute("DISCARD PLANS").await.map(drop);
                    }
                    idle.connection.ping().await
                };
                match timeout_at(deadline, alive).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => {
                        self.doom(idle.generation);
                        continue;
                    }
                    Err(_) => return Err(Failure::Silent(self.timeout)),
                }
            }
            return Ok(self.session(idle, deadline, permit));
        }
        // Read before connecting: what breaks from here on dooms this one as well.
        let generation = self.generation.load(Ordering::Acquire);
        let fresh = Idle {
            connection: self.connect(deadline).await?,
            generation,
            since: Instant::now(),
            planned: Instant::now(),
        };
        Ok(self.session(fresh, deadline, permit))
    }

    fn session(&self, idle: Idle, deadline: Instant, permit: OwnedSemaphorePermit) -> Session<'_> {
        Session {
            sessions: self,
            connection: Some(idle.connection),
            generation: idle.generation,
            planned: idle.planned,
            deadline,
            sound: true,
            open_transaction: false,
            _permit: permit,
        }
    }

    fn pop(&self) -> Option<Idle> {
        let generation = self.generation.load(Ordering::Acquire);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.generation == generation);
        idle.pop()
    }

    /// Sessions of `generation` are not used again; told by many of them at once, it is counted once.
    fn doom(&self, generation: u64) {
        let _counted =
            self.generation
                .compare_exchange(generation, generation + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Opens a session, again and again until `deadline` if what is in the way may pass.
    pub(super) async fn connect(&self, deadline: Instant) -> Result<PgConnection, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut last: Option<Failure> = None;
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(Failure::Closed);
            }
            let failure = match timeout_at(deadline, self.open()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let why = last.map_or_else(
                        || format!("no answer within {:?}", self.timeout),
                        |failure| failure.to_string(),
                    );
                    return Err(self.no_session(&why));
                }
            };
            if !failure.passes_while_connecting() || Instant::now() + pause >= deadline {
                return Err(self.no_session(&failure.to_string()));
            }
            last = Some(failure);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn no_session(&self, why: &str) -> Failure {
        Failure::NoSession(address::without_secrets(
            &format!("cannot connect to {}: {why}", self.url),
            &self.url,
        ))
    }

    async fn open(&self) -> Result<PgConnection, Failure> {
        let mut connection = self.options.connect().await?;
        if connection
            .server_version_num()
            .is_some_and(|version| version < OLDEST_SERVER)
        {
            return Err(Failure::Sql(sqlx::Error::Configuration(
                "the server is older than PostgreSQL 13".into(),
            )));
        }
        let patience = (self.timeout + SERVER_PATIENCE).as_millis();
        // By statement and not as start-up parameters, which some proxies refuse. Every look-up here is meant to
        // go along an index, row by row; with statistics that lag behind, a plan must not read a table whole.
        // The keepalives are the server's, to notice a gateway that vanished and release what it locked.
        let set_up = format!(
            "SET client_min_messages = warning; SET statement_timeout = {patience}; \
             SET idle_in_transaction_session_timeout = {patience}; SET enable_seqscan = off; SET enable_hashjoin = off; \
             SET enable_mergejoin = off; SET jit = off; \
             SET max_parallel_workers_per_gather = 0; \
             SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
        );
        connection.execute(AssertSqlSafe(set_up)).await?;
        // Whatever the server, the role or the address say: an answer is given after the disk has it.
        let (encoding, read_only, _durable): (String, String, String) = sqlx::query_as(
            "SELECT current_setting('server_encoding'), current_setting('transaction_read_only'), \
             set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') \
             IN ('off', 'local') THEN 'on' ELSE current_setting('synchronous_commit') END, false)",
        )
        .persistent(false)
        .fetch_one(&mut connection)
        .await?;
        if encoding != "UTF8" {
            return Err(Failure::Sql(sqlx::Error::Configuration(
                format!("the database has the encoding {encoding}; create it with UTF8").into(),
            )));
        }
        if read_only == "on" {
            return Err(Failure::NoSession(
                "the database is read-only: a standby, or default_transaction_read_only is on".to_owned(),
            ));
        }
        Ok(connection)
    }

    /// Closes what nobody has used for long.
    pub(super) fn trim(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < SPARE);
    }

    /// No more sessions; those that are idle are closed politely.
    pub(super) async fn close(&self) {
        self.stop();
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for idle in idle {
            // What cannot say goodbye is dropped all the same.
            let _closed = timeout_at(Instant::now() + TRUSTED, idle.connection.close()).await;
        }
    }

    /// No more sessions from here on.
    pub(super) fn stop(&self) {
        self.closed.store(true, Ordering::Release);
        self.permits.close();
    }
}

/// A session in use.
pub(super) struct Session<'s> {
    sessions: &'s Sessions,
    connection: Option<PgConnection>,
    generation: u64,
    planned: Instant,
    deadline: Instant,
    /// Nothing is under way and nothing went wrong.
    sound: bool,
    open_transaction: bool,
    _permit: OwnedSemaphorePermit,
}

impl Session<'_> {
    /// Runs a statement and answers its rows.
    pub(super) async fn rows(&mut self, statement: Statement<'_>) -> Result<Vec<PgRow>, Failure> {
        let Some(connection) = &mut self.connection else {
            return Err(Failure::Closed);
        };
        // Were this future dropped while it waits, the session is found unsound.
        self.sound = false;
        let answer = timeout_at(self.deadline, statement.fetch_all(connection)).await;
        let failure = match answer {
            Ok(Ok(rows)) => {
                self.sound = true;
                return Ok(rows);
            }
            Ok(Err(error)) => Failure::Sql(error),
            Err(_) => Failure::Silent(self.sessions.timeout),
        };
        self.sound = failure.spares_session();
        if failure.dooms_others() {
            self.sessions.doom(self.generation);
        }
        Err(failure)
    }

    /// Begins a transaction. If it is not committed, the session is thrown away with it.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.open_transaction = true;
        self.rows(sqlx::query("BEGIN")).await.map(drop)
    }

    /// Undoes what was done since [`begin`](Self::begin).
    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        self.rows(sqlx::query("ROLLBACK")).await?;
        self.open_transaction = false;
        Ok(())
    }

    /// Commits what [`begin`](Self::begin) began.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.rows(sqlx::query("COMMIT")).await?;
        self.open_transaction = false;
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if self.sound && !self.open_transaction && !self.sessions.closed.load(Ordering::Acquire) {
            let mut idle = self.sessions.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(Idle {
                connection,
                generation: self.generation,
                since: Instant::now(),
                planned: self.planned,
            });
        }
        // Else the socket closes here; the server rolls back what is open.
    }
}
