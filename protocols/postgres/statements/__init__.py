"""What PostgreSQL statements do, judged by PostgreSQL's own grammar, a catalog and the session's state.

Read top down: `model` says what comes out, `analyse` how, `text` what must hold before the parser is called. What is
found out about one statement is a line of classes, each of which adds to the one before: `findings`, `calls` (code that
is called), `expressions` (the walk), `sources` (FROM), `queries`, `stores`, `writes`, `session_commands`, `commands`.
`nodes` lists what is understood at all.

INVARIANT: no I/O in this package, and nothing here ever lets a statement pass because something failed.
"""

from protocols.postgres.statements.analyse import analyse, analyse_function_call, with_parameter_types
from protocols.postgres.statements.model import Change, ChangeKind, CommandAnalysis, Prepared, Statement, Temporary
from protocols.postgres.statements.text import shape_key

__all__ = [
    "Change",
    "ChangeKind",
    "CommandAnalysis",
    "Prepared",
    "Statement",
    "Temporary",
    "analyse",
    "analyse_function_call",
    "shape_key",
    "with_parameter_types",
]
