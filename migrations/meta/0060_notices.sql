-- System events that are to be told and are not in the log yet.

CREATE TABLE notices (
    id         TEXT   NOT NULL PRIMARY KEY,
    -- No reference: a project of auth.static_keys has no row. Null: the whole installation.
    project_id TEXT,
    -- The value of the record that it will be in the log (JSON).
    record     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX notices_by_age ON notices (created_at, id);
