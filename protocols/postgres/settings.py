"""What changing a PostgreSQL setting (GUC) means for a gateway. Allow-list: what is not named is `session.other`.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import hashlib
import re

from protocols.contract import Effect


def words(text: str) -> frozenset[str]:
    """A set written as text: names separated by blanks."""
    return frozenset(text.split())


# presentation and planner settings that an unprivileged role may change without changing what a text means
HARMLESS = words(
    """
    application_name client_min_messages datestyle intervalstyle timezone extra_float_digits bytea_output
    xmlbinary xmloption lc_messages lc_monetary lc_numeric lc_time array_nulls quote_all_identifiers
    escape_string_warning default_text_search_config gin_fuzzy_search_limit cursor_tuple_fraction
    constraint_exclusion from_collapse_limit join_collapse_limit plan_cache_mode jit jit_above_cost
    jit_inline_above_cost jit_optimize_above_cost jit_expressions jit_tuple_deforming geqo geqo_effort
    geqo_generations geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold default_transaction_isolation
    transaction_isolation default_transaction_deferrable transaction_deferrable seq_page_cost random_page_cost
    cpu_tuple_cost cpu_index_tuple_cost cpu_operator_cost parallel_setup_cost parallel_tuple_cost
    effective_cache_size effective_io_concurrency max_parallel_workers_per_gather parallel_leader_participation
    min_parallel_table_scan_size min_parallel_index_scan_size work_mem hash_mem_multiplier
    recursive_worktable_factor seed tcp_keepalives_idle tcp_keepalives_interval tcp_keepalives_count
    tcp_user_timeout client_connection_check_interval stats_fetch_consistency synchronize_seqscans
    """
)

_ROLE = frozenset({"role", "session_authorization", "is_superuser"})
_GUARDS = words(
    """
    default_transaction_read_only transaction_read_only row_security statement_timeout lock_timeout
    idle_in_transaction_session_timeout idle_session_timeout transaction_timeout temp_file_limit
    lo_compat_privileges restrict_nonsystem_relation_kind max_parallel_workers
    """
)
READ_ONLY = "default_transaction_read_only"
TRANSACTIONS = frozenset({READ_ONLY, "transaction_read_only"})  # whether they may write
MEANING = ("search_path", "client_encoding", "standard_conforming_strings")  # what a text means rests on them
KEPT = frozenset((*MEANING, *TRANSACTIONS))  # what is asked for by name
# harmless, and yet what a statement does may rest on their values: which day '05/06/2020' is
_DECIDES = words(
    """
    datestyle intervalstyle timezone extra_float_digits bytea_output xmlbinary xmloption lc_monetary lc_numeric lc_time
    array_nulls default_text_search_config
    """
)
_PARSE_STATE = frozenset(
    [
        "client_encoding",
        "standard_conforming_strings",
        "backslash_quote",
        "transform_null_equals",
        "operator_precedence_warning",
        "server_encoding",
    ]
)
_TRIGGERS = frozenset({"session_replication_role", "event_triggers"})
_LIBRARIES = frozenset(
    [
        "dynamic_library_path",
        "local_preload_libraries",
        "session_preload_libraries",
        "shared_preload_libraries",
        "jit_provider",
        "extension_control_path",
    ]
)

_ON = frozenset({"on", "true", "yes", "1", "t", "y", "tru", "tr", "ye"})
_UTF8 = frozenset({"utf8", "unicode"})


# a search_path, as its setting holds it, through which nothing is found but PostgreSQL's own
EMPTY_PATH = re.compile(r'\s*(?:""|"?pg_catalog"?)?\s*', re.ASCII)


def canonical(name: str) -> str:
    """A setting's name as the server compares it: without case (ASCII only)."""
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in name)


def encoding_name(value: str) -> str:
    """An encoding's name as the server compares it: letters and digits only, lower case."""
    return "".join(c for c in value.lower() if c.isalnum() and c.isascii())


def is_on(value: str | None) -> bool:
    """True only for a value that the server surely reads as on."""
    return value is not None and value.strip().lower() in _ON


def decides(name: str) -> bool:
    """Whether what a statement does may rest on this setting's value."""
    if name in _DECIDES:
        return True
    waits = name in _GUARDS and name != "row_security"
    return not (waits or name in HARMLESS or name.startswith("enable_"))


def remembered(name: str, value: str | None) -> str | None:
    """What a session keeps of a setting's value: all where texts rest on it, else what it is compared by."""
    if value is None or name in MEANING:
        return value
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32] if decides(name) else ""


def set_effect(name: str, value: str | None) -> Effect:
    """The effect of SET `name` TO `value`; `value` None: a reset, or a value that the text does not show."""
    name = canonical(name)
    if name in HARMLESS or (name.startswith("enable_") and name.replace("_", "").isalnum()):
        return Effect.SESSION_SET
    if name in _ROLE:
        return Effect.SESSION_ROLE
    if name == "search_path":
        return Effect.SESSION_NAME_RESOLUTION
    if name in _PARSE_STATE:
        if name == "client_encoding" and value is not None and encoding_name(value) in _UTF8:
            return Effect.SESSION_SET
        if name == "standard_conforming_strings" and is_on(value):
            return Effect.SESSION_SET
        return Effect.SESSION_PARSE_STATE
    if name in _GUARDS:
        # tightening is harmless; a timeout is a guard whatever the value: which way it moves is not in the text
        tightens = name in ("default_transaction_read_only", "transaction_read_only", "row_security") and is_on(value)
        return Effect.SESSION_SET if tightens else Effect.SESSION_GUARD
    if name in _TRIGGERS:
        return Effect.PRIV_TRIGGERS
    if name in _LIBRARIES:
        return Effect.EXEC_LIBRARY
    return Effect.SESSION_OTHER
