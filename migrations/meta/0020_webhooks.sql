-- Who wants to be told of what, and what is to be delivered to them.

CREATE TABLE webhooks (
    id                    TEXT    NOT NULL PRIMARY KEY,
    -- No reference: a project of auth.static_keys has no row.
    project_id            TEXT    NOT NULL,
    -- Null: events of every environment of the project.
    environment_id        TEXT,
    url                   TEXT    NOT NULL,
    description           TEXT    NOT NULL,
    -- Kinds of system events, separated by commas; empty: all.
    events                TEXT    NOT NULL,
    -- One at a time, in the order of the events.
    ordered               BOOLEAN NOT NULL,
    -- enabled, disabled, gone (the receiver answered 410).
    status                TEXT    NOT NULL,
    -- whsec_ and base64: it signs, so it is kept as it is.
    secret                TEXT    NOT NULL,
    -- Signs beside the other until then.
    previous_secret       TEXT,
    previous_secret_until BIGINT,
    created_at            BIGINT  NOT NULL,
    updated_at            BIGINT  NOT NULL
);
CREATE INDEX webhooks_of_project ON webhooks (project_id, created_at, id);

CREATE TABLE webhook_deliveries (
    -- The header webhook-id: the same at every attempt.
    id               TEXT   NOT NULL PRIMARY KEY,
    webhook_id       TEXT   NOT NULL REFERENCES webhooks (id),
    project_id       TEXT   NOT NULL,
    -- The system event: told twice, it is delivered once.
    event_id         TEXT   NOT NULL,
    event_name       TEXT   NOT NULL,
    body             TEXT   NOT NULL,
    -- pending, delivered, dead.
    state            TEXT   NOT NULL,
    attempts         BIGINT NOT NULL,
    -- When it is due, and when it is given up.
    due_at           BIGINT NOT NULL,
    give_up_at       BIGINT NOT NULL,
    -- Grows with every claim; a write with an older one is refused.
    fence            BIGINT NOT NULL,
    lease_expires_at BIGINT,
    -- The newest attempts: when, how long, status, error, the beginning of the answer (JSON).
    log              TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    UNIQUE (webhook_id, event_id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, state, due_at, id);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (state, updated_at);
