DROP TABLE idempotency_keys, usage_calls, events, deliverables, units, execution_results, execution_details, executions, executors, leader, api_keys, user_engines, level_engines;
ALTER TABLE engines DROP CONSTRAINT engines_current_version_id_fkey;
DROP TABLE engine_versions, engines, users, levels;
