-- Identity ------------------------------------------------------------------------------------------------------------

CREATE TABLE levels (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    max_running integer CHECK (max_running > 0),
    max_queued integer CHECK (max_queued > 0),
    requests_per_minute integer CHECK (requests_per_minute > 0),
    max_priority smallint NOT NULL DEFAULT 3,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE levels IS 'Tiers of users with their limits; a null limit is none.';
COMMENT ON COLUMN levels.weight IS 'Share in the fair queue.';

CREATE TABLE users (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    level_id uuid NOT NULL REFERENCES levels,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE users IS 'Owners of keys and executions.';

CREATE TABLE engines (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    title text NOT NULL,
    description text NOT NULL DEFAULT '',
    enabled boolean NOT NULL DEFAULT true,
    current_version_id uuid,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE engines IS 'Named deployment targets.';

CREATE TABLE engine_versions (
    id uuid PRIMARY KEY,
    engine_id uuid NOT NULL REFERENCES engines,
    number integer NOT NULL CHECK (number > 0),
    flow text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (engine_id, number)
);
COMMENT ON TABLE engine_versions IS 'Immutable snapshots of flows.';
COMMENT ON COLUMN engine_versions.flow IS 'The flow document as JSON text, as it was deployed.';
ALTER TABLE engines ADD FOREIGN KEY (current_version_id) REFERENCES engine_versions;

CREATE TABLE level_engines (
    level_id uuid NOT NULL REFERENCES levels,
    engine_id uuid NOT NULL REFERENCES engines,
    PRIMARY KEY (level_id, engine_id)
);
COMMENT ON TABLE level_engines IS 'Assignments of engines to whole levels; each member has a user engine for each.';

CREATE TABLE user_engines (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    engine_id uuid NOT NULL REFERENCES engines,
    pinned_version_id uuid REFERENCES engine_versions,
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, engine_id)
);
COMMENT ON TABLE user_engines IS 'A user''s own copy of an engine: what they may execute.';
COMMENT ON COLUMN user_engines.pinned_version_id IS 'Null: follows the engine''s current version.';

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    public_id text NOT NULL UNIQUE,
    hash bytea NOT NULL CHECK (length(hash) = 32),
    last_four text NOT NULL,
    name text NOT NULL DEFAULT '',
    user_id uuid NOT NULL REFERENCES users,
    user_engine_id uuid REFERENCES user_engines,
    test boolean NOT NULL DEFAULT false,
    origins text[] NOT NULL DEFAULT '{}',
    expires_at timestamptz,
    revoked_at timestamptz,
    replaced_by uuid REFERENCES api_keys,
    last_used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE api_keys IS 'API keys. The key itself is shown once and never stored.';
COMMENT ON COLUMN api_keys.hash IS 'HMAC-SHA256 of the whole key under the platform''s pepper.';
COMMENT ON COLUMN api_keys.last_used_at IS 'Throttled to one write a minute.';
CREATE INDEX api_keys_by_user ON api_keys (user_id);

-- Leadership and executors ----------------------------------------------------------------------------------------------

CREATE TABLE leader (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    term bigint NOT NULL,
    holder uuid,
    url text NOT NULL DEFAULT '',
    taken_at timestamptz
);
COMMENT ON TABLE leader IS 'The one status process that writes. Every write compares its term; an older one is refused.';
INSERT INTO leader (term) VALUES (0);

CREATE TABLE executors (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    slots integer NOT NULL,
    draining boolean NOT NULL DEFAULT false,
    drain_requested boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE executors IS 'One row per boot of an executor; removed an hour after its last renewal.';
COMMENT ON COLUMN executors.lease_until IS 'Until when everything it holds is its own, by this database''s clock; renewed each second.';

-- The ledger ------------------------------------------------------------------------------------------------------------

CREATE TABLE executions (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    engine_id uuid NOT NULL,
    user_engine_id uuid,
    version_id uuid NOT NULL,
    parent_id uuid,
    created_at timestamptz NOT NULL,
    queue_deadline_at timestamptz,
    deadline_at timestamptz,
    tag double precision NOT NULL DEFAULT 0,
    priority smallint NOT NULL,
    state smallint NOT NULL CHECK (state BETWEEN 0 AND 7),
    waiting_reason smallint,
    epoch integer NOT NULL DEFAULT 0,
    losses smallint NOT NULL DEFAULT 0,
    executor_id uuid,
    claim_id uuid,
    last_sequence bigint NOT NULL DEFAULT 0,
    eligible_at timestamptz,
    started_at timestamptz,
    claimed_at timestamptz,
    finished_at timestamptz,
    stop_requested_at timestamptz,
    executor_ack_at timestamptz,
    upstream_closed_at timestamptz,
    closed_by text,
    tokens_at_stop bigint,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    nodes_done integer NOT NULL DEFAULT 0,
    nodes_total integer NOT NULL DEFAULT 0,
    units_done integer NOT NULL DEFAULT 0,
    units_total integer NOT NULL DEFAULT 0,
    words bigint NOT NULL DEFAULT 0,
    current_node text,
    CHECK ((state >= 4) = (finished_at IS NOT NULL)),
    CHECK ((state IN (1, 3)) = (executor_id IS NOT NULL))
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE executions IS 'The ledger''s hot rows: state, fence and progress. Changed only by compare-and-set on (epoch, state). No index covers a column that changes before the end, so that updates stay in their page.';
COMMENT ON COLUMN executions.state IS '0 queued, 1 processing, 2 waiting, 3 cancelling, 4 completed, 5 failed, 6 cancelled, 7 expired (domain::State).';
COMMENT ON COLUMN executions.tag IS 'Virtual start time in the fair queue.';
COMMENT ON COLUMN executions.epoch IS 'The fencing number: grows whenever the writer changes.';
COMMENT ON COLUMN executions.losses IS 'Leases lost since the last finished unit.';
COMMENT ON COLUMN executions.claim_id IS 'The claim that made the present attempt: a repeated one gets the same answer.';
COMMENT ON COLUMN executions.last_sequence IS 'The last event stored: epoch << 32 | n.';
COMMENT ON COLUMN executions.claimed_at IS 'When the latest attempt began; started_at is the first one''s.';
COMMENT ON COLUMN executions.eligible_at IS 'Queued: not released before. Waiting: wakes then.';
CREATE INDEX executions_by_owner ON executions (user_id, created_at DESC, id DESC);
CREATE INDEX executions_unfinished ON executions (id) WHERE finished_at IS NULL;
CREATE INDEX executions_by_deadline ON executions (LEAST(queue_deadline_at, deadline_at)) WHERE finished_at IS NULL AND (queue_deadline_at IS NOT NULL OR deadline_at IS NOT NULL);
CREATE INDEX executions_by_parent ON executions (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE execution_details (
    execution_id uuid PRIMARY KEY,
    key_id uuid NOT NULL,
    input text NOT NULL,
    labels jsonb NOT NULL DEFAULT '{}',
    end_user text,
    traceparent text
);
COMMENT ON TABLE execution_details IS 'What came with the submission: written once, read at the claim and by the API.';
COMMENT ON COLUMN execution_details.input IS 'The validated input as JSON text.';
CREATE INDEX execution_details_by_label ON execution_details USING gin (labels jsonb_path_ops) WHERE labels <> '{}';

CREATE TABLE execution_results (
    execution_id uuid PRIMARY KEY,
    result text,
    failure jsonb
);
COMMENT ON TABLE execution_results IS 'What the end brought: written once, in the transaction of the terminal state.';

CREATE TABLE units (
    execution_id uuid NOT NULL,
    node text NOT NULL,
    unit integer NOT NULL,
    epoch integer NOT NULL,
    complete boolean NOT NULL,
    inherited boolean NOT NULL DEFAULT false,
    output text NOT NULL,
    tokens bigint NOT NULL DEFAULT 0,
    finished_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (execution_id, node, unit)
);
COMMENT ON TABLE units IS 'Checkpoints: a complete unit is never executed again. An incomplete one keeps partial text.';
COMMENT ON COLUMN units.output IS 'JSON text.';
COMMENT ON COLUMN units.tokens IS 'Input and output tokens of its provider calls: what a resume saves.';

CREATE TABLE deliverables (
    execution_id uuid NOT NULL,
    name text NOT NULL,
    format text NOT NULL,
    media_type text NOT NULL,
    bytes bigint NOT NULL,
    object_key text,
    error text,
    PRIMARY KEY (execution_id, name)
);
COMMENT ON TABLE deliverables IS 'Rendered files. A format that failed has an error instead of an object key.';

CREATE TABLE events (
    execution_id uuid NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    records text NOT NULL,
    PRIMARY KEY (execution_id, first_sequence)
) PARTITION BY RANGE (execution_id);
COMMENT ON TABLE events IS 'The event log in chunks: one row per execution and report. Partitioned by time: an execution''s id is a UUIDv7, so a day of ids is a range.';
COMMENT ON COLUMN events.records IS 'JSON array of protocol event records, in order.';
-- Several times cheaper than the default, for texts that are written once and seldom read. Not every build of Postgres has it.
DO $$ BEGIN
    ALTER TABLE events ALTER COLUMN records SET COMPRESSION lz4;
    ALTER TABLE units ALTER COLUMN output SET COMPRESSION lz4;
    ALTER TABLE execution_results ALTER COLUMN result SET COMPRESSION lz4;
    ALTER TABLE execution_details ALTER COLUMN input SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;
CREATE TABLE events_default PARTITION OF events DEFAULT;

CREATE TABLE usage_calls (
    call_id uuid PRIMARY KEY,
    execution_id uuid NOT NULL,
    epoch integer NOT NULL,
    node text NOT NULL,
    unit integer NOT NULL,
    user_id uuid NOT NULL,
    engine_id uuid NOT NULL,
    version_id uuid NOT NULL,
    model text NOT NULL,
    source smallint NOT NULL,
    outcome smallint NOT NULL,
    input_tokens bigint,
    output_tokens bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    reasoning_tokens bigint,
    provider_request_id text,
    raw text,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL
);
COMMENT ON TABLE usage_calls IS 'The usage ledger: one row per provider call, counted once, kept after retention.';
COMMENT ON COLUMN usage_calls.source IS '0 provider, 1 counted, 2 estimated, 3 lost (protocol::report::UsageSource).';
CREATE INDEX usage_calls_by_execution ON usage_calls (execution_id);

CREATE TABLE idempotency_keys (
    user_id uuid NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    body_hash text NOT NULL,
    execution_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, route, key)
);
COMMENT ON TABLE idempotency_keys IS 'Answers to repeated submissions; kept for 24 hours.';
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
