"""What changing a MySQL or MariaDB variable means for a gateway. Allow-list: what is not named is `session.other`.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from protocols.contract import Effect


def words(text: str) -> frozenset[str]:
    """A set written as text: names separated by blanks."""
    return frozenset(text.split())


def fold(name: str) -> str:
    """A name as it is compared where case does not count."""
    return name.lower()


# presentation, planner, buffers of the session: nothing that lifts a protection or changes what a text means
HARMLESS = words(
    """
    autocommit wait_timeout interactive_timeout net_read_timeout net_write_timeout
    time_zone lc_time_names lc_messages div_precision_increment group_concat_max_len
    character_set_results default_week_format
    max_sort_length sort_buffer_size join_buffer_size read_buffer_size read_rnd_buffer_size tmp_table_size
    max_heap_table_size optimizer_switch optimizer_search_depth optimizer_prune_level optimizer_trace_limit
    optimizer_use_condition_selectivity optimizer_selectivity_sampling_limit join_cache_level mrr_buffer_size
    eq_range_index_dive_limit range_alloc_block_size query_alloc_block_size query_prealloc_size
    transaction_alloc_block_size transaction_prealloc_size
    max_length_for_sort_data max_seeks_for_key sql_notes sql_warnings warning_count error_count
    max_error_count net_retry_count query_cache_type query_cache_wlock_invalidate
    tx_isolation transaction_isolation innodb_lock_wait_timeout lock_wait_timeout
    session_track_schema session_track_system_variables session_track_state_change session_track_transaction_info
    session_track_gtids information_schema_stats_expiry windowing_use_high_precision
    internal_tmp_mem_storage_engine big_tables bulk_insert_buffer_size profiling profiling_history_size
    cte_max_recursion_depth max_recursive_iterations use_stat_tables identity
    sql_auto_is_null sql_quote_show_create sql_big_selects sql_select_limit sql_buffer_result
    use_secondary_engine show_create_table_verbosity preload_buffer_size
    standard_compliant_cte progress_report_time end_markers_in_json terminology_use_previous
    """
)
_GUARDS = words(
    """
    tx_read_only transaction_read_only sql_safe_updates max_execution_time max_statement_time max_join_size
    max_user_connections unique_checks foreign_key_checks check_constraint_checks explicit_defaults_for_timestamp
    sql_log_bin sql_log_off binlog_format binlog_row_image gtid_next gtid_domain_id gtid_seq_no server_id
    skip_replication sql_require_primary_key idle_transaction_timeout idle_readonly_transaction_timeout
    idle_write_transaction_timeout max_session_mem_used secure_timestamp old_passwords
    require_row_format sql_generate_invisible_primary_key pseudo_thread_id pseudo_slave_mode
    pseudo_replica_mode transaction_allow_batching read_only super_read_only system_versioning_alter_history
    system_versioning_insert_history
    """
)
_PARSE_STATE = words(
    """
    sql_mode character_set_client character_set_filesystem character_set_server
    character_set_database collation_server collation_database lower_case_table_names old_mode old
    default_collation_for_utf8mb4 character_set_collations character_set_connection collation_connection
    """
)
_CHARACTER_SETS = words(
    """
    utf8 utf8mb3 utf8mb4 latin1 latin2 latin5 latin7 ascii binary cp1250 cp1251 cp1256 cp1257 cp850 cp852 cp866 dec8
    greek hebrew hp8 keybcs2 koi8r koi8u macce macroman tis620 armscii8 geostd8
    gbk gb2312 gb18030 big5 sjis cp932 euckr ujis eucjpms swe7
    """
)
_WIDE = words("ucs2 utf16 utf16le utf32")  # of literals, never of a client
# a client may switch to these: bytes beyond ASCII never hide a quote or a backslash in them, and they are decoded here
SAFE_CHARACTER_SETS = words("utf8 utf8mb3 utf8mb4 latin1 ascii binary")
SAFE_COLLATIONS = SAFE_CHARACTER_SETS | {"uca1400"}  # by what their names begin with

# modes that change how a text is read; a text under any of the last group is not judged
LEXING = words("ANSI_QUOTES NO_BACKSLASH_ESCAPES PIPES_AS_CONCAT IGNORE_SPACE HIGH_NOT_PRECEDENCE")
FOREIGN = words("ORACLE MSSQL")
_COMBINED = {
    "ANSI": words("REAL_AS_FLOAT PIPES_AS_CONCAT ANSI_QUOTES IGNORE_SPACE"),
    "TRADITIONAL": words(
        "STRICT_TRANS_TABLES STRICT_ALL_TABLES NO_ZERO_IN_DATE NO_ZERO_DATE ERROR_FOR_DIVISION_BY_ZERO "
        "NO_AUTO_CREATE_USER NO_ENGINE_SUBSTITUTION"
    ),
    "DB2": words("PIPES_AS_CONCAT ANSI_QUOTES IGNORE_SPACE"),
    "MAXDB": words("PIPES_AS_CONCAT ANSI_QUOTES IGNORE_SPACE"),
    "POSTGRESQL": words("PIPES_AS_CONCAT ANSI_QUOTES IGNORE_SPACE"),
    "MSSQL": words("PIPES_AS_CONCAT ANSI_QUOTES IGNORE_SPACE"),
    "ORACLE": words("PIPES_AS_CONCAT ANSI_QUOTES IGNORE_SPACE"),
    "MYSQL323": words("HIGH_NOT_PRECEDENCE"),
    "MYSQL40": words("HIGH_NOT_PRECEDENCE"),
}
SQL_MODES = (
    words(
        """
        REAL_AS_FLOAT NOT_USED IGNORE_BAD_TABLE_OPTIONS ONLY_FULL_GROUP_BY NO_UNSIGNED_SUBTRACTION
        NO_DIR_IN_CREATE NO_KEY_OPTIONS NO_TABLE_OPTIONS NO_FIELD_OPTIONS NO_AUTO_VALUE_ON_ZERO
        STRICT_TRANS_TABLES STRICT_ALL_TABLES NO_ZERO_IN_DATE NO_ZERO_DATE ALLOW_INVALID_DATES
        ERROR_FOR_DIVISION_BY_ZERO NO_AUTO_CREATE_USER NO_ENGINE_SUBSTITUTION PAD_CHAR_TO_FULL_LENGTH
        EMPTY_STRING_IS_NULL SIMULTANEOUS_ASSIGNMENT TIME_ROUND_FRACTIONAL TIME_TRUNCATE_FRACTIONAL
        """
    )
    | LEXING
    | frozenset(_COMBINED)
)
# modes that only make the server stricter about values, or change how they are shown
_MILD = SQL_MODES - LEXING - frozenset(_COMBINED) | {"TRADITIONAL"}

_ON = frozenset({"on", "true", "1"})


def is_on(value: str | None) -> bool:
    """True only for a value that the server surely reads as on."""
    return value is not None and value.strip().lower() in _ON


def charset_of(value: str | None) -> str | None:
    """A character set as the server calls it; None: not one that is known."""
    name = value.strip().lower() if value is not None else ""
    return name if name in _CHARACTER_SETS else None


# those that MySQL and MariaDB are made with as they come
COMMON_CHARACTER_SETS = (_CHARACTER_SETS | _WIDE) - {"gb18030"}


def introduces(name: str) -> bool:
    """Whether `_name` before a literal says its character set. Its bytes are read as the session's all the same."""
    return name.lower() in _CHARACTER_SETS | _WIDE


def modes_of(value: str | None) -> frozenset[str] | None:
    """The modes that a value of sql_mode switches on, combinations resolved; None: not known what it means."""
    if value is None:
        return None
    found: set[str] = set()
    for part in value.upper().split(","):
        name = part.strip()
        if not name:
            continue
        if name not in SQL_MODES:
            return None
        found.add(name)
        found |= _COMBINED.get(name, frozenset())
    return frozenset(found)


def reads_alike(value: str | None, now: frozenset[str] | None) -> bool:
    """Whether texts mean under this sql_mode what they mean now: drivers that ask for IGNORE_SPACE add to the modes."""
    modes = modes_of(value)
    return modes is not None and now is not None and modes - _MILD == now - _MILD


TIME_LIMITS = frozenset({"max_statement_time", "max_execution_time"})


def set_effect(name: str, value: str | None) -> Effect:
    """The effect of SET SESSION `name` = `value`; `value` None: a value that the text does not show."""
    name = name.lower()
    if name in HARMLESS:
        return Effect.SESSION_SET
    if name in _PARSE_STATE:
        if name == "character_set_client" and charset_of(value) in SAFE_CHARACTER_SETS:
            return Effect.SESSION_SET
        if name == "character_set_connection" and charset_of(value) in SAFE_CHARACTER_SETS:
            return Effect.SESSION_SET
        if name == "collation_connection" and (value or "").lower().partition("_")[0] in SAFE_COLLATIONS:
            return Effect.SESSION_SET
        if name == "sql_mode":
            modes = modes_of(value)
            if modes is not None and modes <= _MILD:
                return Effect.SESSION_SET
        return Effect.SESSION_PARSE_STATE
    if name in _GUARDS:
        tightens = name in ("tx_read_only", "transaction_read_only", "sql_safe_updates") and is_on(value)
        return Effect.SESSION_SET if tightens else Effect.SESSION_GUARD
    return Effect.SESSION_OTHER
