"""What a client learns from a connection, as plain values: to compare a direct run with one through the gateway."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import pq


def told(connection: psycopg.Connection[Any], statement: Any, parameters: Any = None, **options: Any) -> Any:
    """Everything that a client learns from one statement: its result or its error, and the transaction's state."""
    try:
        cursor = connection.execute(statement, parameters, **options)
    except psycopg.Error as error:
        diagnosis = error.diag
        return (
            "error", error.sqlstate, diagnosis.severity, diagnosis.message_primary, diagnosis.message_detail,
            diagnosis.message_hint, diagnosis.statement_position, diagnosis.table_name, diagnosis.constraint_name,
            connection.info.transaction_status.name,
        )  # fmt: skip
    results = []
    while True:
        names = [(column.name, column.type_code) for column in cursor.description or ()]
        results.append((cursor.statusmessage, names, cursor.fetchall() if cursor.description else None))
        if not cursor.nextset():
            return results, connection.info.transaction_status.name


def drained(pgconn: pq.abc.PGconn, syncs: int) -> list[Any]:
    """Every result of a pipeline up to the given number of syncs, in order; None ends the results of one command."""
    seen: list[Any] = []
    while syncs:
        result = pgconn.get_result()
        if result is None:
            seen.append(None)
            continue
        status = pq.ExecStatus(result.status)
        syncs -= status == pq.ExecStatus.PIPELINE_SYNC
        rows = [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]
        seen.append((status.name, result.command_status, rows, result.error_message))
    return seen
