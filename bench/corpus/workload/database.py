"""A program with a database in memory. SIGUSR2 makes it change one row of a hundred; what it has done is a line in LOG."""

import random
import signal
import sqlite3
import sys

log_path = sys.argv[1]
ROWS = 300_000
rng = random.Random(1)
database = sqlite3.connect(":memory:")


def value() -> str:
    return " ".join(f"{rng.getrandbits(40):x}" for _ in range(rng.randrange(8, 64)))


def told(phase: int) -> None:
    with open(log_path, "a", encoding="ascii") as log:
        log.write(f"phase {phase}\n")


database.execute("create table item (id integer primary key, name text, stock integer, note text)")
database.execute("create index item_name on item (name)")
for i in range(ROWS):
    row = (i, f"item-{rng.randrange(10**9)}", rng.randrange(1000), value())
    database.execute("insert into item values (?, ?, ?, ?)", row)
database.commit()

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
phase = 0
told(phase)
while True:
    signal.sigwait([signal.SIGUSR2])
    phase += 1
    for i in rng.sample(range(ROWS), ROWS // 100):
        database.execute("update item set stock = ?, note = ? where id = ?", (rng.randrange(1000), value(), i))
    database.commit()
    told(phase)
