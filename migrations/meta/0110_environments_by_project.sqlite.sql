-- An environment's id is its project's own: the configuration may name the same one in several projects. And where projects
-- and environments come from: made (somebody made it), configuration (auth.static_keys or consumer.sources names it),
-- found (rows named it before it had one of its own).
--
-- SQLite changes no key of a table that is there. So, here and in 0112: what is to change is put aside under another name,
-- together with what refers to it (a rename takes references along), made anew, filled, and what was put aside goes, first
-- what refers. Nothing refers to what is dropped at the moment when it is, and references are held to all the while.

ALTER TABLE projects ADD COLUMN origin TEXT NOT NULL DEFAULT 'made';

DROP INDEX api_keys_by_project;
ALTER TABLE api_keys RENAME TO api_keys_before;
ALTER TABLE environments RENAME TO environments_before;

CREATE TABLE environments (
    id         TEXT   NOT NULL,
    project_id TEXT   NOT NULL REFERENCES projects (id),
    name       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    origin     TEXT   NOT NULL DEFAULT 'made',
    -- What refers to an environment refers to one of its own project, by construction.
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, name)
);
INSERT INTO environments (id, project_id, name, created_at, updated_at)
SELECT id, project_id, name, created_at, updated_at FROM environments_before;

CREATE TABLE api_keys (
    id             TEXT   NOT NULL PRIMARY KEY,
    project_id     TEXT   NOT NULL,
    environment_id TEXT   NOT NULL,
    name           TEXT   NOT NULL,
    prefix         TEXT   NOT NULL,
    sha256         TEXT   NOT NULL UNIQUE,
    scopes         TEXT   NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    expires_at     BIGINT,
    revoked_at     BIGINT,
    last_used_at   BIGINT,
    rate_max       BIGINT,
    FOREIGN KEY (project_id, environment_id) REFERENCES environments (project_id, id)
);
INSERT INTO api_keys (id, project_id, environment_id, name, prefix, sha256, scopes, created_at, updated_at, expires_at,
    revoked_at, last_used_at, rate_max)
SELECT id, project_id, environment_id, name, prefix, sha256, scopes, created_at, updated_at, expires_at,
    revoked_at, last_used_at, rate_max FROM api_keys_before;
CREATE INDEX api_keys_by_project ON api_keys (project_id, created_at);

DROP TABLE api_keys_before;
DROP TABLE environments_before;
