"""What MySQL and MariaDB statements do, judged by two readers that must agree, a catalog and the session's state.

Read top down: `model` says what comes out, `analyse` how; `lexer` reads a text by the server's own rules, `text` what
must hold before; `agree` lets sqlglot read the same tokens, `queries` and `writes` walk its tree, `calls` judges
functions from the tokens; `commands`, `settings_commands`, `definitions` and `shows` read all other statements.

INVARIANT: no I/O in this package, and nothing here ever lets a statement pass because something failed.
"""

from protocols.mysql.statements.analyse import analyse
from protocols.mysql.statements.model import (
    Change,
    ChangeKind,
    CommandAnalysis,
    Prepared,
    Statement,
    Temporary,
    Variable,
)
from protocols.mysql.statements.text import shape_key

__all__ = [
    "Change",
    "ChangeKind",
    "CommandAnalysis",
    "Prepared",
    "Statement",
    "Temporary",
    "Variable",
    "analyse",
    "shape_key",
]
