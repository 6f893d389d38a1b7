-- Everything that is remembered, in one file. Times are microseconds since 1970 in UTC; an open level of a scope is ''.

CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;

-- The walls: ids are unique, and words and vectors kept, within one realm.
CREATE TABLE realms (
    realm INTEGER PRIMARY KEY, tenant TEXT NOT NULL, space TEXT NOT NULL, versions INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant, space)
);

-- One row a version. Only known_until is ever updated.
CREATE TABLE records (
    row INTEGER PRIMARY KEY, realm INTEGER NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL,
    user TEXT NOT NULL, agent TEXT NOT NULL, session TEXT NOT NULL,
    kind TEXT NOT NULL, key TEXT, part_of TEXT, folder TEXT, importance INTEGER NOT NULL, pinned INTEGER NOT NULL,
    status TEXT NOT NULL, source TEXT NOT NULL,
    at INTEGER NOT NULL, valid_since INTEGER, valid_until INTEGER, known_since INTEGER NOT NULL, known_until INTEGER,
    labels TEXT, links TEXT, metadata TEXT, body TEXT, text TEXT NOT NULL, begun INTEGER
);
CREATE UNIQUE INDEX records_id ON records (realm, id, version);
CREATE INDEX records_at ON records (realm, at, id);
CREATE INDEX records_user ON records (realm, user, at, id);
CREATE INDEX records_agent ON records (realm, agent, at, id);
CREATE INDEX records_session ON records (realm, session, at, id);
CREATE INDEX records_talk ON records (realm, at, id) WHERE kind = 'conversation';
CREATE INDEX records_part ON records (realm, part_of, at, id) WHERE part_of IS NOT NULL;
CREATE INDEX records_key ON records (realm, kind, key) WHERE key IS NOT NULL AND known_until IS NULL;
CREATE INDEX records_folder ON records (realm, folder) WHERE folder IS NOT NULL;
CREATE INDEX records_pinned ON records (realm, at, id) WHERE pinned = 1 AND known_until IS NULL;
CREATE INDEX records_user_pinned ON records (realm, user, at, id) WHERE pinned = 1 AND known_until IS NULL;
CREATE TABLE labels (realm INTEGER, label TEXT, row INTEGER, PRIMARY KEY (realm, label, row)) WITHOUT ROWID;
CREATE TABLE links (
    realm INTEGER, target TEXT, role TEXT, row INTEGER, PRIMARY KEY (realm, target, role, row)
) WITHOUT ROWID;

-- The terms are made by words.py and begin with their realm, so that one realm cannot see or slow another. Without its
-- positions (detail = none) a contentless table would rank every row alike.
CREATE VIRTUAL TABLE words USING fts5 (terms, content = '', tokenize = 'ascii');
INSERT INTO words (words, rank) VALUES ('secure-delete', 1);
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (words, row);

-- Vectors of one realm and model are numbered from 0; vector = (grp << 32) + slot.
CREATE TABLE groups (
    grp INTEGER PRIMARY KEY, realm INTEGER NOT NULL, model TEXT NOT NULL, dimension INTEGER NOT NULL,
    slots INTEGER NOT NULL DEFAULT 0, holes INTEGER NOT NULL DEFAULT 0, UNIQUE (realm, model)
);
CREATE TABLE vectors (vector INTEGER PRIMARY KEY, row INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX vectors_row ON vectors (row);
-- What the tokens of a text mean, by row = (grp << 40) + the row of the record.
CREATE TABLE tokens (row INTEGER PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE holes (grp INTEGER, hole INTEGER, slot INTEGER NOT NULL, PRIMARY KEY (grp, hole)) WITHOUT ROWID;

-- When a record was last recalled, by the row of its first version.
CREATE TABLE recalls (row INTEGER PRIMARY KEY, at INTEGER NOT NULL);

CREATE TABLE changes (
    seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, realm INTEGER NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL,
    kind TEXT NOT NULL, user TEXT NOT NULL, agent TEXT NOT NULL, session TEXT NOT NULL, note TEXT
);
-- What was erased, until the certificate is written: an erase that is cut off is finished when the store is opened.
CREATE TABLE erasing (realm INTEGER, id TEXT, PRIMARY KEY (realm, id)) WITHOUT ROWID;

CREATE TABLE cursors (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
-- What a follower could not follow, by the line of the log.
CREATE TABLE letters (
    seq INTEGER, follower TEXT, realm INTEGER NOT NULL, id TEXT NOT NULL, tries INTEGER NOT NULL, at INTEGER NOT NULL,
    error TEXT NOT NULL, PRIMARY KEY (seq, follower)
) WITHOUT ROWID;
CREATE INDEX letters_id ON letters (realm, id);
