"""What the gateway asks PostgreSQL about its names: the queries behind `catalog.build`.

They run as simple queries on a connection of the gateway's own, with text results, and need no privilege beyond
reading pg_catalog. Names are qualified; the connection must not override `search_path`, because its default is read.
Temporary objects belong to one session and are left out: each session's state knows its own.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from collections.abc import Mapping

FIRST_USER_OID = 16384  # FirstNormalObjectId: below it, objects are made by initdb

# namespaces of temporary and TOAST objects: of no interest, and they churn
_SCHEMAS = "SELECT oid FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast|temp_|toast_temp_)'"
_KINDS = "('r','p','v','m','f','S','c')"

CATALOG_QUERIES: Mapping[str, str] = {
    # one row: database, role, server_version_num, server encoding, search_path in force, where that value comes from
    "session": """
        SELECT current_database(), current_user, current_setting('server_version_num'),
               current_setting('server_encoding'), s.setting, s.source
        FROM pg_catalog.pg_settings s WHERE s.name = 'search_path'""",
    "schemas": f"""
        SELECT n.oid, n.nspname, pg_catalog.has_schema_privilege(n.oid, 'USAGE')
        FROM pg_catalog.pg_namespace n WHERE n.oid IN ({_SCHEMAS})""",  # noqa: S608 - constants of this module only
    "role_settings": """
        SELECT coalesce(r.rolname, ''), s.setdatabase <> 0, unnest(s.setconfig)
        FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
        WHERE s.setdatabase = 0 OR s.setdatabase =
              (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())""",
    "relations": f"""
        SELECT c.oid, c.relnamespace, c.relname, c.relkind, c.relrowsecurity
        FROM pg_catalog.pg_class c
        WHERE c.relkind IN {_KINDS} AND c.relnamespace IN ({_SCHEMAS})""",  # noqa: S608
    "attributes": f"""
        SELECT a.attrelid, a.attnum, a.attname, a.atttypid
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN {_KINDS} AND c.relnamespace IN ({_SCHEMAS})
        ORDER BY a.attrelid, a.attnum""",  # noqa: S608
    "functions": """
        SELECT p.oid, p.pronamespace, p.proname, p.provolatile, p.pronargs, p.pronargdefaults,
               p.provariadic <> 0, p.prorettype, l.lanname, e.extname, p.proargtypes
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
        LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
             AND d.objid = p.oid AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
        LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid""",
    # what CREATE TYPE ... AS RANGE makes along with the type: no code of a user's own
    "range_constructors": f"""
        SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
        WHERE p.oid >= {FIRST_USER_OID} AND l.lanname = 'internal' AND p.prosrc IN
              ('range_constructor2', 'range_constructor3', 'multirange_constructor0', 'multirange_constructor1',
               'multirange_constructor2')""",  # noqa: S608
    "operators": """
        SELECT o.oid, o.oprnamespace, o.oprname, o.oprkind, o.oprcode::pg_catalog.oid, o.oprleft || ' ' || o.oprright
        FROM pg_catalog.pg_operator o""",
    "types": f"""
        SELECT t.oid, t.typnamespace, t.typname, t.typtype, t.typcategory, t.typbasetype, t.typelem, t.typrelid,
               r.rngsubtype, r.rngcanonical::pg_catalog.oid, r.rngsubdiff::pg_catalog.oid, e.extname
        FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
        LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
             AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
        LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
        WHERE t.typnamespace IN ({_SCHEMAS})""",  # noqa: S608
    "domain_checks": """
        SELECT c.contypid, c.conbin FROM pg_catalog.pg_constraint c WHERE c.contypid <> 0 AND c.conbin IS NOT NULL""",
    "casts": f"""
        SELECT k.castsource, k.casttarget, k.castfunc, k.castcontext FROM pg_catalog.pg_cast k
        WHERE k.castmethod = 'f' AND k.oid >= {FIRST_USER_OID}""",  # noqa: S608
    # the functions that sorting, grouping, comparing and index scans run for values of a type, without naming any
    "operator_classes": f"""
        SELECT c.opcintype, p.amproc::pg_catalog.oid FROM pg_catalog.pg_opclass c
        JOIN pg_catalog.pg_amproc p ON p.amprocfamily = c.opcfamily WHERE c.oid >= {FIRST_USER_OID}
        UNION
        SELECT c.opcintype, o.oprcode::pg_catalog.oid FROM pg_catalog.pg_opclass c
        JOIN pg_catalog.pg_amop a ON a.amopfamily = c.opcfamily
        JOIN pg_catalog.pg_operator o ON o.oid = a.amopopr WHERE c.oid >= {FIRST_USER_OID}""",  # noqa: S608
    "rules": f"""
        SELECT r.ev_class, r.ev_type, r.ev_action, r.ev_qual FROM pg_catalog.pg_rewrite r
        JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
        WHERE c.relnamespace IN ({_SCHEMAS}) AND (r.oid >= {FIRST_USER_OID} OR r.ev_type <> '1')""",  # noqa: S608
    "policies": """
        SELECT p.polrelid, p.polqual, p.polwithcheck FROM pg_catalog.pg_policy p""",
    "triggers": """
        SELECT t.tgrelid, t.tgfoid, t.tgtype FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal""",
    # generated columns: what their values are made of
    "generated": """
        SELECT d.adrelid, d.adnum, d.adbin FROM pg_catalog.pg_attrdef d
        JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attgenerated <> ''""",
    "inherits": """
        SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i""",
    "foreign_keys": """
        SELECT c.conrelid, c.confrelid, c.confdeltype, c.confupdtype, c.confkey FROM pg_catalog.pg_constraint c
        WHERE c.contype = 'f' AND (c.confdeltype NOT IN ('a','r') OR c.confupdtype NOT IN ('a','r'))""",
}


def _sum(table: str, where: str) -> str:
    # every new row version has a larger xmin: with the same count, the sum can only grow
    return f"(SELECT count(*) || '.' || coalesce(sum(xmin::text::bigint), 0) FROM pg_catalog.{table} WHERE {where})"  # noqa: S608


_USER = f"oid >= {FIRST_USER_OID}"
_USER_RELATIONS = f"SELECT oid FROM pg_catalog.pg_class WHERE {_USER} AND relkind IN {_KINDS} AND relpersistence <> 't'"  # noqa: S608

# One row, one column. It changes whenever a user object in the tables below is created, changed or dropped.
#
# It counts row versions (count and sum of xmin), so it cannot see: changes by a superuser to the objects that initdb
# made, changes to configuration files, and temporary objects of other sessions (left out on purpose). It may change
# without a change of meaning (TRUNCATE, REFRESH, VACUUM FULL rewrite pg_class rows): a snapshot built then has the
# same version as before. Uncommitted changes of others are not visible, and need not be: nobody else sees them either.
VERSION_QUERY = "SELECT " + " || ' ' || ".join(
    (
        _sum("pg_class", f"{_USER} AND relkind IN {_KINDS} AND relpersistence <> 't'"),
        _sum("pg_attribute", f"attrelid >= {FIRST_USER_OID} AND attnum > 0 AND attrelid IN ({_USER_RELATIONS})"),
        _sum("pg_proc", _USER),
        _sum("pg_operator", _USER),
        _sum("pg_type", f"{_USER} AND typnamespace IN ({_SCHEMAS})"),
        _sum("pg_range", f"rngtypid >= {FIRST_USER_OID}"),
        _sum("pg_cast", _USER),
        _sum("pg_opclass", _USER),
        _sum("pg_amop", _USER),
        _sum("pg_amproc", _USER),
        _sum("pg_constraint", f"{_USER} AND connamespace IN ({_SCHEMAS})"),
        _sum("pg_rewrite", f"{_USER} AND ev_class IN ({_USER_RELATIONS})"),
        _sum("pg_policy", "true"),
        _sum("pg_trigger", "NOT tgisinternal"),
        _sum("pg_inherits", f"inhrelid IN ({_USER_RELATIONS})"),
        _sum("pg_namespace", "nspname !~ '^pg_(toast|temp_|toast_temp_)'"),
        _sum("pg_extension", "true"),
        _sum("pg_db_role_setting", "true"),
    )
)
