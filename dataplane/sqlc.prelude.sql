-- What the migration runner makes before the first file, for sqlc to know.
CREATE SCHEMA ouvira;
CREATE TABLE ouvira.schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL);
CREATE TABLE ouvira.migration_ledger (version bigint PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz NOT NULL);
