-- Layout 1. A later layout adds tables and columns with defaults; it raises
-- min_reader only where this one's statements would no longer do.
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    instance TEXT NOT NULL,
    digest_key BLOB NOT NULL CHECK (length(digest_key) = 32),
    min_reader INTEGER NOT NULL
) STRICT;

CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    provider TEXT NOT NULL,
    runtime TEXT NOT NULL,
    phase TEXT NOT NULL,
    version INTEGER NOT NULL,
    spec TEXT NOT NULL,
    digest TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    ends_ms INTEGER,
    ended_ms INTEGER,
    lifetime TEXT NOT NULL,
    outlives_host INTEGER NOT NULL CHECK (outlives_host IN (0, 1)),
    idempotency_key TEXT,
    owner TEXT NOT NULL,
    effective TEXT NOT NULL,
    failure TEXT
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX sandboxes_key ON sandboxes (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX sandboxes_tenant_phase ON sandboxes (tenant, phase, id);
CREATE INDEX sandboxes_tenant ON sandboxes (tenant, id);
CREATE INDEX sandboxes_phase ON sandboxes (phase, id);
CREATE INDEX sandboxes_provider ON sandboxes (provider, id);
CREATE INDEX sandboxes_owner ON sandboxes (owner, id);
CREATE INDEX sandboxes_ended ON sandboxes (tenant, ended_ms) WHERE ended_ms IS NOT NULL;

-- The labels once more, to find sandboxes by.
CREATE TABLE labels (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    sandbox TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    PRIMARY KEY (name, value, sandbox)
) STRICT, WITHOUT ROWID;
CREATE INDEX labels_sandbox ON labels (sandbox);

CREATE TABLE journal (
    sandbox TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    step TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (sandbox, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger (
    sandbox TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (sandbox, kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE execs (
    sandbox TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    exec TEXT NOT NULL,
    program TEXT NOT NULL,
    arguments INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    background INTEGER NOT NULL,
    exit TEXT,
    ended_ms INTEGER,
    PRIMARY KEY (sandbox, exec)
) STRICT, WITHOUT ROWID;
