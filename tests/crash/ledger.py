"""The commits that the server has acknowledged, which must survive a crash."""

import threading
from contextlib import contextmanager

import psycopg

# Only the writer with the number n changes the rows with id % ID_STRIDE = n, so it knows their contents.
ID_STRIDE = 64


def is_conflict(error):
    """Whether the error is one that concurrent sessions may cause: a deadlock, a serialization failure (on a standby:
    a conflict with replay), or a concurrent update of a catalog row."""
    return error.sqlstate in ("40P01", "40001") or "tuple concurrently updated" in str(error)


class Gate:
    """A lock that many threads hold shared, or one thread exclusively."""

    def __init__(self):
        self.condition = threading.Condition()
        self.holders = 0

    @contextmanager
    def shared(self):
        with self.condition:
            self.holders += 1
        try:
            yield
        finally:
            with self.condition:
                self.holders -= 1
                self.condition.notify_all()

    @contextmanager
    def exclusive(self):
        """Holds the lock exclusively: threads that want a share wait for the condition's lock."""
        with self.condition:
            self.condition.wait_for(lambda: self.holders == 0)
            yield


class Ledger:
    """The acknowledged state of the tables: for each table, the version of each id."""

    def __init__(self, tables):
        self.lock = threading.Lock()
        self.rows = {table.name: {} for table in tables}
        # For each session, a commit whose outcome is unknown: the table, whether it was truncated first, and the versions
        # by id (None: deleted).
        self.pending = {}
        self.gates = {table.name: Gate() for table in tables}
        self.commits = 0
        self.counters = {}

    def own(self, table, writer):
        with self.lock:
            return [number for number in self.rows[table] if number % ID_STRIDE == writer]

    @contextmanager
    def commit(self, writer, table, changes, truncated=False):
        """Encloses the statement that commits. If the session ends within it, the commit stays pending."""
        with self.lock:
            self.pending[writer] = (table, truncated, changes)
        try:
            yield
        except psycopg.Error as error:
            # The server has reported that the transaction did not commit.
            if is_conflict(error):
                with self.lock:
                    del self.pending[writer]
            raise
        with self.lock:
            del self.pending[writer]
            self.rows[table] = changed(self.rows[table], truncated, changes)
            self.commits += 1

    def settle(self, connection, tables):
        """Compares the tables with the ledger after recovery; returns the differences. A pending commit must be there
        completely or not at all."""
        complaints = []
        for table in tables:
            found = dict(connection.execute(f"SELECT id, version FROM {table.name}").fetchall())
            expected = {} if table.persistence == "UNLOGGED" else self.rows[table.name]
            for name, truncated, changes in self.pending.values():
                if name == table.name and table.persistence != "UNLOGGED":
                    after = changed(expected, truncated, changes)
                    concerned = set(changes) | (set(expected) if truncated else set())
                    if all(found.get(number) == after.get(number) for number in concerned):
                        expected = after
            if found != expected:
                wrong = [(n, expected.get(n), found.get(n)) for n in sorted(found.keys() | expected.keys()) if found.get(n) != expected.get(n)]
                complaints.append(f"{table.name}: {len(wrong)} rows are not as committed (id, version committed, version found): {wrong[:10]}")
            self.rows[table.name] = found
        self.pending.clear()
        return complaints


def changed(rows, truncated, changes):
    after = {} if truncated else dict(rows)
    for number, version in changes.items():
        if version is None:
            after.pop(number, None)
        else:
            after[number] = version
    return after
