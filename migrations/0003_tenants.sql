-- Whose a transaction is, the log of changes, and documents. An earlier version may go on writing meanwhile: what it
-- stores is of the tenant `default`, and what it changes is not in the log.

ALTER TABLE transactions ADD COLUMN tenant text COLLATE "C" NOT NULL DEFAULT 'default';
ALTER TABLE work ADD COLUMN tenant text COLLATE "C" NOT NULL DEFAULT 'default';
-- NULL where an earlier version settled it, which does not say whose it is.
ALTER TABLE settled ADD COLUMN tenant text COLLATE "C" DEFAULT 'default';
ALTER TABLE settled ALTER COLUMN tenant DROP DEFAULT;

-- The default tenant is listed and counted through the other indexes, and costs nothing here.
CREATE INDEX transactions_tenant ON transactions (tenant, id)
    WHERE tenant IS DISTINCT FROM 'default';
CREATE INDEX work_tenant ON work (tenant, transaction_id)
    WHERE tenant IS DISTINCT FROM 'default';
CREATE INDEX settled_tenant ON settled (tenant, status, transaction_id)
    WHERE tenant IS DISTINCT FROM 'default';
CREATE INDEX settled_tx_id ON settled USING hash (tx_id)
    WHERE tx_id IS NOT NULL;

-- The log of changes: what one statement changed, in the order of its number in the transaction `xid`. Rows are read
-- once no earlier transaction is open, so they come in the order of (xid, n).
CREATE TABLE changes (
    xid        xid8        NOT NULL,
    -- The number of its first entry; the others follow.
    n          int         NOT NULL,
    entries    int         NOT NULL,
    changed_at timestamptz NOT NULL,
    ids        uuid[]      NOT NULL,
    versions   bigint[]    NOT NULL,
    PRIMARY KEY (xid, n)
);
-- Trying to compress identifiers takes longer than it saves.
ALTER TABLE changes ALTER COLUMN ids SET STORAGE EXTERNAL;

CREATE TABLE change_log (
    only_row     boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    -- The database that the log was written in. Transaction numbers of another one mean nothing here.
    place        text,
    -- The last entry that was forgotten.
    forgotten_in xid8    NOT NULL DEFAULT '0',
    forgotten    int     NOT NULL DEFAULT 0
);
INSERT INTO change_log DEFAULT VALUES;

CREATE TABLE documents (
    kind    text   COLLATE "C" NOT NULL,
    key     text   COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    -- JSON, exactly as it was written.
    body    text   NOT NULL,
    PRIMARY KEY (kind, key)
);

CREATE OR REPLACE VIEW transactions_v1 AS
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
       t.request,
       t.tenant
FROM transactions t
LEFT JOIN work w ON w.ledger = t.ledger AND w.transaction_id = t.id
LEFT JOIN settled s ON s.status IN ('done', 'failed') AND s.ledger = t.ledger AND s.transaction_id = t.id;
