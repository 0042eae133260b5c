"""What a command does, and what a rule does to it: the closed lists."""

# ruff: noqa: S105 - an effect's name is no password

from __future__ import annotations

import enum


class Effect(enum.StrEnum):
    """What a command does, in dotted words. A command has a *set* of effects; a policy must cover all of them.

    A policy may name a whole family with a trailing `.*` (`ddl.*`). `UNKNOWN` means that the protocol could not prove
    what the command does; nothing but a rule that names `unknown` covers it.
    """

    DATA_SELECT = "data.select"
    DATA_INSERT = "data.insert"
    DATA_UPDATE = "data.update"
    DATA_DELETE = "data.delete"
    DATA_MERGE = "data.merge"
    DATA_TRUNCATE = "data.truncate"
    DATA_COPY_IN = "data.copy_in"
    DATA_COPY_OUT = "data.copy_out"  # COPY ... TO STDOUT: rows for the client, like a select
    DATA_WRITE = "data.write"  # state that is no table row: sequences, large objects, transaction ids
    DDL_CREATE = "ddl.create"
    DDL_ALTER = "ddl.alter"
    DDL_DROP = "ddl.drop"
    PRIV_GRANT = "priv.grant"
    PRIV_REVOKE = "priv.revoke"
    PRIV_ROLE = "priv.role"  # create, alter or drop a role; its password
    PRIV_POLICY = "priv.policy"  # row level security, security labels
    PRIV_TRIGGERS = "priv.triggers"  # rules, triggers, session_replication_role
    FILE_READ = "file.read"
    FILE_WRITE = "file.write"
    EXEC_CALL = "exec.call"  # a user-defined function that is not known to be harmless
    EXEC_PROCEDURE = "exec.procedure"
    EXEC_DYNAMIC = "exec.dynamic"  # DO, functions that run SQL given as text
    EXEC_CAST = "exec.cast"  # a user-defined cast, operator or domain that runs code
    EXEC_EVENT = "exec.event"  # MySQL's scheduled events: code that runs later, by itself
    EXEC_LIBRARY = "exec.library"  # shared libraries, plugins, components
    EXEC_PROGRAM = "exec.program"
    SESSION_SET = "session.set"  # a setting on the harmless list
    SESSION_GUARD = "session.guard"  # lifts read-only, row security, timeouts that protect the server
    SESSION_ROLE = "session.role"  # SET ROLE, SET SESSION AUTHORIZATION and every disguise of them
    SESSION_NAME_RESOLUTION = "session.name_resolution"  # search_path
    SESSION_PARSE_STATE = "session.parse_state"  # client_encoding, standard_conforming_strings
    SESSION_OTHER = "session.other"  # any other setting
    TX = "tx"  # begin, commit, rollback, savepoint
    CURSOR = "cursor"  # declare, fetch, move, close: over a statement judged by its own effects
    PREPARE = "prepare"  # prepare, deallocate: the statement inside is judged by its own effects
    SHOW = "show"  # show, explain without analyze
    LISTEN = "listen"
    EXFIL_NOTIFY = "exfil.notify"
    EXFIL_REPLICATION = "exfil.replication"
    EXFIL_CREDENTIAL = "exfil.credential"  # something that goes out holds a key, token or password
    EXFIL_PERSONAL = "exfil.personal"  # something that goes out holds personal data
    EXFIL_MASKED = "exfil.masked"  # something that goes out holds a value that this identity gets masked elsewhere
    NET_EGRESS = "net.egress"
    ADMIN_CONFIG = "admin.config"
    ADMIN_DOS = "admin.dos"  # pg_sleep, advisory locks
    ADMIN_LOCK = "admin.lock"
    ADMIN_KILL = "admin.kill"
    ADMIN_MAINT = "admin.maint"  # vacuum, analyze, checkpoint, reindex, cluster
    SECRET_READ = "secret.read"  # password hashes, planner statistics, other sessions' text
    HTTP_READ = "http.read"  # GET, HEAD, OPTIONS
    HTTP_WRITE = "http.write"  # POST, PUT, PATCH and every method that is not known
    HTTP_DELETE = "http.delete"
    HTTP_UPGRADE = "http.upgrade"  # WebSocket
    HTTP_STREAM = "http.stream"  # a body too large to be judged whole: judged in pieces as it passes
    HTTP_OPAQUE = "http.opaque"  # TLS that is passed on unopened
    KUBE_READ = "kube.read"  # get, list, watch, logs
    KUBE_WRITE = "kube.write"  # create, update, patch
    KUBE_DELETE = "kube.delete"
    KUBE_EXEC = "kube.exec"  # exec, attach, cp
    KUBE_FORWARD = "kube.forward"
    KUBE_PROXY = "kube.proxy"  # nodes/proxy, pods/proxy, services/proxy
    KUBE_DEBUG = "kube.debug"  # ephemeral containers
    KUBE_TOKEN = "kube.token"  # service account tokens, certificates
    KUBE_IMPERSONATE = "kube.impersonate"
    PROBE = "probe"  # a predicate on a column that this identity sees masked
    MASK_COPY = "mask.copy"  # what this identity sees masked is stored, moved or renamed to where it would be clear
    UNKNOWN = "unknown"


class Action(enum.IntEnum):
    """What a rule does to a command. The larger is the stricter; the strictest match wins."""

    ALLOW = 0
    HOLD = 1
    DENY = 2
    TERMINATE = 3

    @property
    def label(self) -> str:
        """The word that policies, records and `--json` output use: `allow`, `hold`, `deny`, `terminate`."""
        return self.name.lower()


class Where(enum.StrEnum):
    """The filter of an UPDATE or DELETE; of several in one command the weakest is reported."""

    NONE = "none"  # the command has no UPDATE or DELETE
    PRESENT = "present"
    ALWAYS_TRUE = "always_true"
    MISSING = "missing"


class Cacheable(enum.StrEnum):
    """How far an analysis may be reused (findings: what read a constant may not be shared by shape)."""

    NO = "no"  # depends on prepared names, cursors, open DDL: analyse each time
    TEXT = "text"  # same bytes, same session meaning, same catalog
    SHAPE = "shape"  # same normalised text with typed literals, same session meaning, same catalog
