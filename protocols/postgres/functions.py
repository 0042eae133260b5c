"""What PostgreSQL's own functions do besides computing a value: the reviewed lists.

A built-in that is immutable or stable passes unless it is named here; a volatile one passes only when it is named
harmless here; one that this release has never heard of is unknown. `query_to_xml('delete ...')` is labelled stable:
the label alone is no guard (findings: "Statements").

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re

from protocols.contract import Effect
from protocols.postgres.settings import words

NONE: frozenset[Effect] = frozenset()
UNKNOWN = frozenset({Effect.UNKNOWN})

# volatile in pg_proc, but they change nothing that outlives the statement and read nothing that is secret
HARMLESS_VOLATILE = words(
    """
    array_sample array_shuffle bernoulli system clock_timestamp current_query currtid2 currval gen_random_uuid
    lastval lo_close lo_get lo_lseek lo_lseek64 lo_tell lo_tell64 loread pg_blocking_pids
    pg_collation_actual_version pg_control_checkpoint pg_control_init pg_control_recovery pg_control_system
    pg_current_wal_flush_lsn pg_current_wal_insert_lsn pg_current_wal_lsn pg_database_collation_actual_version
    pg_database_size pg_get_loaded_modules pg_get_multixact_members
    pg_get_sequence_data pg_get_shmem_allocations pg_get_shmem_allocations_numa pg_get_wait_events
    pg_get_wal_replay_pause_state pg_get_wal_resource_managers pg_get_wal_summarizer_state pg_get_aios
    pg_indexes_size pg_is_in_recovery pg_is_wal_replay_paused pg_isolation_test_session_is_blocked
    pg_jit_available pg_last_committed_xact pg_last_wal_receive_lsn pg_last_wal_replay_lsn
    pg_last_xact_replay_timestamp pg_lock_status pg_notification_queue_usage pg_partition_ancestors
    pg_partition_tree pg_prepared_xact pg_relation_size pg_replication_origin_progress
    pg_replication_origin_session_is_setup pg_replication_origin_session_progress pg_safe_snapshot_blocking_pids
    pg_sequence_last_value pg_show_replication_origin_status pg_stat_clear_snapshot pg_stat_get_backend_io
    pg_stat_get_backend_wal pg_stat_get_io pg_stat_get_recovery_prefetch pg_stat_get_xact_blocks_fetched
    pg_stat_get_xact_blocks_hit pg_stat_get_xact_function_calls pg_stat_get_xact_function_self_time
    pg_stat_get_xact_function_total_time pg_stat_get_xact_numscans pg_stat_get_xact_tuples_deleted
    pg_stat_get_xact_tuples_fetched pg_stat_get_xact_tuples_hot_updated pg_stat_get_xact_tuples_inserted
    pg_stat_get_xact_tuples_newpage_updated pg_stat_get_xact_tuples_returned pg_stat_get_xact_tuples_updated
    pg_stat_have_stats pg_stat_get_slru pg_stat_get_wal pg_table_size pg_tablespace_size pg_total_relation_size
    pg_xact_commit_timestamp pg_xact_commit_timestamp_origin pg_xact_status random random_normal setseed timeofday
    txid_status uuidv4 uuidv7 pg_advisory_unlock_all pg_available_wal_summaries pg_wal_summary_contents
    timezone currtid pg_is_in_backup
    """
)

_E = Effect
_PATTERNS: tuple[tuple[re.Pattern[str], frozenset[Effect]], ...] = tuple(
    (re.compile(pattern), frozenset(effects))
    for pattern, effects in (
        # SQL given as text, or a relation given as a value
        (r"(query|cursor|table|schema|database)_to_xml(schema|_and_xmlschema)?", {_E.EXEC_DYNAMIC}),
        (r"ts_stat", {_E.EXEC_DYNAMIC}),
        (r"fmgr_(c|internal|sql)_validator|plpgsql_(validator|call_handler|inline_handler)", {_E.UNKNOWN}),
        # type input functions that take the type as a value: they run a domain's CHECK
        (r"(domain|array|record|range|multirange)_(in|recv)|anyarray_recv", {_E.EXEC_CAST}),
        # files
        (
            r"pg_(read_(binary_)?file|stat_file|current_logfile)(_old|_off_len(_missing)?|_all(_missing)?)?",
            {_E.FILE_READ},
        ),
        (r"pg_ls_.*", {_E.FILE_READ}),
        (r"lo_import(_with_oid)?|be_lo_import.*", {_E.FILE_READ, _E.DATA_WRITE}),
        (r"lo_export|be_lo_export", {_E.FILE_WRITE}),
        (r"pg_file_.*", {_E.FILE_WRITE}),
        # large objects, sequences, transaction ids, snapshots
        (r"lo_(creat|create|from_bytea|put|unlink|truncate|truncate64)|lowrite|lo_open", {_E.DATA_WRITE}),
        (r"nextval|setval|pg_nextoid", {_E.DATA_WRITE}),
        (r"txid_current|pg_current_xact_id|pg_export_snapshot", {_E.DATA_WRITE}),
        # locks and time
        (r"pg_(try_)?advisory_.*", {_E.ADMIN_LOCK, _E.ADMIN_DOS}),
        (r"pg_sleep(_for|_until)?", {_E.ADMIN_DOS}),
        (r"pg_(cancel|terminate)_backend", {_E.ADMIN_KILL}),
        # the server itself
        (
            r"pg_(reload_conf|rotate_logfile(_old|_v2)?|promote|switch_(wal|xlog)|create_restore_point|backup_(start|stop)"
            r"|start_backup|stop_backup|wal_replay_(pause|resume)|log_backend_memory_contexts|log_standby_snapshot"
            r"|stop_making_pinned_objects|stat_force_next_flush|extension_config_dump)",
            {_E.ADMIN_CONFIG},
        ),
        (r"binary_upgrade_.*", {_E.ADMIN_CONFIG}),
        (r"pg_import_system_collations", {_E.DDL_CREATE}),
        (
            r"pg_stat_reset.*|pg_(restore|clear)_(relation|attribute)_stats|brin_(de)?summarize_.*"
            r"|gin_clean_pending_list",
            {_E.ADMIN_MAINT},
        ),
        # data that leaves by another door
        (r"pg_notify", {_E.EXFIL_NOTIFY}),
        (
            r"pg_(create|copy|drop)_(logical_|physical_)?replication_slot|pg_replication_slot_advance"
            r"|pg_logical_(slot_|emit_message).*|pg_sync_replication_slots"
            r"|pg_replication_origin_(advance|create|drop|session_reset|session_setup|xact_reset|xact_setup)",
            {_E.EXFIL_REPLICATION},
        ),
        # secrets; a session's memory has the patterns that it compiled, values of rows among them
        (
            r"pg_stat_get_(activity|backend_activity|wal_receiver)|pg_show_all_file_settings|pg_hba_file_rules"
            r"|pg_ident_file_mappings|pg_mcv_list_items|pg_get_backend_memory_contexts",
            {_E.SECRET_READ},
        ),
    )
)

# what a function does that runs the input of a type named by its argument: harmless where every type in play is
RUNS_TYPE_INPUT = frozenset(
    [
        "json_populate_record",
        "json_populate_recordset",
        "jsonb_populate_record",
        "jsonb_populate_recordset",
        "jsonb_populate_record_valid",
        "populate_record",
    ]
)
# take the name of a type as text
NAMES_TYPE = frozenset({"pg_input_is_valid", "pg_input_error_info"})

# large objects: the content is data like any table's
READS_LARGE_OBJECTS = frozenset({"lo_get", "loread", "lo_open"})

# what they leave in the session outlives the statement and can be read by the next one (a setting, the random sequence,
# the place in a large object, which of them are open): in a statement that reads rows it may carry a masked value past
# every mask
LEAVES_A_TRACE = words(
    """
    set_config setseed lo_open lo_close lo_lseek lo_lseek64 loread pg_stat_clear_snapshot pg_advisory_unlock_all
    """
)
# each call moves the random sequence on: how often one was called can be told by the number that comes next
CONSUMES_RANDOM = frozenset({"random", "random_normal", "array_sample", "array_shuffle"})

# what these do is told by the text that calls them: what runs one in another way (an operator) is not understood
JUDGED_BY_TEXT = LEAVES_A_TRACE | CONSUMES_RANDOM | NAMES_TYPE | RUNS_TYPE_INPUT | READS_LARGE_OBJECTS

# return as many rows as their argument says
MULTIPLIES_ROWS = words(
    """
    generate_series generate_subscripts unnest regexp_matches regexp_split_to_table string_to_table ts_parse
    json_array_elements json_array_elements_text json_each json_each_text json_object_keys json_to_recordset
    json_populate_recordset jsonb_array_elements jsonb_array_elements_text jsonb_each jsonb_each_text
    jsonb_object_keys jsonb_to_recordset jsonb_populate_recordset jsonb_path_query jsonb_path_query_tz
    aclexplode pg_options_to_table pg_snapshot_xip txid_snapshot_xip ts_debug ts_token_type _pg_expandarray
    pg_extension_update_paths pg_get_multixact_members pg_get_publication_tables pg_partition_ancestors
    pg_partition_tree pg_stat_get_backend_io pg_stat_get_progress_info pg_stat_get_subscription pg_tablespace_databases
    pg_wal_summary_contents pgp_armor_headers
    each skeys svals st_dump st_dumppoints st_dumprings st_dumpsegments st_subdivide st_squaregrid st_hexagongrid
    """
)

# provably no column's value, whatever is stored: for `clear_columns`
CLEAR = words(
    """
    now version current_database current_schema current_user session_user clock_timestamp statement_timestamp
    transaction_timestamp timeofday random gen_random_uuid pg_backend_pid pg_postmaster_start_time
    pg_is_in_recovery inet_client_addr inet_client_port inet_server_addr inet_server_port uuidv4 uuidv7 timezone
    extract date_part date_trunc to_char upper lower length
    """
)

# extensions whose immutable and stable functions only compute. Their members are known by pg_depend, not by name.
TRUSTED_EXTENSIONS = words(
    """
    btree_gin btree_gist citext cube dict_int dict_xsyn earthdistance fuzzystrmatch hstore intarray isn ltree
    pg_trgm pgcrypto plpgsql postgis seg tsm_system_rows tsm_system_time unaccent uuid-ossp vector
    """
)
_EXTENSION_VOLATILE = words(
    """
    gen_random_bytes gen_random_uuid gen_salt uuid_generate_v1 uuid_generate_v1mc uuid_generate_v4 crypt
    pgp_sym_encrypt pgp_sym_encrypt_bytea pgp_pub_encrypt pgp_pub_encrypt_bytea show_limit
    """
)
_EXTENSION_LANGUAGES = frozenset({"c", "internal", "sql"})

_cache: dict[str, frozenset[Effect] | None] = {}


def reviewed(name: str) -> frozenset[Effect] | None:
    """The effects of the pg_catalog functions of this name by the lists above; None: on no list."""
    if name not in _cache:
        if name in HARMLESS_VOLATILE:
            found: frozenset[Effect] | None = NONE
        else:
            found = next((effects for pattern, effects in _PATTERNS if pattern.fullmatch(name)), None)
        if len(_cache) > 20_000:  # names come from catalogs: bounded, but never trust that
            _cache.clear()
        _cache[name] = found
    return _cache[name]


def builtin_effects(name: str, volatile: bool, nargs: int, known: bool) -> frozenset[Effect]:
    """The effects of one built-in overload. `known`: its name is in the shipped, reviewed snapshot.

    A volatile function on no list, or a function that the snapshot does not have, is UNKNOWN.
    """
    if name == "ts_rewrite":  # two arguments: the second is SQL text
        return frozenset({Effect.EXEC_DYNAMIC}) if nargs == 2 else NONE
    listed = reviewed(name)
    if listed is not None:
        return listed
    return UNKNOWN if volatile or not known else NONE


def extension_effects(extension: str, name: str, volatile: bool, language: str) -> frozenset[Effect]:
    """The effects of a function that belongs to an extension: harmless for the trusted ones' pure functions."""
    if extension in ("dblink", "postgres_fdw"):
        return frozenset({Effect.NET_EGRESS, Effect.EXEC_DYNAMIC})
    if (extension, name) == ("isn", "isn_weak"):  # labelled immutable, and sets how the session reads numbers
        return frozenset({Effect.SESSION_OTHER})
    if extension == "pg_stat_statements":
        return frozenset({Effect.ADMIN_MAINT if "reset" in name else Effect.SECRET_READ})
    trusted = extension in TRUSTED_EXTENSIONS and language in _EXTENSION_LANGUAGES
    if trusted and (not volatile or name in _EXTENSION_VOLATILE):
        return NONE
    return frozenset({Effect.EXEC_CALL})


# ---------------------------------------------------------------- relations of pg_catalog that hold secrets

# relation -> the columns that are secret; None: all of them
SECRET_COLUMNS: dict[str, frozenset[str] | None] = {
    "pg_catalog.pg_authid": frozenset({"rolpassword"}),
    "pg_catalog.pg_shadow": frozenset({"passwd"}),
    "pg_catalog.pg_statistic": None,
    "pg_catalog.pg_statistic_ext_data": None,
    "pg_catalog.pg_stats": frozenset(
        {
            "most_common_vals",
            "histogram_bounds",
            "most_common_elems",
            "range_length_histogram",
            "range_bounds_histogram",
        }
    ),
    "pg_catalog.pg_stats_ext": None,
    "pg_catalog.pg_stats_ext_exprs": None,
    "pg_catalog.pg_stat_activity": frozenset({"query"}),
    # since 16 each compiled pattern is a context, and its `ident` the pattern; sizes tell what a cursor WITH HOLD keeps
    "pg_catalog.pg_backend_memory_contexts": frozenset(
        {"ident", "total_bytes", "total_nblocks", "free_bytes", "free_chunks", "used_bytes"}
    ),
    "pg_catalog.pg_user_mapping": frozenset({"umoptions"}),
    "pg_catalog.pg_user_mappings": frozenset({"umoptions"}),
    "information_schema.user_mapping_options": None,
    "information_schema._pg_user_mappings": frozenset({"umoptions"}),
    "pg_catalog.pg_subscription": frozenset({"subconninfo"}),
    "pg_catalog.pg_hba_file_rules": None,
    "pg_catalog.pg_ident_file_mappings": None,
    "pg_catalog.pg_file_settings": None,
    "pg_catalog.pg_stat_wal_receiver": frozenset({"conninfo"}),
    "pg_catalog.pg_largeobject": frozenset({"data"}),
}
SECRET_NAMES = frozenset({"pg_stat_statements"})  # an extension's view, in whichever schema it was created
