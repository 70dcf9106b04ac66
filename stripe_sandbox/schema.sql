-- The sandbox's state. One process writes it; a SIGKILL at any instruction leaves whole transactions (WAL).

-- Settings that must outlive the process: the clock's offset, how webhooks are steered.
CREATE TABLE IF NOT EXISTS meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

-- Every Stripe object. body: what the API shows; inner: what only Stripe knows (a test card's behaviour, …).
-- parent: intent of a charge, charge of a refund or dispute, source of a balance transaction, customer of an intent
-- or payment method, object of an event. tag: metadata.paymentId; an event's type.
CREATE TABLE IF NOT EXISTS objects (
    seq     INTEGER PRIMARY KEY,
    id      TEXT NOT NULL UNIQUE,
    kind    TEXT NOT NULL,
    created INTEGER NOT NULL,
    parent  TEXT,
    tag     TEXT,
    body    BLOB NOT NULL,
    inner   BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS objects_by_kind ON objects (kind, seq);
CREATE INDEX IF NOT EXISTS objects_by_parent ON objects (parent, kind, seq) WHERE parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_by_tag ON objects (kind, tag, seq) WHERE tag IS NOT NULL;

-- The truth ledger: what was really authorized, captured, released, refunded. Append-only; the objects are checked
-- against it, never the other way round.
CREATE TABLE IF NOT EXISTS ledger (
    seq        INTEGER PRIMARY KEY,
    at         REAL NOT NULL,
    intent     TEXT NOT NULL,
    charge     TEXT NOT NULL,
    refund     TEXT,
    act        TEXT NOT NULL CHECK (act IN ('authorize', 'capture', 'release', 'refund', 'refund_failed', 'dispute', 'dispute_won')),
    amount     INTEGER NOT NULL CHECK (amount >= 0),
    currency   TEXT NOT NULL,
    request_id TEXT
);
CREATE INDEX IF NOT EXISTS ledger_by_intent ON ledger (intent, seq);

-- One row per idempotency key whose request began execution; pruned after 24 hours.
CREATE TABLE IF NOT EXISTS idempotency (
    key         TEXT NOT NULL UNIQUE,
    endpoint    TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    status      INTEGER NOT NULL,
    body        BLOB NOT NULL,
    request_id  TEXT NOT NULL,
    created     REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS idempotency_by_age ON idempotency (created);

-- Webhook deliveries, one per event and endpoint (more when duplicated). AUTOINCREMENT: an id is never used again, so
-- that an attempt still under way at a reset cannot mark another delivery as done.
CREATE TABLE IF NOT EXISTS deliveries (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    event       TEXT NOT NULL,
    type        TEXT NOT NULL,
    object      TEXT NOT NULL,
    endpoint    TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('pending', 'held', 'delivered', 'dropped', 'exhausted')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     REAL NOT NULL,
    last_status INTEGER,
    last_error  TEXT,
    created     REAL NOT NULL,
    delivered   REAL
);
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (next_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS deliveries_by_event ON deliveries (event);

-- What time does: a pending refund that succeeds, a hold that expires.
CREATE TABLE IF NOT EXISTS jobs (
    id     INTEGER PRIMARY KEY,
    due    REAL NOT NULL,
    kind   TEXT NOT NULL,
    target TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due);

CREATE TABLE IF NOT EXISTS faults (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    spec BLOB NOT NULL,
    seen INTEGER NOT NULL DEFAULT 0,
    fired INTEGER NOT NULL DEFAULT 0
);

-- Calls received, newest kept. Never a body, never an API key.
CREATE TABLE IF NOT EXISTS requests (
    seq             INTEGER PRIMARY KEY,
    at              REAL NOT NULL,
    method          TEXT NOT NULL,
    path            TEXT NOT NULL,
    idempotency_key TEXT,
    request_id      TEXT NOT NULL,
    status          INTEGER,
    replayed        INTEGER NOT NULL,
    executed        INTEGER NOT NULL,
    fault           TEXT,
    payment_id      TEXT
);
