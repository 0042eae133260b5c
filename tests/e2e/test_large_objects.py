"""Large objects through libpq's own lo_* functions, which call the server's by the fast path."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib

import psycopg
import pytest

from scripts.support.lab import Lab
from tests.support.journal import await_records

pytestmark = pytest.mark.e2e

SIZE = 32 * 1024 * 1024
_READ = 0x40000  # INV_READ


def libpq() -> ctypes.CDLL:
    name = ctypes.util.find_library("pq")
    if name is None:
        pytest.skip("no libpq on this machine: psycopg's own cannot be called by name")
    library = ctypes.CDLL(name)
    library.PQconnectdb.restype = library.PQexec.restype = ctypes.c_void_p
    library.PQconnectdb.argtypes = [ctypes.c_char_p]
    library.PQerrorMessage.restype = ctypes.c_char_p
    for function in (library.PQerrorMessage, library.PQstatus, library.PQfinish):
        function.argtypes = [ctypes.c_void_p]
    library.PQexec.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.lo_open.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
    library.lo_read.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return library


def test_a_read_of_32_mib_in_one_call(lab: Lab) -> None:
    """Twice what a message may be that is held whole."""
    with lab.server.connect() as direct:
        row = direct.execute(
            "SELECT lo_from_bytea(0, decode(repeat(md5('a') || md5('b'), %s), 'hex'))", (SIZE // 32,)
        ).fetchone()
        assert row is not None
    oid = row[0]
    library = libpq()
    connection = library.PQconnectdb(lab.dsn("admin").encode())
    try:
        assert library.PQstatus(connection) == 0, library.PQerrorMessage(connection)
        library.PQexec(connection, b"BEGIN")
        handle = library.lo_open(connection, oid, _READ)
        assert handle >= 0, library.PQerrorMessage(connection)
        buffer = ctypes.create_string_buffer(SIZE)
        read = library.lo_read(connection, handle, buffer, SIZE)
        assert read == SIZE, library.PQerrorMessage(connection)
        piece = hashlib.md5(b"a", usedforsecurity=False).digest() + hashlib.md5(b"b", usedforsecurity=False).digest()
        assert buffer.raw == piece * (SIZE // 32)
        assert library.PQexec(connection, b"COMMIT")
        assert library.PQstatus(connection) == 0
    finally:
        library.PQfinish(connection)
        with lab.server.connect() as direct:
            direct.execute("SELECT lo_unlink(%s)", (oid,))
    (answer,) = await_records(lab.gateway.state_dir, lambda r: r.get("t") == "response" and r["bytes"] > SIZE)
    mine = answer["s"]
    calls = await_records(lab.gateway.state_dir, lambda r: r.get("kind") == "function call" and r["s"] == mine, 2)
    assert {call["decision"] for call in calls} == {"allow"}
    assert (answer["status"], answer["bytes"], answer["truncated"]) == ("ok", SIZE + 9, True)


def test_what_is_larger_to_write_is_refused_in_words_and_the_connection_lives_on(lab: Lab) -> None:
    with psycopg.connect(lab.dsn("admin"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="inspection limit"):
            connection.execute("SELECT length(%s)", (b"x" * (17 << 20),), binary=True)
        assert connection.execute("SELECT 1").fetchone() == (1,)
