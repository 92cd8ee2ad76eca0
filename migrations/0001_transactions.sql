-- What the gateway keeps in PostgreSQL. See docs/POSTGRES.md for what readers may rely on: the view alone.
--
-- A transaction has one row in `transactions`, written once and never updated, and one row in either `work`
-- (not settled) or `settled`. Progress so far touches the small, hot table only; the wide rows with their
-- indexes stay as they are until retention removes them.
--
-- Exact texts: JSONB would change numbers, key order and repeated keys, so the record itself is kept as JSON
-- text, in two parts, and JSONB holds the labels only, for searching.

CREATE TABLE transactions (
    id                 uuid        NOT NULL PRIMARY KEY,
    ledger             text        COLLATE "C" NOT NULL,
    contract           text        NOT NULL,
    function           text        NOT NULL,
    created_at         timestamptz NOT NULL,
    idempotency_key    text        COLLATE "C",
    idempotency_digest bytea,
    metadata           jsonb,
    -- The request as it was accepted, without what must be forgotten.
    request            json        NOT NULL
);

CREATE UNIQUE INDEX transactions_idempotency ON transactions (idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- The list of entries not yet merged is kept short, so that no insert has to merge a long one.
CREATE INDEX transactions_metadata ON transactions USING gin (metadata jsonb_path_ops)
    WITH (gin_pending_list_limit = 1024)
    WHERE metadata IS NOT NULL;

CREATE TABLE work (
    ledger         text        COLLATE "C" NOT NULL,
    transaction_id uuid        NOT NULL,
    version        bigint      NOT NULL,
    stage          text        NOT NULL,
    attempts       bigint      NOT NULL,
    conflicts      bigint      NOT NULL,
    outages        bigint      NOT NULL,
    updated_at     timestamptz NOT NULL,
    -- The due mark, milliseconds since 1970; none while it is parked.
    due_at         bigint,
    first_try      boolean     NOT NULL,
    -- Milliseconds since 1970; only while it waits for a try.
    expires_at     bigint,
    -- Milliseconds since 1970: told to a work queue, and unchanged since.
    announced_at   bigint,
    -- Kept from other processes until then.
    held_until     timestamptz,
    held_by        uuid,
    -- The part of the record that changes, as JSON text.
    progress       text        NOT NULL,
    PRIMARY KEY (ledger, transaction_id)
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

CREATE INDEX work_first ON work (ledger, transaction_id)
    WHERE first_try AND announced_at IS NULL;
CREATE INDEX work_again ON work (ledger, due_at, transaction_id)
    WHERE NOT first_try AND due_at IS NOT NULL AND announced_at IS NULL;
CREATE INDEX work_announced ON work (ledger, announced_at)
    WHERE announced_at IS NOT NULL;
CREATE INDEX work_stage ON work (ledger, stage, transaction_id)
    WHERE stage <> 'queued';
CREATE INDEX work_expires ON work (expires_at)
    WHERE expires_at IS NOT NULL;

CREATE TABLE settled (
    status         text        COLLATE "C" NOT NULL CHECK (status IN ('done', 'failed')),
    ledger         text        COLLATE "C" NOT NULL,
    transaction_id uuid        NOT NULL,
    version        bigint      NOT NULL,
    attempts       bigint      NOT NULL,
    conflicts      bigint      NOT NULL,
    outages        bigint      NOT NULL,
    finished_at    timestamptz NOT NULL,
    tx_id          text,
    block          bigint,
    error_code     text,
    error_message  text,
    ledger_code    text,
    progress       text        NOT NULL,
    PRIMARY KEY (status, ledger, transaction_id)
);

-- Each by itself: a look-up by status and id must not find them tempting while the table is small.
CREATE INDEX settled_done ON settled (finished_at) WHERE status = 'done';
CREATE INDEX settled_failed ON settled (finished_at) WHERE status = 'failed';

-- One row, written by readiness probes.
CREATE TABLE probe (
    only_row boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    at       timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO probe (at) VALUES (now());

CREATE VIEW transactions_v1 AS
SELECT t.id,
       t.ledger,
       t.contract,
       t.function,
       COALESCE(s.status, 'pending')       AS status,
       w.stage,
       COALESCE(s.version, w.version)      AS version,
       COALESCE(s.attempts, w.attempts)    AS attempts,
       COALESCE(s.conflicts, w.conflicts)  AS conflicts,
       COALESCE(s.outages, w.outages)      AS outages,
       t.created_at,
       COALESCE(s.finished_at, w.updated_at) AS updated_at,
       s.finished_at,
       s.tx_id,
       s.block,
       s.error_code,
       s.error_message,
       s.ledger_code,
       t.idempotency_key,
       t.metadata,
       t.request
FROM transactions t
LEFT JOIN work w ON w.ledger = t.ledger AND w.transaction_id = t.id
LEFT JOIN settled s ON s.status IN ('done', 'failed') AND s.ledger = t.ledger AND s.transaction_id = t.id;

COMMENT ON VIEW transactions_v1 IS 'One row for each transaction of the gateway; columns are only ever added';
