-- The time zone of a project: what its questions are asked in that name none, and what the page shows times in.
ALTER TABLE projects ADD COLUMN time_zone TEXT NOT NULL DEFAULT 'UTC';
