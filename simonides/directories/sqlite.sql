-- The keys, in one file. Times are microseconds since 1970 in UTC; a name that a key is not bound to is NULL.

CREATE TABLE keys (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, -- the order they were made in
    id TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL, -- SHA-256 of the secret, which is kept nowhere
    name TEXT NOT NULL, tenant TEXT NOT NULL, spaces TEXT, user TEXT, -- spaces: a list in JSON
    permits TEXT NOT NULL, rate INTEGER, -- permits: their names, separated by commas
    made INTEGER NOT NULL, expires INTEGER, revoked INTEGER, used INTEGER
);
CREATE INDEX keys_tenant ON keys (tenant, seq);
