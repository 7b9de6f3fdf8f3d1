-- What belongs to a project or an environment refers to its row. No deletion is passed on: a project that is deleted keeps
-- its rows. How it is done: see 0110.

DROP INDEX documents_by_scope;
DROP INDEX meters_of_environment;
DROP INDEX features_by_lookup_key;
DROP INDEX event_corrections_of_environment;
DROP INDEX event_corrections_of_event;
DROP INDEX transforms_by_name;
DROP INDEX webhooks_of_project;
DROP INDEX webhook_deliveries_due;
DROP INDEX webhook_deliveries_by_age;
DROP INDEX event_schemas_by_name;
DROP INDEX jobs_to_claim;
DROP INDEX jobs_by_age;
DROP INDEX notices_by_age;

ALTER TABLE documents RENAME TO documents_before;
CREATE TABLE documents (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    kind           TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    body           TEXT   NOT NULL,
    revision       BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id)
);
INSERT INTO documents (id, project_id, environment_id, kind, name, body, revision, created_at, updated_at)
SELECT id, project_id, environment_id, kind, name, body, revision, created_at, updated_at FROM documents_before;
DROP TABLE documents_before;
CREATE INDEX documents_by_scope ON documents (project_id, environment_id, kind, created_at);

ALTER TABLE event_corrections RENAME TO event_corrections_before;
CREATE TABLE event_corrections (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    event_id       TEXT   NOT NULL,
    action         TEXT   NOT NULL,
    reason         TEXT   NOT NULL,
    made_by        TEXT,
    made_at        BIGINT NOT NULL,
    before         TEXT   NOT NULL,
    after          TEXT,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id)
);
INSERT INTO event_corrections (id, project_id, environment_id, event_id, action, reason, made_by, made_at, before, after,
    created_at, updated_at)
SELECT id, project_id, environment_id, event_id, action, reason, made_by, made_at, before, after,
    created_at, updated_at FROM event_corrections_before;
DROP TABLE event_corrections_before;
CREATE INDEX event_corrections_of_environment ON event_corrections (project_id, environment_id, made_at, id);
CREATE INDEX event_corrections_of_event ON event_corrections (project_id, environment_id, event_id);

ALTER TABLE meters RENAME TO meters_before;
ALTER TABLE meter_versions RENAME TO meter_versions_before;
ALTER TABLE meter_coverage RENAME TO meter_coverage_before;
ALTER TABLE features RENAME TO features_before;
CREATE TABLE meters (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    status         TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id)
);
INSERT INTO meters (id, project_id, environment_id, name, status, created_at, updated_at)
SELECT id, project_id, environment_id, name, status, created_at, updated_at FROM meters_before;
CREATE INDEX meters_of_environment ON meters (project_id, environment_id, created_at, id);
CREATE TABLE meter_versions (
    meter_id       TEXT   NOT NULL REFERENCES meters (id),
    version        BIGINT NOT NULL,
    definition     TEXT   NOT NULL,
    effective_from BIGINT NOT NULL,
    created_at     BIGINT NOT NULL,
    created_by     TEXT,
    updated_at     BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (meter_id, version)
);
INSERT INTO meter_versions (meter_id, version, definition, effective_from, created_at, created_by, updated_at)
SELECT meter_id, version, definition, effective_from, created_at, created_by, updated_at FROM meter_versions_before;
CREATE TABLE meter_coverage (
    meter_id   TEXT   NOT NULL PRIMARY KEY REFERENCES meters (id),
    versions   BIGINT NOT NULL,
    covered_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL DEFAULT 0,
    updated_at BIGINT NOT NULL DEFAULT 0
);
INSERT INTO meter_coverage (meter_id, versions, covered_at, created_at, updated_at)
SELECT meter_id, versions, covered_at, created_at, updated_at FROM meter_coverage_before;
CREATE TABLE features (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    lookup_key     TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    meter_id       TEXT REFERENCES meters (id),
    body           TEXT   NOT NULL,
    status         TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id)
);
INSERT INTO features (id, project_id, environment_id, lookup_key, name, meter_id, body, status, created_at, updated_at)
SELECT id, project_id, environment_id, lookup_key, name, meter_id, body, status, created_at, updated_at
FROM features_before;
CREATE UNIQUE INDEX features_by_lookup_key ON features (project_id, environment_id, lookup_key);
DROP TABLE features_before;
DROP TABLE meter_coverage_before;
DROP TABLE meter_versions_before;
DROP TABLE meters_before;

ALTER TABLE transforms RENAME TO transforms_before;
ALTER TABLE transform_versions RENAME TO transform_versions_before;
CREATE TABLE transforms (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id)
);
INSERT INTO transforms (id, project_id, environment_id, name, created_at, updated_at)
SELECT id, project_id, environment_id, name, created_at, updated_at FROM transforms_before;
CREATE UNIQUE INDEX transforms_by_name ON transforms (project_id, environment_id, name);
CREATE TABLE transform_versions (
    transform_id TEXT   NOT NULL REFERENCES transforms (id),
    version      BIGINT NOT NULL,
    spec         TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    created_by   TEXT,
    updated_at   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (transform_id, version)
);
INSERT INTO transform_versions (transform_id, version, spec, created_at, created_by, updated_at)
SELECT transform_id, version, spec, created_at, created_by, updated_at FROM transform_versions_before;
DROP TABLE transform_versions_before;
DROP TABLE transforms_before;

ALTER TABLE webhooks RENAME TO webhooks_before;
ALTER TABLE webhook_deliveries RENAME TO webhook_deliveries_before;
CREATE TABLE webhooks (
    id                    TEXT    NOT NULL PRIMARY KEY,
    project_id            TEXT    NOT NULL REFERENCES projects (id),
    environment_id        TEXT,
    url                   TEXT    NOT NULL,
    description           TEXT    NOT NULL,
    events                TEXT    NOT NULL,
    ordered               BOOLEAN NOT NULL,
    status                TEXT    NOT NULL,
    secret                TEXT    NOT NULL,
    previous_secret       TEXT,
    previous_secret_until BIGINT,
    created_at            BIGINT  NOT NULL,
    updated_at            BIGINT  NOT NULL,
    -- One without an environment refers to its project alone.
    FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id)
);
INSERT INTO webhooks (id, project_id, environment_id, url, description, events, ordered, status, secret, previous_secret,
    previous_secret_until, created_at, updated_at)
SELECT id, project_id, environment_id, url, description, events, ordered, status, secret, previous_secret,
    previous_secret_until, created_at, updated_at FROM webhooks_before;
CREATE INDEX webhooks_of_project ON webhooks (project_id, created_at, id);
CREATE TABLE webhook_deliveries (
    id               TEXT   NOT NULL PRIMARY KEY,
    webhook_id       TEXT   NOT NULL REFERENCES webhooks (id),
    project_id       TEXT   NOT NULL REFERENCES projects (id),
    event_id         TEXT   NOT NULL,
    event_name       TEXT   NOT NULL,
    body             TEXT   NOT NULL,
    state            TEXT   NOT NULL,
    attempts         BIGINT NOT NULL,
    due_at           BIGINT NOT NULL,
    give_up_at       BIGINT NOT NULL,
    fence            BIGINT NOT NULL,
    lease_expires_at BIGINT,
    log              TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    UNIQUE (webhook_id, event_id)
);
INSERT INTO webhook_deliveries (id, webhook_id, project_id, event_id, event_name, body, state, attempts, due_at,
    give_up_at, fence, lease_expires_at, log, created_at, updated_at)
SELECT id, webhook_id, project_id, event_id, event_name, body, state, attempts, due_at,
    give_up_at, fence, lease_expires_at, log, created_at, updated_at FROM webhook_deliveries_before;
DROP TABLE webhook_deliveries_before;
DROP TABLE webhooks_before;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, state, due_at, id);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (state, updated_at);

ALTER TABLE event_schemas RENAME TO event_schemas_before;
ALTER TABLE event_schema_versions RENAME TO event_schema_versions_before;
CREATE TABLE event_schemas (
    id            TEXT   NOT NULL PRIMARY KEY,
    project_id    TEXT   NOT NULL REFERENCES projects (id),
    event_name    TEXT   NOT NULL,
    compatibility TEXT   NOT NULL,
    policy        TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL
);
INSERT INTO event_schemas (id, project_id, event_name, compatibility, policy, created_at, updated_at)
SELECT id, project_id, event_name, compatibility, policy, created_at, updated_at FROM event_schemas_before;
CREATE UNIQUE INDEX event_schemas_by_name ON event_schemas (project_id, event_name);
CREATE TABLE event_schema_versions (
    schema_id  TEXT   NOT NULL REFERENCES event_schemas (id),
    version    BIGINT NOT NULL,
    definition TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT,
    updated_at BIGINT NOT NULL DEFAULT 0,
    upcast     TEXT,
    PRIMARY KEY (schema_id, version)
);
INSERT INTO event_schema_versions (schema_id, version, definition, created_at, created_by, updated_at, upcast)
SELECT schema_id, version, definition, created_at, created_by, updated_at, upcast FROM event_schema_versions_before;
DROP TABLE event_schema_versions_before;
DROP TABLE event_schemas_before;

ALTER TABLE jobs RENAME TO jobs_before;
CREATE TABLE jobs (
    id               TEXT    NOT NULL PRIMARY KEY,
    kind             TEXT    NOT NULL,
    -- Null: a job of the whole installation.
    project_id       TEXT REFERENCES projects (id),
    spec             TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    checkpoint       TEXT,
    progress         TEXT,
    result           TEXT,
    error            TEXT,
    attempts         BIGINT  NOT NULL,
    lease_owner      TEXT,
    fence            BIGINT  NOT NULL,
    lease_expires_at BIGINT,
    cancel_requested BOOLEAN NOT NULL,
    run_after        BIGINT  NOT NULL,
    created_at       BIGINT  NOT NULL,
    updated_at       BIGINT  NOT NULL
);
INSERT INTO jobs (id, kind, project_id, spec, state, checkpoint, progress, result, error, attempts, lease_owner, fence,
    lease_expires_at, cancel_requested, run_after, created_at, updated_at)
SELECT id, kind, project_id, spec, state, checkpoint, progress, result, error, attempts, lease_owner, fence,
    lease_expires_at, cancel_requested, run_after, created_at, updated_at FROM jobs_before;
DROP TABLE jobs_before;
CREATE INDEX jobs_to_claim ON jobs (state, run_after);
CREATE INDEX jobs_by_age ON jobs (created_at, id);

ALTER TABLE notices RENAME TO notices_before;
CREATE TABLE notices (
    id         TEXT   NOT NULL PRIMARY KEY,
    -- Null: the whole installation, or a project that nobody has: the record says whom it is about.
    project_id TEXT REFERENCES projects (id),
    record     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
INSERT INTO notices (id, project_id, record, created_at, updated_at)
SELECT id, project_id, record, created_at, updated_at FROM notices_before;
DROP TABLE notices_before;
CREATE INDEX notices_by_age ON notices (created_at, id);
