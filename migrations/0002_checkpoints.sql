-- Where the stream of a ledger's outcomes goes on after a restart: the next block to read. It never goes back.
CREATE TABLE checkpoints (
    ledger     text   COLLATE "C" NOT NULL PRIMARY KEY,
    next_block bigint NOT NULL
) WITH (fillfactor = 10);
