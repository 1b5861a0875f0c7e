"""The numbered migrations of an area, as they lie in the SQLite folder; every engine applies the same."""

import re
from dataclasses import dataclass

from backend.storage.queries import SQL_FOLDER
from backend.storage.session import Area

_NAME = re.compile(r"(\d{4})_\w+\.sql")


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One step, in SQLite's words."""

    number: int
    name: str
    text: str


def migration_files(area: Area) -> list[MigrationFile]:
    """Every step, in order."""
    return [
        MigrationFile(int(match[1]), path.name, path.read_text("utf-8"))
        for path in sorted((SQL_FOLDER / area).glob("*.sql"))
        if (match := _NAME.fullmatch(path.name))
    ]
