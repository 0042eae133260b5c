"""What a GraphQL document asks for: `mutation`, `mutation.deleteUser`, ... Parsed by graphql-core.

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

from graphql import GraphQLError, parse
from graphql.language import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

ANYTHING = "*"
_MAX_TOKENS = 10_000
_MAX_FIELDS = 1000


def operations(text: str | None) -> tuple[str, ...]:
    """Each operation of the document and each of its root fields, fragments resolved; `*` where that is not known."""
    if text is None:
        return (ANYTHING,)
    try:
        document = parse(text, no_location=True, max_tokens=_MAX_TOKENS)
    except (GraphQLError, RecursionError):
        return (ANYTHING,)
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    found: dict[str, None] = {}
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            kind = definition.operation.value
            found[kind] = None
            fields: list[str] = []
            if not _root_fields(definition.selection_set, fragments, fields, frozenset()):
                return (ANYTHING,)
            for field in fields:
                found[f"{kind}.{field}"] = None
    return tuple(found) or (ANYTHING,)


def _root_fields(
    selections: SelectionSetNode,
    fragments: dict[str, FragmentDefinitionNode],
    found: list[str],
    inside: frozenset[str],
) -> bool:
    """Collects field names (not aliases); False where the document makes no sense or is too large."""
    for node in selections.selections:
        if len(found) > _MAX_FIELDS:
            return False
        if isinstance(node, FieldNode):
            found.append(node.name.value)
        elif isinstance(node, InlineFragmentNode):
            if not _root_fields(node.selection_set, fragments, found, inside):
                return False
        elif isinstance(node, FragmentSpreadNode):
            name = node.name.value
            if name in inside or name not in fragments:
                return False
            if not _root_fields(fragments[name].selection_set, fragments, found, inside | {name}):
                return False
    return True
