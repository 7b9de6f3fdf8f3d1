-- States that were told of and go on: lag over its threshold, dead letters over theirs. One row for the whole installation.
CREATE TABLE watched_states (
    -- What it is about (JSON).
    name       TEXT   NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
