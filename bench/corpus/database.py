"""Fills and changes a database and a log on a disk, the same in every run.

database.py create FILE | update FILE | log FILE FIRST COUNT
"""

import random
import sqlite3
import sys

ROWS = 400_000


def value(rng: random.Random) -> str:
    return " ".join(f"{rng.getrandbits(40):x}" for _ in range(rng.randrange(8, 64)))


def create(path: str) -> None:
    rng = random.Random(1)
    with sqlite3.connect(path) as db:
        db.execute("create table item (id integer primary key, name text, stock integer, note text)")
        db.execute("create index item_name on item (name)")
        rows = ((i, f"item-{rng.randrange(10**9)}", rng.randrange(1000), value(rng)) for i in range(ROWS))
        db.executemany("insert into item values (?, ?, ?, ?)", rows)


def update(path: str) -> None:
    rng = random.Random(2)
    with sqlite3.connect(path) as db:
        for i in rng.sample(range(ROWS), ROWS // 50):
            db.execute("update item set stock = ?, note = ? where id = ?", (rng.randrange(1000), value(rng), i))


def log(path: str, first: int, count: int) -> None:
    rng = random.Random(first)
    with open(path, "a", encoding="ascii") as out:
        for i in range(first, first + count):
            out.write(f"{1_790_000_000 + i} worker-{i % 7} item={rng.randrange(ROWS)} took {rng.randrange(900)} us\n")


if __name__ == "__main__":
    command, file, *numbers = sys.argv[1:]
    {"create": create, "update": update, "log": log}[command](file, *map(int, numbers))
