"""The answers of a study's participants, in one SQLite file.

Every answer is a transaction of its own, which a kill or a power cut leaves whole or not there.
What `read_answers` opens may come from another machine: every value is checked.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs.evaluation.study import QUESTIONS, SCHEMA, Study

ANSWERS_FILE = "answers.sqlite"
MAX_BYTES = 256 * 2**20
MAX_PARTICIPANTS = 10_000
MAX_READING_S = 60.0
MAX_TIME_S = 1e11
"""Of an answer; thousands of years from now."""
WAIT_S = 20.0
"""For another process that writes."""
_COLUMNS = "participant, scene, question, chosen, first, answered_at"
_TABLES = (
    "CREATE TABLE study (id TEXT NOT NULL)",
    "CREATE TABLE answers (participant TEXT NOT NULL, scene TEXT NOT NULL, "
    "question TEXT NOT NULL, chosen INTEGER NOT NULL, first INTEGER NOT NULL, "
    "answered_at REAL NOT NULL, PRIMARY KEY (participant, scene, question))",
    f"PRAGMA user_version = {SCHEMA}",
)


@dataclass(frozen=True)
class Answer:
    """What a participant answered to one question about one pair."""

    participant: str
    scene: str
    question: str
    chosen: int
    """Index of the method that was chosen."""
    first: int
    """Index of the method that was shown as video 1."""
    answered_at: float
    """Seconds since 1970."""


class Answers:
    """The answers to one study, to be read and written by several threads and processes."""

    def __init__(self, study: Study) -> None:
        """Open the file in the study folder; made if missing.

        Raises:
            InputError: The file is damaged, or belongs to another study.
        """
        self._study, self.path = study, study.folder / ANSWERS_FILE
        with self._opened() as file:
            if file.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                for statement in _TABLES:
                    file.execute(statement)
                file.execute("INSERT INTO study VALUES (?)", (study.id,))
        read_answers(self.path, study)

    def put(self, answer: Answer) -> None:
        """Keep an answer; it replaces an earlier one to the same question.

        Raises:
            InputError: There are too many participants, or it cannot be written.
        """
        with self._opened() as file:
            known = file.execute(
                "SELECT 1 FROM answers WHERE participant = ?", (answer.participant,)
            ).fetchone()
            if known is None:
                query = "SELECT count(DISTINCT participant) FROM answers"
                if file.execute(query).fetchone()[0] >= MAX_PARTICIPANTS:
                    raise InputError("this study takes no more participants")
            file.execute(
                f"INSERT OR REPLACE INTO answers ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                astuple(answer),
            )

    def of(self, participant: str) -> list[Answer]:
        """Return the answers of a participant."""
        query = f"SELECT {_COLUMNS} FROM answers WHERE participant = ?"
        with self._opened() as file:
            return [Answer(*row) for row in file.execute(query, (participant,))]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction: kept where the block ends well, else undone."""
        with ReadingErrors(f"{ANSWERS_FILE} cannot be used", sqlite3.Error):
            with closing(sqlite3.connect(self.path, timeout=WAIT_S)) as file, file:
                file.execute("BEGIN IMMEDIATE")
                yield file


def read_answers(path: Path, study: Study) -> list[Answer]:
    """Return the answers in a file, which may have been written on another machine.

    Raises:
        InputError: It is no such file, belongs to another study or another version, or holds what
            is no answer to this study.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Answers come from: zeronvs study serve")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
    address = f"{path.resolve().as_uri()}?mode=ro"
    with ReadingErrors(f"{path} holds no answers of a study", sqlite3.Error):
        with closing(sqlite3.connect(address, uri=True, timeout=WAIT_S)) as file:
            return list(_checked_rows(file, path, study))


def merged(parts: Iterable[Iterable[Answer]]) -> list[Answer]:
    """Return the answers of several files; of two to the same question, the later one."""
    kept: dict[tuple[str, str, str], Answer] = {}
    for answer in (answer for part in parts for answer in part):
        key = (answer.participant, answer.scene, answer.question)
        if key not in kept or kept[key].answered_at < answer.answered_at:
            kept[key] = answer
    return sorted(kept.values(), key=astuple)


def _checked_rows(file: sqlite3.Connection, path: Path, study: Study) -> Iterator[Answer]:
    """Yield the answers.

    Raises:
        InputError: It is a file of another study or version, or a row is no answer.
    """
    end = time.monotonic() + MAX_READING_S
    file.set_progress_handler(lambda: time.monotonic() > end, 100_000)
    file.execute("PRAGMA trusted_schema = OFF")
    # Views and virtual tables of a hostile file could compute anything; ordinary tables cannot.
    kinds = [row[:3] for row in file.execute("PRAGMA table_list")]
    tables = {name for schema, name, kind in kinds if (schema, kind) == ("main", "table")}
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if not {"study", "answers"} <= tables:
        raise InputError(f"{path} holds no answers of a study")
    if version != SCHEMA:
        raise InputError(f"{path} has schema {version}; this program reads {SCHEMA}")
    if (found := file.execute("SELECT id FROM study LIMIT 2").fetchall()) != [(study.id,)]:
        name = str(found[0][0])[:32] if found else "none"
        raise InputError(
            f"{path} belongs to another study ({name}, not {study.id}); studies are not mixed"
        )
    scenes = {pair.scene for pair in study.pairs}
    for row in file.execute(f"SELECT {_COLUMNS} FROM answers"):
        participant, scene, question, chosen, first, answered_at = row
        usable = isinstance(participant, str) and len(participant) <= 64
        usable &= scene in scenes and question in QUESTIONS
        usable &= type(chosen) is int and chosen in (0, 1) and type(first) is int
        usable &= first in (0, 1)
        usable &= isinstance(answered_at, float) and 0 <= answered_at < MAX_TIME_S
        if not usable:
            raise InputError(f"{path} has a row that is no answer to this study: {row!r:.120}")
        yield Answer(*row)
