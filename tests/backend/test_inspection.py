"""A look into a data folder shows what is there, and no secret."""

import pytest

from backend.storage import inspection, registry, sources
from backend.storage.database import StorageError, open_for_writing, transaction


@pytest.fixture
def folder(tmp_path):
    for area in ("state", "journal"):
        connection = open_for_writing(tmp_path / f"{area}.db", area)
        if area == "state":
            transaction(connection, area, lambda s: registry.create_token(s, "ann", "viewer", 1))
            transaction(
                connection, area, lambda s: sources.create_source(s, "app", "App", "app", "required", 1)
            )
        connection.close()
    return tmp_path


def test_every_table_of_both_files_is_counted(folder):
    sizes = {(size.file, size.table): size.rows for size in inspection.tables(folder)}
    assert sizes[("state", "api_tokens")] == 1
    assert sizes[("journal", "entries")] == 0


@pytest.mark.parametrize(
    ("table", "secrets"), [("api_tokens", ["token_hash"]), ("sources", ["key_hash", "proof_secret"])]
)
def test_rows_are_shown_without_their_secrets(folder, table, secrets):
    [row] = inspection.newest_rows(folder, table, 10)
    assert {row[name] for name in secrets} == {inspection.HIDDEN}
    assert row["name"] in ("ann", "App")


def test_every_table_can_be_looked_into_also_one_without_row_ids(folder):
    for size in inspection.tables(folder):
        assert len(inspection.newest_rows(folder, size.table, 10)) <= 10, size.table


def test_the_last_by_key_come_first_where_rows_have_no_ids(folder):
    connection = open_for_writing(folder / "state.db", "state")
    connection.execute("insert into segment_timers values ('a', 's', 1), ('b', 's', 1), ('b', 't', 1)")
    connection.close()
    rows = inspection.newest_rows(folder, "segment_timers", 2)
    assert [(row["profile_id"], row["segment_id"]) for row in rows] == [("b", "t"), ("b", "s")]


def test_an_unknown_table_is_answered_with_those_there_are(folder):
    with pytest.raises(inspection.UnknownTable, match="api_tokens"):
        inspection.newest_rows(folder, "nothing; drop table profiles", 1)


def test_a_folder_without_databases_is_named(tmp_path):
    with pytest.raises(StorageError, match="data_dir"):
        inspection.tables(tmp_path / "nowhere")
