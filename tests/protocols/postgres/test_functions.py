"""The reviewed lists of built-in functions, held against every function of every server at hand."""

from __future__ import annotations

import pytest

from protocols.contract import Effect
from protocols.postgres.builtins import builtin_catalog, known_functions
from protocols.postgres.functions import HARMLESS_VOLATILE, builtin_effects, extension_effects
from protocols.postgres.settings import set_effect


def test_every_volatile_built_in_is_on_a_list_or_unknown() -> None:
    harmless = {f.name for f in builtin_catalog().functions_by_oid.values() if f.volatile and not f.effects}
    assert harmless <= HARMLESS_VOLATILE | {"ts_rewrite"}


@pytest.mark.parametrize(
    "words",
    ["file", "read_binary", "_slot", "_backend", "reset", "advisory", "sleep", "notify", "import", "export", "_to_xml",
     "binary_upgrade", "replication_origin", "set_config", "nextval", "setval", "reload", "rotate", "promote"],
)  # fmt: skip
def test_no_function_of_a_dangerous_family_passes(words: str) -> None:
    """What is left harmless in each family was looked at one by one."""
    reviewed = {
        "pg_relation_filenode", "pg_relation_filepath", "pg_filenode_relation", "pg_walfile_name",
        "pg_walfile_name_offset",
        "pg_split_walfile_name", "pg_get_replication_slots", "pg_stat_get_replication_slot", "pg_advisory_unlock_all",
        "pg_replication_origin_oid", "pg_replication_origin_session_is_setup", "pg_replication_origin_session_progress",
        "pg_replication_origin_progress", "pg_show_replication_origin_status", "pg_notification_queue_usage",
        "pg_backend_pid",
    }  # fmt: skip
    passing = {f.name for f in builtin_catalog().functions_by_oid.values() if words in f.name and not f.effects}
    statistics = {name for name in passing if name.startswith("pg_stat_get_")}
    assert passing - statistics <= reviewed


def test_labels_do_not_decide_alone() -> None:
    assert builtin_effects("query_to_xml", False, 4, True) == {Effect.EXEC_DYNAMIC}
    assert builtin_effects("txid_current", False, 0, True) == {Effect.DATA_WRITE}
    assert builtin_effects("ts_rewrite", True, 2, True) == {Effect.EXEC_DYNAMIC}
    assert builtin_effects("ts_rewrite", False, 3, True) == frozenset()


def test_a_function_that_was_never_reviewed_is_unknown() -> None:
    assert builtin_effects("pg_brand_new", False, 1, known=False) == {Effect.UNKNOWN}
    assert builtin_effects("pg_brand_new", True, 1, known=True) == {Effect.UNKNOWN}
    assert "upper" in known_functions()


@pytest.mark.parametrize(
    ("extension", "name", "volatile", "effects"),
    [
        ("citext", "citext_eq", False, set()),
        ("pgcrypto", "gen_random_bytes", True, set()),
        ("pgcrypto", "something_new", True, {"exec.call"}),
        ("dblink", "dblink", True, {"net.egress", "exec.dynamic"}),
        ("pg_stat_statements", "pg_stat_statements", True, {"secret.read"}),
        ("mystery", "pure", False, {"exec.call"}),
    ],
)
def test_extensions(extension: str, name: str, volatile: bool, effects: set[str]) -> None:
    assert {e.value for e in extension_effects(extension, name, volatile, "c")} == effects


def test_a_trusted_extension_is_trusted_for_compiled_and_sql_functions_only() -> None:
    assert extension_effects("hstore", "x", False, "plpgsql") == {Effect.EXEC_CALL}


@pytest.mark.parametrize(
    ("name", "value", "effect"),
    [
        ("TimeZone", "UTC", Effect.SESSION_SET),
        ("ROLE", "x", Effect.SESSION_ROLE),
        ("client_encoding", "utf-8", Effect.SESSION_SET),
        ("client_encoding", None, Effect.SESSION_PARSE_STATE),
        ("client_encoding", "latin1", Effect.SESSION_PARSE_STATE),
        ("standard_conforming_strings", "on", Effect.SESSION_SET),
        ("standard_conforming_strings", "off", Effect.SESSION_PARSE_STATE),
        ("default_transaction_read_only", "on", Effect.SESSION_SET),
        ("default_transaction_read_only", "off", Effect.SESSION_GUARD),
        ("default_transaction_read_only", None, Effect.SESSION_GUARD),
        ("statement_timeout", "1", Effect.SESSION_GUARD),
        ("enable_seqscan", "off", Effect.SESSION_SET),
        ("enable_x.y", "off", Effect.SESSION_OTHER),
        ("some.thing", "1", Effect.SESSION_OTHER),
        ("dynamic_library_path", "x", Effect.EXEC_LIBRARY),
    ],
)
def test_settings(name: str, value: str | None, effect: Effect) -> None:
    assert set_effect(name, value) is effect
