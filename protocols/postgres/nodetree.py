"""Reading PostgreSQL's stored expression trees (`pg_node_tree` as text): which objects they name.

Stored trees hold OIDs, so no name is resolved a second time and built-ins, which pg_depend does not list, are seen.
The format is the server's own and differs a little between versions: only field names that 13 to 18 share are read.
A tree without the expected head raises ValueError; the caller treats what it belongs to as unknown.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_FUNCTION = re.compile(r" :(?:funcid|opfuncid|aggfnoid|winfnoid|elemfuncid|tsmhandler|hashfuncid|negfuncid) (\d+)")
_OPERATOR = re.compile(r" :opno (\d+)")
_OPERATORS = re.compile(r" :opnos \(o ([\d ]+)\)")
_RELATION = re.compile(r" :relid (\d+)")
_COLUMN = re.compile(r" :varattno (-?\d+)")
_TYPE = re.compile(r" :resulttype (\d+)")
_COMMAND = re.compile(r"\{QUERY :commandType (\d+)")
# blanks and braces inside a name stand behind a backslash (outfuncs.c: outToken). Quotes mean nothing (read.c:
# pg_strtok), and a name may have one anywhere
_TARGETS = re.compile(r"\\.|\{TARGETENTRY |[{}]|:resorigtbl (\d+) :resorigcol (-?\d+) :resjunk (true|false)", re.S)

# what the server checks privileges by: per relation the numbers of all columns that a query reads, wherever it does.
# In the range table up to 15, in a list of its own since then
_SELECTED = re.compile(
    r"(?: :rtekind 0|\{RTEPERMISSIONINFO) :relid (\d+) (?:(?!\{RANGETBLENTRY |\{RTEPERMISSIONINFO ).)*?"
    r":selectedCols \(b([ \d]*)\)",
    re.S,
)
_FIRST_COLUMN = -7  # FirstLowInvalidHeapAttributeNumber: the sets count from it


@dataclass(frozen=True, slots=True)
class Tree:
    """OIDs named anywhere in one stored tree. `commands`: CmdType numbers of its queries (1 select, 2 update, ...).

    `outputs`: for each output column of the first query its (table OID, attribute number), (0, 0) where computed.
    """

    functions: frozenset[int]
    operators: frozenset[int]
    relations: frozenset[int]
    types: frozenset[int]
    commands: frozenset[int]
    outputs: tuple[tuple[int, int], ...] = ()


def selected(text: str) -> tuple[tuple[int, frozenset[int]], ...] | None:
    """(OID, attribute numbers) of each relation in a stored query: all that it reads of them, in outputs and filters.

    0 is the whole row, negative ones are system columns. None where it cannot be read for every relation.
    """
    apart = text.count("{RTEPERMISSIONINFO ")
    found = tuple(
        (int(oid), frozenset(int(number) + _FIRST_COLUMN for number in numbers.split()))
        for oid, numbers in _SELECTED.findall(text)
    )
    return found if len(found) == (apart or text.count(" :rtekind 0 ")) else None


def _ints(pattern: re.Pattern[str], text: str) -> frozenset[int]:
    return frozenset(int(number) for number in pattern.findall(text)) - {0}


def _outputs(text: str) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    depth = 0
    for match in _TARGETS.finditer(text):
        token = match.group()
        if token.startswith("{"):
            depth += 1
        elif token.startswith("}"):
            depth -= 1
            if depth == 0:
                break  # the end of the first query
        elif token.startswith(":") and depth == 2 and match.group(3) == "false":
            found.append((int(match.group(1)), int(match.group(2))))
    return tuple(found)


def columns(text: str) -> frozenset[int]:
    """The attribute numbers in an expression over one relation; 0: the whole row. Raises ValueError as `read` does."""
    read(text)
    return frozenset(int(number) for number in _COLUMN.findall(text))


@lru_cache(maxsize=8192)  # a refresh reads the same trees again
def read(text: str) -> Tree:
    """The objects that a stored tree names. Raises ValueError when it does not look like one."""
    if not text.startswith(("(", "{", "<>")):
        raise ValueError("not a stored expression tree")
    operators = set(_ints(_OPERATOR, text))
    for group in _OPERATORS.findall(text):
        operators.update(int(number) for number in group.split())
    commands = _ints(_COMMAND, text)
    return Tree(
        functions=_ints(_FUNCTION, text),
        operators=frozenset(operators),
        relations=_ints(_RELATION, text),
        types=_ints(_TYPE, text),
        commands=commands,
        outputs=_outputs(text) if commands else (),
    )
