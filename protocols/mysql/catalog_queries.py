"""What the gateway asks MySQL and MariaDB about their names: the queries behind `catalog.build`.

They run on a connection of the gateway's own, as text queries with utf8mb4 results, in autocommit and `sql_mode = ''`.
They need no privilege: what the account may not see is missing from the answers, and then not known. Worth granting are
TRIGGER (else whether a write runs a trigger is not known), SHOW VIEW (else a view is opaque), EXECUTE on `*.*` (else a
function that is not listed may exist) and SELECT on `mysql.func` (loadable functions).

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Row = Sequence[str | None]
CatalogRows = Mapping[str, Sequence[Row]]

# System tables that hold names and settings, and nothing of any row, value or statement. All others (statistics,
# histograms, process lists, locks, full-text indexes, traces, logs, accounts) may show masked values.
SCHEMA_ONLY: Mapping[str, frozenset[str]] = {
    "information_schema": frozenset(
        {
            "administrable_role_authorizations", "applicable_roles", "character_sets", "check_constraints",
            "collations", "collation_character_set_applicability", "columns", "columns_extensions",
            "column_privileges", "enabled_roles", "engines", "events", "files", "key_caches", "key_column_usage",
            "keywords", "parameters", "partitions", "plugins", "referential_constraints", "resource_groups",
            "role_column_grants", "role_routine_grants", "role_table_grants", "routines", "schemata",
            "schemata_extensions", "schema_privileges", "sql_functions", "statistics", "st_geometry_columns",
            "st_spatial_reference_systems", "st_units_of_measure", "system_variables", "tables",
            "tables_extensions", "tablespaces", "tablespaces_extensions", "table_constraints",
            "table_constraints_extensions", "table_privileges", "triggers", "user_attributes", "user_privileges",
            "views", "view_routine_usage", "view_table_usage", "global_status", "session_status",
            "global_variables", "session_variables", "geometry_columns", "spatial_ref_sys", "sequences", "periods",
            "key_period_usage", "libraries", "all_plugins", "profiling", "query_response_time",
            "innodb_tables", "innodb_columns", "innodb_indexes", "innodb_fields", "innodb_foreign",
            "innodb_foreign_cols", "innodb_tablespaces", "innodb_tablespaces_brief", "innodb_datafiles",
            "innodb_virtual", "innodb_metrics", "innodb_tablestats", "innodb_cmp", "innodb_cmpmem",
            "innodb_cmp_per_index", "innodb_buffer_pool_stats", "innodb_ft_default_stopword",
            "innodb_sys_tables", "innodb_sys_columns", "innodb_sys_indexes", "innodb_sys_fields", "innodb_sys_foreign",
            "innodb_sys_foreign_cols", "innodb_sys_tablespaces", "innodb_sys_datafiles", "innodb_sys_virtual",
            "innodb_sys_tablestats",
        }
    ),
    "performance_schema": frozenset(
        {
            "global_status", "session_status", "global_variables", "session_variables", "variables_info",
            "column_masking_policy", "setup_actors", "setup_consumers", "setup_instruments", "setup_objects",
            "performance_timers", "events_waits_summary_global_by_event_name",
            "events_stages_summary_global_by_event_name", "events_statements_summary_global_by_event_name",
            "file_summary_by_event_name", "file_summary_by_instance", "table_io_waits_summary_by_table",
            "table_io_waits_summary_by_index_usage", "table_lock_waits_summary_by_table",
            "memory_summary_global_by_event_name", "replication_group_members",
        }
    ),
    "mysql": frozenset(
        {
            "time_zone", "time_zone_name", "time_zone_transition", "time_zone_transition_type",
            "time_zone_leap_second", "help_topic", "help_category", "help_keyword", "help_relation",
            "engine_cost", "server_cost",
        }
    ),
    "sys": frozenset(
        {
            "version", "schema_redundant_indexes", "schema_unused_indexes", "schema_object_overview",
            "schema_auto_increment_columns",
        }
    ),
}  # fmt: skip
# columns of those that are computed from rows
ROW_DERIVED = frozenset({"checksum", "partition_description"})

_OWN = "CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')"
_WANTED = "PRIVILEGE_TYPE IN ('TRIGGER', 'EXECUTE')"


@dataclass(frozen=True, slots=True)
class Question:
    """One query. `optional`: an error answer means that the account may not ask, and the rows are not known."""

    sql: str
    optional: bool = False


def catalog_queries(flavour: str) -> Mapping[str, Question]:
    """The queries for `mysql` or `mariadb`, by name."""
    partial = "@@GLOBAL.partial_revokes" if flavour == "mysql" else "0"
    queries = {
        "server": Question(
            "SELECT VERSION(), @@GLOBAL.version_comment, @@GLOBAL.lower_case_table_names, @@GLOBAL.sql_mode,"
            f" @@GLOBAL.character_set_server, {partial}, @@GLOBAL.character_set_client"
        ),
        "tables": Question("SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES"),
        "columns": Question(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, EXTRA, GENERATION_EXPRESSION,"
            " CONCAT_WS(' ', COLUMN_TYPE, CHARACTER_SET_NAME), COLUMN_DEFAULT"
            " FROM information_schema.COLUMNS WHERE TABLE_SCHEMA NOT IN ('sys', 'performance_schema')"
            " ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
        ),
        "views": Question(
            "SELECT TABLE_SCHEMA, TABLE_NAME, VIEW_DEFINITION FROM information_schema.VIEWS WHERE TABLE_SCHEMA <> 'sys'"
        ),
        "triggers": Question(
            "SELECT EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, TRIGGER_NAME, EVENT_MANIPULATION"
            " FROM information_schema.TRIGGERS"
        ),
        "routines": Question(
            "SELECT ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_TYPE"
            " FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA <> 'sys'"
        ),
        "foreign_keys": Question(
            "SELECT CONSTRAINT_SCHEMA, CONSTRAINT_NAME, TABLE_NAME, UPDATE_RULE, DELETE_RULE"
            " FROM information_schema.REFERENTIAL_CONSTRAINTS"
        ),
        "foreign_key_columns": Question(
            "SELECT CONSTRAINT_SCHEMA, CONSTRAINT_NAME, TABLE_NAME, COLUMN_NAME, REFERENCED_TABLE_SCHEMA,"
            " REFERENCED_TABLE_NAME, REFERENCED_COLUMN_NAME"
            " FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME IS NOT NULL"
        ),
        "collations": Question(
            "SELECT ID, COLLATION_NAME, CHARACTER_SET_NAME FROM information_schema.COLLATIONS WHERE ID IS NOT NULL"
        ),
        "grants": Question(
            f"SELECT NULL, NULL, PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = {_OWN}"  # noqa: S608 - constants of this module only
            f" AND {_WANTED} UNION ALL SELECT TABLE_SCHEMA, NULL, PRIVILEGE_TYPE"
            f" FROM information_schema.SCHEMA_PRIVILEGES WHERE GRANTEE = {_OWN} AND {_WANTED}"
            " UNION ALL SELECT TABLE_SCHEMA, TABLE_NAME, PRIVILEGE_TYPE"
            f" FROM information_schema.TABLE_PRIVILEGES WHERE GRANTEE = {_OWN} AND {_WANTED}"
        ),
        "loadable": Question("SELECT name FROM mysql.func", optional=True),
    }
    if flavour == "mysql":
        # components register theirs without a row in mysql.func
        queries["loadable_now"] = Question(
            "SELECT UDF_NAME FROM performance_schema.user_defined_functions", optional=True
        )
    else:
        # since 10.10 one collation serves several character sets, each under an id of its own
        queries["collations_full"] = Question(
            "SELECT ID, FULL_COLLATION_NAME, CHARACTER_SET_NAME"
            " FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY WHERE ID IS NOT NULL",
            optional=True,
        )
    return queries


def _hash(*columns: str) -> str:
    """The order of rows does not count; a row that changes, comes or goes does."""
    row = ", ".join(f"QUOTE({c})" for c in columns)  # QUOTE tells NULL from a text, and one column from the next
    return (
        f"CONCAT(COUNT(*), '.', COALESCE(SUM(CRC32(CONCAT_WS(',', {row}))), 0), '.',"
        f" COALESCE(BIT_XOR(CAST(CONV(LEFT(SHA2(CONCAT_WS(',', {row}), 256), 15), 16, 10) AS UNSIGNED)), 0))"
    )


def digest_query() -> str:
    """One row: the server's clock, a text, the clock again.

    The text changes with every name, view, column, trigger, routine, foreign key and privilege that the account can
    see. It reads all of information_schema, as the load does, but sends 300 bytes.
    """
    parts = (
        "@@GLOBAL.sql_mode",
        "@@GLOBAL.character_set_server",
        "(SELECT CONCAT(COUNT(*), '.', COALESCE(SUM(CRC32(SCHEMA_NAME)), 0)) FROM information_schema.SCHEMATA)",
        f"(SELECT {_hash('TABLE_SCHEMA', 'TABLE_NAME', 'TABLE_TYPE')} FROM information_schema.TABLES)",  # noqa: S608
        f"(SELECT {_hash('TABLE_SCHEMA', 'TABLE_NAME', 'COLUMN_NAME', 'ORDINAL_POSITION', 'COLUMN_TYPE', 'CHARACTER_SET_NAME', 'COLUMN_DEFAULT', 'EXTRA', 'GENERATION_EXPRESSION')}"  # noqa: E501, S608
        " FROM information_schema.COLUMNS WHERE TABLE_SCHEMA NOT IN ('sys', 'performance_schema'))",
        f"(SELECT {_hash('TABLE_SCHEMA', 'TABLE_NAME', 'VIEW_DEFINITION')}"  # noqa: S608
        " FROM information_schema.VIEWS WHERE TABLE_SCHEMA <> 'sys')",
        f"(SELECT {_hash('EVENT_OBJECT_SCHEMA', 'EVENT_OBJECT_TABLE', 'TRIGGER_NAME', 'EVENT_MANIPULATION', 'ACTION_STATEMENT')}"  # noqa: E501, S608
        " FROM information_schema.TRIGGERS)",
        f"(SELECT {_hash('ROUTINE_SCHEMA', 'ROUTINE_NAME', 'ROUTINE_TYPE', 'ROUTINE_DEFINITION', 'SQL_DATA_ACCESS')}"  # noqa: S608
        " FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA <> 'sys')",
        f"(SELECT {_hash('CONSTRAINT_SCHEMA', 'CONSTRAINT_NAME', 'TABLE_NAME', 'UPDATE_RULE', 'DELETE_RULE')}"  # noqa: S608
        " FROM information_schema.REFERENTIAL_CONSTRAINTS)",
        f"(SELECT {_hash('CONSTRAINT_SCHEMA', 'CONSTRAINT_NAME', 'TABLE_NAME', 'COLUMN_NAME', 'REFERENCED_TABLE_SCHEMA', 'REFERENCED_TABLE_NAME', 'REFERENCED_COLUMN_NAME')}"  # noqa: E501, S608
        " FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_NAME IS NOT NULL)",
        f"(SELECT {_hash('GRANTEE', 'PRIVILEGE_TYPE')} FROM information_schema.USER_PRIVILEGES WHERE {_WANTED})",  # noqa: S608
        f"(SELECT {_hash('GRANTEE', 'TABLE_SCHEMA', 'PRIVILEGE_TYPE')}"  # noqa: S608
        f" FROM information_schema.SCHEMA_PRIVILEGES WHERE {_WANTED})",
        f"(SELECT {_hash('GRANTEE', 'TABLE_SCHEMA', 'TABLE_NAME', 'PRIVILEGE_TYPE')}"  # noqa: S608
        f" FROM information_schema.TABLE_PRIVILEGES WHERE {_WANTED})",
    )
    return "SELECT SYSDATE(6), CONCAT_WS(' ', " + ", ".join(parts) + "), SYSDATE(6)"


# The server's clock, and what a session is reset to.
NOW_QUERY = "SELECT SYSDATE(6), @@GLOBAL.sql_mode, @@GLOBAL.character_set_client"

# One row per kind of statement that can change names: how often the server began one. Costs no look at any table, and
# needs no privilege. It counts when a statement begins, so what was still running is found by the digest alone.
COUNTERS_QUERY = "SHOW GLOBAL STATUS LIKE 'Com\\_%'"
_CHANGES = (
    "com_alter_", "com_create_", "com_drop_", "com_rename_", "com_grant", "com_revoke", "com_import",
    "com_install_", "com_uninstall_", "com_stmt_", "com_execute_immediate", "com_change_master",
)  # fmt: skip
_NO_CHANGES = frozenset(
    {
        "com_create_temporary_table", "com_drop_temporary_table", "com_stmt_close", "com_stmt_execute",
        "com_stmt_fetch", "com_stmt_prepare", "com_stmt_reset", "com_stmt_reprepare", "com_stmt_send_long_data",
        "com_alter_user", "com_create_user", "com_drop_user", "com_execute_immediate", "com_change_master",
    }
)  # fmt: skip


_CODE = ("com_create_udf", "com_create_function", "com_drop_function", "com_install_", "com_uninstall_")


def counts_code(name: str) -> bool:
    """Whether it counts statements that bring in code which information_schema does not list."""
    return name.lower().startswith(_CODE)


def counts_change(name: str) -> bool:
    """Whether this status variable counts statements that may change names."""
    lowered = name.lower()
    return lowered.startswith(_CHANGES) and lowered not in _NO_CHANGES


def settings(timeout: float) -> Mapping[str, Sequence[str]]:
    """What the connection sets first, by flavour. `timeout` in seconds bounds each look-up on the server as well."""
    seconds = max(1, int(timeout))
    common = (
        "SET NAMES utf8mb4",
        "SET SESSION sql_mode = '', autocommit = 1",
        f"SET SESSION lock_wait_timeout = {seconds}, net_write_timeout = {seconds * 4}",
        "SET SESSION TRANSACTION READ ONLY",
    )
    return {
        "mysql": (
            *common,
            f"SET SESSION max_execution_time = {int(timeout * 1000)}, information_schema_stats_expiry = 86400",
        ),
        "mariadb": (*common, f"SET SESSION max_statement_time = {timeout:g}"),
    }
