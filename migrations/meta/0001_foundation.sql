-- Projects, environments, API keys, durable jobs, settings.
--
-- One dialect for SQLite and PostgreSQL: text ids, times as milliseconds since 1970 (UTC) in BIGINT, JSON as text.
-- An applied migration is never edited: its SHA-256 is checked at every start.

CREATE TABLE projects (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE environments (
    id         TEXT   NOT NULL PRIMARY KEY,
    project_id TEXT   NOT NULL REFERENCES projects (id),
    name       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (project_id, name),
    -- What api_keys refers to: a key's environment is one of its own project, by construction.
    UNIQUE (project_id, id)
);

CREATE TABLE api_keys (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    -- The first characters of the key, to tell keys apart in a list.
    prefix         TEXT   NOT NULL,
    -- SHA-256 of the whole key, 64 hexadecimal digits. The key itself is nowhere.
    sha256         TEXT   NOT NULL UNIQUE,
    -- ingest, query, admin; separated by commas.
    scopes         TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    expires_at     BIGINT,
    revoked_at     BIGINT,
    last_used_at   BIGINT,
    FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id)
);

CREATE INDEX api_keys_by_project ON api_keys (project_id, created_at);

CREATE TABLE jobs (
    id               TEXT    NOT NULL PRIMARY KEY,
    kind             TEXT    NOT NULL,
    -- Null: a job of the whole installation. No reference: a project of auth.static_keys has no row.
    project_id       TEXT,
    -- What to do, a JSON object that never changes.
    spec             TEXT    NOT NULL,
    -- queued, running, succeeded, failed, cancelled.
    state            TEXT    NOT NULL,
    -- How far it got (JSON): where the next holder goes on.
    checkpoint       TEXT,
    -- What to show (JSON).
    progress         TEXT,
    result           TEXT,
    error            TEXT,
    -- Times it was claimed.
    attempts         BIGINT  NOT NULL,
    lease_owner      TEXT,
    -- Grows with every claim; a write with an older one is refused.
    fence            BIGINT  NOT NULL,
    lease_expires_at BIGINT,
    cancel_requested BOOLEAN NOT NULL,
    -- Not to be claimed earlier.
    run_after        BIGINT  NOT NULL,
    created_at       BIGINT  NOT NULL,
    updated_at       BIGINT  NOT NULL
);

CREATE INDEX jobs_to_claim ON jobs (state, run_after);
CREATE INDEX jobs_by_age ON jobs (created_at, id);

CREATE TABLE settings (
    name       TEXT   NOT NULL PRIMARY KEY,
    value      TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
