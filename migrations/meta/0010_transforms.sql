-- What raw events become. A version never changes: a change is another version, which counts from then on.
CREATE TABLE transforms (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    -- raw: the one that raw events of the environment go through.
    name           TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL
);
CREATE UNIQUE INDEX transforms_by_name ON transforms (project_id, environment_id, name);

CREATE TABLE transform_versions (
    transform_id TEXT   NOT NULL REFERENCES transforms (id),
    version      BIGINT NOT NULL,
    -- JSON.
    spec         TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    -- The key that made it.
    created_by   TEXT,
    PRIMARY KEY (transform_id, version)
);
