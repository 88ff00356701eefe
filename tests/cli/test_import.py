"""`import --from-skill` of a file that somebody else made: what can be taken in is, and the rest is said."""

from __future__ import annotations

import apsw
import pytest

from openrouter_audit.cli import EXIT_BAD_DATA
from openrouter_audit.cli.import_ import UnreadableFile, import_, open_table, pieces

TABLE = (
    "CREATE TABLE audit_log (id INTEGER PRIMARY KEY, timestamp TEXT, generation_id TEXT, model_requested TEXT, model_used TEXT,"
    " prompt_tokens INTEGER, completion_tokens INTEGER, total_cost REAL, latency_ms REAL, status TEXT, user_id TEXT,"
    " prompt_hash TEXT, error_code TEXT)"
)
ROW = "INSERT INTO audit_log (id, timestamp, status, user_id) VALUES"


def database(path, *statements):
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path


def test_a_row_with_text_that_is_none_costs_only_itself(tmp_path, capsys):
    path = database(
        tmp_path / "old.db",
        TABLE,
        f"{ROW} (1, '2026-11-23T09:00:00', 'success', 'a'), (2, '2026-11-23T09:00:00', 'success', CAST(x'ff00' AS TEXT)),"
        " (3, '2026-11-23T09:00:00', 'error', 'c')",
    )

    assert EXIT_BAD_DATA == import_(from_skill=path, home=tmp_path / "home")
    assert "imported 2, already there 0, bad 1" in capsys.readouterr().out


def test_a_user_id_of_a_megabyte_is_cut_and_its_call_taken_in(tmp_path, capsys):
    """No frame of the spool holds it; everywhere else it is cut, too."""
    path = database(tmp_path / "old.db", TABLE, f"{ROW} (1, '2026-11-23T09:00:00', 'success', hex(zeroblob(500000)))")

    assert 0 == import_(from_skill=path, home=tmp_path / "home")
    assert "imported 1" in capsys.readouterr().out


def test_damage_in_the_middle_of_the_file_is_said(tmp_path, capsys):
    """Rows before it are in the log."""
    rows = ", ".join(f"({number}, '2026-11-23T09:00:00', 'success', '{'u' * 200}')" for number in range(1, 400))
    path = database(tmp_path / "old.db", "PRAGMA page_size = 1024", TABLE, f"{ROW} {rows}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    path.write_bytes(data)

    assert EXIT_BAD_DATA == import_(from_skill=path, home=tmp_path / "home")
    assert "old.db is no such database, or damaged" in capsys.readouterr().err


def test_a_view_without_end_is_no_table(tmp_path):
    path = database(
        tmp_path / "old.db",
        "CREATE VIEW audit_log AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id FROM n",
    )
    with pytest.raises(UnreadableFile, match="no table audit_log"), open_table(path):
        pass


def test_pages_that_point_at_each_other_give_no_more_rows_than_the_file_can_hold(tmp_path):
    path = database(tmp_path / "old.db", TABLE, f"{ROW} (1, 't', 's', 'u')")
    with open_table(path) as table:
        assert table.most_rows <= path.stat().st_size
        assert 1 == sum(len(piece) for piece in pieces(table))
