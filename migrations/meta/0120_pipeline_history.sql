-- What the processes of the installation counted, minute by minute, and how far the consumer groups were behind then. Kept for
-- server.history_retention.

CREATE TABLE pipeline_minutes (
    -- When it begins.
    minute        BIGINT NOT NULL,
    -- One start of a process: its counters begin at zero.
    process       TEXT   NOT NULL,
    roles         TEXT   NOT NULL,
    captured      BIGINT NOT NULL,
    batches       BIGINT NOT NULL,
    stored        BIGINT NOT NULL,
    duplicates    BIGINT NOT NULL,
    dead_letters  BIGINT NOT NULL,
    insert_errors BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (minute, process)
);

-- The newest look of any process within the minute.
CREATE TABLE pipeline_lags (
    minute     BIGINT NOT NULL PRIMARY KEY,
    -- (JSON) A list of [group, topic, lag, {partition: lag}], the last for partitions that are behind.
    lags       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
