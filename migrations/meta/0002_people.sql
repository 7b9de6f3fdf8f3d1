-- People, their sessions, members of projects, invitations, signing keys, the audit trail; projects that are deleted.
--
-- One dialect for SQLite and PostgreSQL, as in 0001_foundation.

-- A deleted project keeps its rows: its events stay in the store until their retention. Its name is free again, because
-- a deletion puts the id in front of it.
ALTER TABLE projects ADD COLUMN deleted_at BIGINT;

-- Requests a second that the key may make; null: what auth.key_rate_max says.
ALTER TABLE api_keys ADD COLUMN rate_max BIGINT;

CREATE TABLE users (
    id            TEXT    NOT NULL PRIMARY KEY,
    -- In lower case.
    email         TEXT    NOT NULL UNIQUE,
    name          TEXT    NOT NULL,
    -- argon2id, as a PHC string with its own cost. The password is nowhere.
    password_hash TEXT    NOT NULL,
    -- May do everything in every project, as the operator does.
    is_admin      BOOLEAN NOT NULL,
    last_login_at BIGINT,
    disabled_at   BIGINT,
    created_at    BIGINT  NOT NULL,
    updated_at    BIGINT  NOT NULL
);

-- A login, and all refresh tokens that come of it (a family).
CREATE TABLE sessions (
    id         TEXT   NOT NULL PRIMARY KEY,
    user_id    TEXT   NOT NULL REFERENCES users (id),
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    -- logout, reuse, password_changed, password_reset, disabled, replaced.
    revoked_as TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX sessions_by_user ON sessions (user_id, created_at);

CREATE TABLE refresh_tokens (
    -- SHA-256 of the token, 64 hexadecimal digits. The token itself is nowhere.
    sha256     TEXT   NOT NULL PRIMARY KEY,
    session_id TEXT   NOT NULL REFERENCES sessions (id),
    -- When it was exchanged for the next one: seen again after that, somebody has a copy.
    used_at    BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);

CREATE TABLE members (
    project_id TEXT   NOT NULL REFERENCES projects (id),
    user_id    TEXT   NOT NULL REFERENCES users (id),
    -- owner, editor, viewer.
    role       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, user_id)
);

CREATE INDEX members_by_user ON members (user_id);

CREATE TABLE invitations (
    id          TEXT   NOT NULL PRIMARY KEY,
    project_id  TEXT   NOT NULL REFERENCES projects (id),
    -- Whom it is for, in lower case: nobody else can use it.
    email       TEXT   NOT NULL,
    role        TEXT   NOT NULL,
    -- SHA-256 of the token.
    sha256      TEXT   NOT NULL UNIQUE,
    expires_at  BIGINT NOT NULL,
    accepted_at BIGINT,
    revoked_at  BIGINT,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);

CREATE INDEX invitations_by_project ON invitations (project_id, created_at);

CREATE TABLE signing_keys (
    kid        TEXT   NOT NULL PRIMARY KEY,
    -- HS256: the secret, in base64. Whoever reads this database can sign; see RUNBOOK.
    secret     TEXT   NOT NULL,
    -- From then on it signs nothing; what it signed before is believed until auth.access_ttl later.
    retired_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE audit_log (
    id         TEXT   NOT NULL PRIMARY KEY,
    -- Null: about the whole installation. No reference: the trail outlives what it is about.
    project_id TEXT,
    -- system, operator, key, person.
    actor_kind TEXT   NOT NULL,
    actor_id   TEXT   NOT NULL,
    -- What it was called then: an e-mail address, a key's prefix.
    actor_name TEXT   NOT NULL,
    action     TEXT   NOT NULL,
    subject_id TEXT   NOT NULL,
    -- Facts, a JSON object; never a secret.
    details    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX audit_log_by_project ON audit_log (project_id, id);
CREATE INDEX audit_log_by_age ON audit_log (created_at);
