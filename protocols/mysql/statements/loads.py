"""LOAD DATA, LOAD XML and LOAD INDEX.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from protocols.contract import ANYWHERE, Effect
from protocols.mysql.statements.administration import tables_of
from protocols.mysql.statements.calls import judge_calls
from protocols.mysql.statements.lexer import Kind, Unreadable
from protocols.mysql.statements.model import ChangeKind, Variable
from protocols.mysql.statements.queryread import expression
from protocols.mysql.statements.reader import Reader
from protocols.mysql.statements.walk import Walk
from protocols.mysql.statements.writes import Writes


def load(reader: Reader, walk: Walk) -> str:
    if reader.accept("INDEX", "INTO", "CACHE"):
        tables_of(reader, walk)
        reader.rest()
        walk.add(Effect.ADMIN_MAINT)
        return "load index"
    what = reader.any_of(("DATA", "XML"))
    if not what:
        raise Unreadable("a LOAD that is not understood")
    reader.any_of(("LOW_PRIORITY", "CONCURRENT"))
    local = reader.accept("LOCAL")
    walk.add(Effect.DATA_INSERT, Effect.DATA_COPY_IN if local else Effect.FILE_READ)
    while not reader.accept("INFILE"):  # MySQL's bulk load names other sources: FROM INFILE, FROM URL, FROM S3
        if not reader.any_of(("FROM", "URL", "S3")):
            raise Unreadable("a LOAD that is not understood")
        if reader.peek().kind is Kind.STRING:
            walk.add(Effect.NET_EGRESS)
            break
    reader.string()
    replaces = False
    while not reader.accept("INTO", "TABLE"):
        token = reader.take()
        replaces = replaces or token.upper == "REPLACE"
        if token.kind is not Kind.NUMBER and token.upper not in (
            "REPLACE",
            "IGNORE",
            "COUNT",
            "IN",
            "PRIMARY",
            "KEY",
            "ORDER",
            "PARALLEL",
            "=",
        ):
            raise Unreadable("a LOAD that is not understood")
    if replaces:
        walk.add(Effect.DATA_DELETE)
    schema, name = reader.qualified()
    writes = Writes(walk)
    target = writes.named(schema, name)
    writes.target(target, ["insert", "delete"] if replaces else ["insert"])
    while not reader.done and not reader.sees("SET"):
        if reader.sees("("):
            for token in reader.group():
                if token.kind is Kind.VARIABLE:
                    walk.change(ChangeKind.VARIABLE, token.text, Variable((), known=False))
            continue
        if reader.accept("CHARACTER", "SET"):
            reader.take()
            continue
        reader.take()
    if reader.accept("SET"):
        while True:
            _, column = reader.qualified()
            reader.expect("=")
            value = reader.until_comma()
            judge_calls(value, walk, ignore_space=walk.state.mode("IGNORE_SPACE"))
            if not (len(value) == 1 and value[0].upper == "DEFAULT"):
                origins = expression(value, walk)
                if target is None or walk.state.temporary(target.schema, name) is None:
                    walk.store(f"{target.relation}.{column}" if target is not None else ANYWHERE, origins)
            if not reader.accept(","):
                break
    writes.filled()
    return f"load {what.lower()}" + (" local" if local else "")
