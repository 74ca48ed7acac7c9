"""Tables, and sessions that write to them and query them at random."""

import random
import threading

import psycopg

from answers import Table, compare, questions
from ledger import ID_STRIDE, Ledger, is_conflict
from vectors import Vectors, copy_binary, text

# SQLSTATEs of a server that is gone: a broken connection, a shutdown, a crash, or recovery.
GONE = (None, "57P01", "57P02", "57P03")

# Autovacuum starts after few changed rows, so that it runs while sessions write.
EAGER_AUTOVACUUM = {
    "autovacuum_naptime": "1s",
    "autovacuum_vacuum_threshold": "20",
    "autovacuum_vacuum_insert_threshold": "50",
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_cost_delay": "0",
}

TABLES = [
    Table("photos", 2048, {"photos_default": (None, None), "photos_64": (64, None), "photos_some": (128, "kind < 3")}),
    Table("faces", 256, {"faces_128": (128, None), "faces_100": (100, None)}, storage="main"),
    Table("thumbs", 32, {"thumbs_16": (16, None), "thumbs_32": (32, None), "thumbs_some": (7, "kind = 2")}, storage="plain"),
    # One or two entries fill a page, so a page that a session has just added may be full before the session uses it.
    Table("posters", 4096, {"posters_4096": (4096, None), "posters_2048": (2048, None)}),
    Table("drafts", 32, {"drafts_20": (20, None)}, storage="plain", persistence="UNLOGGED"),
]
# A writer with more rows than this in a table only deletes.
FULL = {"photos": 200, "faces": 500, "thumbs": 1000, "posters": 40, "drafts": 300}


class Writer(threading.Thread):
    """One session that takes random steps until the server is gone or it is told to stop."""

    def __init__(self, server, ledger, tables, sources, number, seed, maintenance, builds=True):
        super().__init__(daemon=True)
        self.server, self.ledger, self.tables, self.sources = server, ledger, tables, sources
        self.number, self.rng, self.maintenance = number, random.Random(seed), maintenance
        self.builds = builds
        self.stopping = threading.Event()
        # Source of ids and versions. It continues over rounds, so that writers of the same number never reuse one.
        self.counter = ledger.counters.get(number, 0)
        self.connection = self.pid = None
        self.done = 0
        self.error = None

    def run(self):
        try:
            self.connect()
            while not self.stopping.is_set():
                self.step()
        except psycopg.OperationalError as error:
            if error.sqlstate not in GONE:
                self.error = error
        except Exception as error:
            self.error = error
        finally:
            self.ledger.counters[self.number] = self.counter
            if self.connection:
                self.connection.close()

    def connect(self):
        self.connection = self.server.connect()
        self.pid = self.connection.info.backend_pid
        self.connection.execute("SET statement_timeout = '60s'")

    def step(self):
        table = self.rng.choice(self.tables)
        actions = [self.insert_one, self.insert_some, self.copy_some, self.update_embedding, self.update_other, self.delete, self.transaction]
        weights = [6, 3, 3, 6, 4, 5, 6]
        actions += [self.vacuum, self.checkpoint, self.temporary, self.reconnect]
        weights += [4, 2, 1, 2]
        if self.builds:
            actions += [self.reindex, self.create_and_drop, self.truncate, self.vacuum_full]
            weights += [1, 1, 0.1, 0.3]
        if len(self.ledger.own(table.name, self.number)) > FULL[table.name]:
            actions = [self.delete]
            weights = [1]
        (action,) = self.rng.choices(actions, weights)
        try:
            action(table)
        except psycopg.Error as error:
            if not is_conflict(error):
                raise
        self.done += 1

    # Statements, and what they are made of. insert, update_column and remove return the versions that they wrote, by id (None:
    # deleted). On the tables of TABLES they run within the table's gate (ledger.py).

    def new_rows(self, table, count):
        rows = []
        for _ in range(count):
            self.counter += 1
            number = self.counter * ID_STRIDE + self.number
            rows.append((number, self.rng.randrange(6), self.counter, self.sources[table.name].one(self.rng)))
        return rows

    def insert(self, table, rows, copy):
        with self.connection.cursor() as cursor:
            if copy:
                copy_binary(cursor, table.name, rows)
            else:
                values = [value for number, kind, version, vector in rows for value in (number, kind, version, text(vector))]
                slots = ", ".join(["(%s, %s, %s, %s)"] * len(rows))
                cursor.execute(f"INSERT INTO {table.name} (id, kind, version, embedding) VALUES {slots}", values)
        return {number: version for number, _, version, _ in rows}

    def some_own(self, table, most):
        own = self.ledger.own(table.name, self.number)
        return self.rng.sample(own, min(len(own), self.rng.randint(1, most)))

    def version(self):
        self.counter += 1
        return self.counter

    def update_column(self, table, column):
        """Updates a column of a few rows, and their version. No index is on the version, so an update of it alone may be HOT."""
        numbers, version = self.some_own(table, 8), self.version()
        for number in numbers:
            if column == "embedding":
                self.connection.execute(f"UPDATE {table.name} SET embedding = %s, version = %s WHERE id = %s", [text(self.sources[table.name].one(self.rng)), version, number])
            elif column == "kind":
                self.connection.execute(f"UPDATE {table.name} SET kind = %s, version = %s WHERE id = %s", [self.rng.randrange(6), version, number])
            else:
                self.connection.execute(f"UPDATE {table.name} SET version = %s WHERE id = %s", [version, number])
        return dict.fromkeys(numbers, version)

    def remove(self, table, most):
        numbers = self.some_own(table, most)
        self.connection.execute(f"DELETE FROM {table.name} WHERE id = ANY(%s)", [numbers])
        return dict.fromkeys(numbers)

    # The steps.

    def insert_one(self, table):
        rows = self.new_rows(table, 1)
        self.autocommit(table, rows, lambda: self.insert(table, rows, copy=False))

    def insert_some(self, table):
        rows = self.new_rows(table, self.rng.randint(2, 12))
        self.autocommit(table, rows, lambda: self.insert(table, rows, copy=False))

    def copy_some(self, table):
        rows = self.new_rows(table, self.rng.randint(2, 60))
        self.autocommit(table, rows, lambda: self.insert(table, rows, copy=True))

    def autocommit(self, table, rows, statement):
        """Runs one statement as a transaction of its own."""
        with self.ledger.gates[table.name].shared(), self.ledger.commit(self.number, table.name, {row[0]: row[2] for row in rows}):
            statement()

    def update_embedding(self, table):
        self.in_transaction(table, lambda: self.update_column(table, "embedding"))

    def update_other(self, table):
        self.in_transaction(table, lambda: self.update_column(table, self.rng.choice(("kind", "version", "version"))))

    def delete(self, table):
        self.in_transaction(table, lambda: self.remove(table, 12))

    def transaction(self, table):
        """Several statements. Some are rolled back to a savepoint; one transaction in four is rolled back."""
        def statements():
            changes = {}
            for _ in range(self.rng.randint(1, 4)):
                undone = self.rng.random() < 0.3
                if undone:
                    self.connection.execute("SAVEPOINT before")
                statement = self.rng.choice((
                    lambda: self.insert(table, self.new_rows(table, self.rng.randint(1, 20)), copy=self.rng.random() < 0.5),
                    lambda: self.update_column(table, "embedding"),
                    lambda: self.update_column(table, "version"),
                    lambda: self.remove(table, 8),
                ))  # fmt: skip
                made = statement()
                if undone:
                    self.connection.execute("ROLLBACK TO before")
                else:
                    # An UPDATE finds no row that this transaction has deleted.
                    changes |= {n: v for n, v in made.items() if not (n in changes and changes[n] is None)}
            return changes

        self.in_transaction(table, statements, rollback=self.rng.random() < 0.25)

    def in_transaction(self, table, statements, rollback=False):
        with self.ledger.gates[table.name].shared():
            self.begin_to_commit(table, lambda: (statements(), False), rollback)

    def begin_to_commit(self, table, statements, rollback=False):
        """Runs a transaction. statements() returns the changes, and whether the table was truncated before them."""
        self.connection.execute("BEGIN")
        try:
            changes, truncated = statements()
            if rollback:
                self.connection.execute("ROLLBACK")
            else:
                with self.ledger.commit(self.number, table.name, changes, truncated):
                    self.connection.execute("COMMIT")
        except psycopg.Error as error:
            if is_conflict(error):
                self.connection.execute("ROLLBACK")
            raise

    def reconnect(self, _):
        """Starts a new session. It has no page yet for its entries, and chooses one for the first of them."""
        self.connection.close()
        self.connect()

    # Maintenance. Two commands that run CONCURRENTLY would wait for each other, so the lock self.maintenance admits one.

    def vacuum(self, table):
        how = self.rng.choice(("", "(INDEX_CLEANUP on)", "(INDEX_CLEANUP on)", "(FREEZE, INDEX_CLEANUP on)", "(ANALYZE)"))
        self.connection.execute(f"VACUUM {how} {table.name}")

    def vacuum_full(self, table):
        self.connection.execute(f"VACUUM FULL {table.name}")

    def checkpoint(self, _):
        self.connection.execute("CHECKPOINT")

    def reindex(self, table):
        index = self.rng.choice(list(table.indexes))
        how = self.rng.choice(("", "CONCURRENTLY"))
        with self.maintenance:
            self.connection.execute(f"REINDEX INDEX {how} {index}")

    def create_and_drop(self, table):
        with self.maintenance:
            how = self.rng.choice(("", "CONCURRENTLY"))
            self.connection.execute(f"DROP INDEX IF EXISTS {table.name}_spare")
            table.create_index(self.connection, self.rng.choice(list(table.indexes)), f"{table.name}_spare", how)
            self.connection.execute(f"DROP INDEX {how} {table.name}_spare")

    def truncate(self, table):
        """TRUNCATE, rolled back to a savepoint in two cases of three. The session must then have forgotten the pages of the
        removed file that it has inserted into."""
        taken_back = self.rng.random() < 0.66

        def statements():
            self.connection.execute("SAVEPOINT before")
            self.connection.execute(f"TRUNCATE {table.name}")
            changes = self.insert(table, self.new_rows(table, 5), copy=False)
            if taken_back:
                self.connection.execute("ROLLBACK TO before")
                changes = self.insert(table, self.new_rows(table, 5), copy=False)
            return changes, not taken_back

        with self.ledger.gates[table.name].exclusive():
            self.begin_to_commit(table, statements)

    def temporary(self, table):
        """A temporary table, truncated in the transaction that created it, for which Postgres truncates the file in place."""
        copy = Table("own", table.dims, {"own_index": next(iter(table.indexes.values()))}, table.storage, "TEMPORARY")
        with self.connection.transaction(force_rollback=self.rng.random() < 0.5):
            copy.create(self.connection)
            copy.create_index(self.connection, "own_index")
            for _ in range(2):
                self.insert(copy, self.new_rows(table, 200), copy=True)
                self.connection.execute("TRUNCATE own")
            self.insert(copy, self.new_rows(table, 50), copy=True)
            self.connection.execute("DELETE FROM own WHERE kind = 0")
        self.connection.execute("DROP TABLE IF EXISTS own")


class Reader(threading.Thread):
    """One session that queries while others write, and compares the answers within one snapshot."""

    def __init__(self, server, tables, sources, seed):
        super().__init__(daemon=True)
        self.server, self.tables, self.sources, self.rng = server, tables, sources, random.Random(seed)
        self.stopping = threading.Event()
        self.pid = None
        self.asked = self.conflicts = 0
        self.error = None
        self.wrong = []

    def run(self):
        try:
            while not self.stopping.is_set() and not self.wrong:
                self.session()
        except psycopg.OperationalError as error:
            if error.sqlstate not in GONE:
                self.error = error
        except Exception as error:
            self.error = error

    def session(self):
        """One connection, used until the reader is told to stop or replay on a standby ends it."""
        with self.server.connect() as connection:
            self.pid = connection.info.backend_pid
            connection.execute("SET statement_timeout = '60s'")
            while not (self.stopping.is_set() or self.wrong or connection.closed):
                self.ask(connection, self.rng.choice(self.tables))

    def ask(self, connection, table):
        try:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                everywhere = {index: None for index, (_, predicate) in table.indexes.items() if not predicate}
                asked = questions(self.rng, connection, table, self.sources[table.name], 3)
                for question, shape, complaint in compare(connection, table, everywhere, asked):
                    # An index built after the snapshot was taken may be invalid for it, so the planner may not use it.
                    if not complaint.startswith("the index was not used"):
                        self.wrong.append(f"{table.name}, during writes: {question.describe()} by {shape}: {complaint}")
                self.asked += len(asked)
        except psycopg.Error as error:
            if not is_conflict(error) and not self.is_overtaken(error):
                raise
            self.conflicts += 1

    def is_overtaken(self, error):
        """Whether a standby replayed the end of DROP INDEX or REINDEX CONCURRENTLY while the planner looked at the list of
        indexes: the primary waits for its own sessions there, not for those of a standby."""
        if not str(error).startswith("could not open relation with OID"):
            return False
        with self.server.connect() as connection:
            return connection.execute("SELECT pg_is_in_recovery()").fetchone()[0]


def make(connection, tables, seed, writers):
    """Creates the tables and indexes, with rows from before and after the build. Returns the sources and the ledger."""
    connection.execute("CREATE EXTENSION photosearch")
    rng = random.Random(seed)
    sources = {table.name: Vectors(table.dims, seed) for table in tables}
    ledger = Ledger(tables)
    for table in tables:
        table.create(connection)
        count = FULL[table.name] * writers // 2
        for part in (0, 1):
            # Version -1 and negative ids, which no writer gives to a row. Of them, too, id % ID_STRIDE is the writer's number.
            rows = [(-(2 * i + part + 1) * ID_STRIDE + i % writers, rng.randrange(6), -1, sources[table.name].one(rng)) for i in range(count // 2)]
            with connection.cursor() as cursor:
                copy_binary(cursor, table.name, rows)
            ledger.rows[table.name] |= {row[0]: row[2] for row in rows}
            if part == 0:
                for index in table.indexes:
                    table.create_index(connection, index)
    return sources, ledger
