-- The keys, in a schema of their own. A name that a key is not bound to is NULL.

CREATE TABLE simonides_keys (version integer NOT NULL);
CREATE TABLE keys (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the order they were made in
    id text NOT NULL UNIQUE,
    digest bytea NOT NULL, -- SHA-256 of the secret, which is kept nowhere
    name text NOT NULL, tenant text NOT NULL, spaces text[], "user" text,
    permits text[] NOT NULL, rate bigint,
    made timestamptz NOT NULL, expires timestamptz, revoked timestamptz, used timestamptz
);
CREATE INDEX keys_tenant ON keys (tenant, seq);
INSERT INTO simonides_keys VALUES (1);
