"""The picture of a server's names, built from the rows of its information_schema."""

from __future__ import annotations

from typing import Any

import pytest

from protocols.mysql.catalog import build, builtin_catalog, schema_only, server_version

ROWS: dict[str, list[tuple[str | None, ...]]] = {
    "server": [("10.11.19-MariaDB-0", "Debian 12", "0", "STRICT_TRANS_TABLES,ANSI_QUOTES", "utf8mb4", "0", "latin1")],
    "tables": [("app", "users", "BASE TABLE"), ("app", "v", "VIEW"), ("app", "w", "VIEW"), ("app", "s", "SEQUENCE")],
    "columns": [
        ("app", "users", "id", "int", "auto_increment", None, "int", None),
        ("app", "users", "Ssn", "varchar", "", None, "varchar(11) utf8mb4", "'`'"),
        ("app", "users", "h", "varchar", "VIRTUAL GENERATED", "sha2(`Ssn`,256)", "varchar(64) utf8mb4", None),
        ("app", "users", "i", "int", "INVISIBLE", None, "int", "`id` + 1"),
        ("app", "users", "at", "datetime", "DEFAULT_GENERATED", "", "datetime", "current_timestamp()"),
        ("app", "v", "id", "int", "", None, None, None),
    ],
    "views": [("app", "v", "select 1 AS `id`"), ("app", "w", "")],
    "triggers": [("app", "users", "t", "INSERT")],
    "routines": [("app", "F", "FUNCTION", ),
                 ("app", "f", "PROCEDURE", )],
    "collations": [("45", "utf8mb4_general_ci", "utf8mb4")],
    "grants": [("app", None, "TRIGGER")],
    "foreign_keys": [("app", "acts", "orders", "CASCADE", "SET NULL"),
                     ("app", "only", "orders", "RESTRICT", "NO ACTION")],
    "foreign_key_columns": [
        ("app", "acts", "orders", "User_id", "app", "users", "id"),
        ("app", "acts", "orders", "n", "app", "users", "Ssn"),
        ("app", "only", "orders", "x", "app", "users", "id"),
    ],
}  # fmt: skip


def rows(**changed: Any) -> dict[str, Any]:
    return {**ROWS, **changed}


def test_what_is_in_it() -> None:
    made = build(rows())
    assert (made.flavour, made.server_version) == ("mariadb", (10, 11, 19))
    assert made.sql_mode == {"STRICT_TRANS_TABLES", "ANSI_QUOTES"}
    assert made.character_sets == {"utf8mb4"}
    users = made.relation("app", "users")
    assert users is not None
    assert [c.name for c in users.columns] == ["id", "Ssn", "h", "i", "at"]
    assert [c.visible for c in users.columns] == [True, True, True, False, True]
    assert [c.generated for c in users.columns] == ["", "", "sha2(`Ssn`,256)", "", ""]
    assert [c.full_type for c in users.columns][:2] == ["int", "varchar(11) utf8mb4"]
    assert users.column("SSN") is users.columns[1]
    assert users.has_triggers("insert") is True
    assert users.has_triggers("delete") is False
    sequence = made.relation("app", "s")
    assert sequence is not None
    assert sequence.kind == "sequence"


def test_a_view_whose_text_is_hidden_is_opaque() -> None:
    made = build(rows())
    shown, hidden = made.relation("app", "v"), made.relation("app", "w")
    assert shown is not None
    assert hidden is not None
    assert shown.definition == "select 1 AS `id`"
    assert hidden.definition is None


def test_names_that_are_not_there_are_not_known() -> None:
    made = build(rows())
    assert made.relation("app", "USERS") is None
    assert made.relation("other", "users") is None
    assert made.routine("app", "g") is None


def test_letter_case_counts_where_the_server_says_so() -> None:
    folded = build(rows(server=[("8.0.36", "", "1", "", "utf8mb4", "0", "utf8mb4")]))
    assert folded.relation("APP", "Users") is not None


def test_routines_ignore_case_and_keep_their_kinds_apart() -> None:
    made = build(rows())
    function, procedure = made.routine("app", "F", "function"), made.routine("app", "F", "procedure")
    assert function is not None
    assert (function.name, function.kind) == ("F", "function")
    assert procedure is not None
    assert (procedure.name, procedure.kind) == ("f", "procedure")


@pytest.mark.parametrize(
    ("grants", "partial", "known"),
    [
        ([("app", None, "TRIGGER")], "0", True),
        ([(None, None, "TRIGGER")], "0", True),
        ([(None, None, "TRIGGER")], "1", False),  # partial revokes: it may have been taken back for this schema
        ([("app", "v", "TRIGGER")], "0", True),
        ([("a%", None, "TRIGGER")], "0", False),
        ([("app", None, "EXECUTE")], "0", False),
        ([], "0", False),
    ],
)
def test_triggers_are_known_only_to_who_may_see_them(grants: Any, partial: str, known: bool) -> None:
    server = [(*ROWS["server"][0][:5], partial, "utf8mb4")]
    relation = build(rows(grants=grants, triggers=[], server=server)).relation("app", "v")
    assert relation is not None
    assert (relation.has_triggers("insert") is not None) is known


def test_a_trigger_has_three_events() -> None:
    relation = build(rows()).relation("app", "v")
    assert relation is not None
    with pytest.raises(ValueError, match="no event"):
        relation.has_triggers("select")


def test_loadable_functions_are_known_where_the_account_may_ask() -> None:
    assert not build(rows()).loadable_known
    made = build(rows(loadable=[("sys_eval",)]))
    assert made.loadable_known
    assert made.routine("", "SYS_EVAL") is not None


def test_its_version_is_that_of_the_names() -> None:
    same = build(rows(tables=list(reversed(ROWS["tables"]))))
    assert same.version == build(rows()).version
    for name in ("tables", "columns", "views", "triggers", "routines", "grants"):
        assert build(rows(**{name: ROWS[name][1:]})).version != build(rows()).version


@pytest.mark.parametrize(
    "changed",
    [
        {"server": []},
        {"server": [("what", "", "0", "", "utf8mb4", "0", "utf8mb4")]},
        {"server": [("8.0.1", "", "x", "", "utf8mb4", "0", "utf8mb4")]},
        {"tables": [(None, "t", "VIEW")]},
        {"columns": [("app", "users")]},
    ],
)
def test_rows_that_make_no_sense_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which of the rows it is does not matter
        build(rows(**changed))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("9.7.4-2", ("mysql", (9, 7, 4))),
        ("8.0.36-0ubuntu0.22.04.1", ("mysql", (8, 0, 36))),
        ("5.5.5-10.6.1-MariaDB-log", ("mariadb", (10, 6, 1))),
        ("11.4.2-MariaDB", ("mariadb", (11, 4, 2))),
    ],
)
def test_versions(text: str, want: tuple[str, tuple[int, ...]]) -> None:
    assert server_version(text) == want


def test_foreign_keys_that_change_rows() -> None:
    made = build(rows())
    (key,) = made.pointing_at("app", "users")
    assert (key.schema, key.name, key.on_delete, key.on_update) == ("app", "orders", "set null", "cascade")
    assert (key.columns, key.referenced) == ({"user_id", "n"}, {"id", "ssn"})
    assert made.pointing_at("app", "orders") == ()
    assert made.pointing_at("app", "Users") == ()
    folded = build(rows(server=[("9.7.4", "", "1", "", "utf8mb4", "0", "utf8mb4")]))
    assert list(folded.pointing_at("APP", "Users")) == [key]


def test_without_a_server_only_its_own_names_are_known() -> None:
    made = builtin_catalog("mariadb")
    assert made.open_world
    assert made.relation("INFORMATION_SCHEMA", "Tables") is not None
    assert made.relation("app", "users") is None
    with pytest.raises(ValueError, match="neither"):
        builtin_catalog("oracle")


def test_which_system_tables_hold_names_alone() -> None:
    assert schema_only("information_schema", "COLUMNS")
    assert schema_only("mysql", "time_zone_name")
    assert schema_only("sys", "version")
    for schema, table in (
        ("information_schema", "innodb_cmp_reset"), ("information_schema", "processlist"),
        ("information_schema", "column_statistics"),
        ("information_schema", "innodb_trx"), ("information_schema", "innodb_ft_index_table"),
        ("mysql", "user"), ("mysql", "column_stats"), ("performance_schema", "data_locks"), ("sys", "processlist"),
    ):  # fmt: skip
        assert not schema_only(schema, table)
