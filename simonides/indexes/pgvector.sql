-- What is here of which store, model and realm. The vectors of a lot are in vectors_<dimension>, or in lot_<lot>.

CREATE TABLE simonides_near (version integer NOT NULL);
CREATE TABLE lots (
    lot integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- another number whenever its rows move
    store text NOT NULL, model text NOT NULL, tenant text NOT NULL, space text NOT NULL,
    number bigint NOT NULL, -- of the group, in its store
    dimension integer NOT NULL,
    filled bigint NOT NULL DEFAULT 0, -- slots, from 0, whose vectors are all here
    holes bigint NOT NULL DEFAULT 0, -- of the store's, that are holes here too
    own boolean NOT NULL DEFAULT false, -- in a table of its own…
    graph boolean NOT NULL DEFAULT false, -- …which has an HNSW graph
    UNIQUE (store, model, tenant, space)
);
INSERT INTO simonides_near VALUES (1);
