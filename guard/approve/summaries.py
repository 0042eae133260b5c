"""A request in words and figures: what lists and webhooks show, and what makes two commands the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from guard.record.redact import redact_sql
from guard.state import Approval
from protocols.contract import Analysis, Resource

_FIELDS = "http.header."
SHORT_TEXT = 4096  # characters of a statement in lists and webhooks


def summary(approval: Approval) -> dict[str, Any]:
    """A request as JSON for lists and webhooks: the statement is redacted and may be cut, parameters are left out."""
    text = redact_sql(approval.text)
    return {
        "id": approval.id,
        "status": approval.status.value,
        "session": approval.session_id,
        "subject": approval.subject,
        "issuer": approval.issuer,
        "resource": approval.resource,
        "rule": approval.rule,
        "text": text[:SHORT_TEXT],
        "text_cut": len(text) > SHORT_TEXT,
        "deferred": approval.deferred,
        "digest": approval.digest.hex(),
        "details": dict(approval.details),
        "requested_at": approval.requested_at,
        "expires_at": approval.expires_at,
        "decided_at": approval.decided_at,
        "reason": approval.reason,
        "approvers": {
            "groups": sorted(approval.terms.approver_groups),
            "subjects": sorted(approval.terms.approver_subjects),
            "issuers": sorted(approval.terms.approver_issuers),
            "count": approval.terms.count,
        },
        "votes": [
            {
                "subject": vote.subject,
                "issuer": vote.issuer,
                "approve": vote.approve,
                "reason": vote.reason,
                "at": vote.at,
            }
            for vote in approval.votes
        ],
    }


def meaning_of(analysis: Analysis, resource: Resource, told: bytes = b"") -> bytes:
    """A digest of everything that was found out about a command: where any of it differs, it is another command.

    `told`: what its session adds to that.
    """
    known = {
        **details_of(analysis),
        "database": resource.database,
        "columns": list(analysis.columns),
        "predicates": list(analysis.predicates),
        "functions": list(analysis.functions),
        "shape": analysis.shape,
        "told": told.hex(),
        "clear": sorted(analysis.clear_columns),
        # fields of a head may be secrets; all of them are in the digest, those under a key
        "facts": {name: list(found) for name, found in analysis.facts.items() if not name.startswith(_FIELDS)},
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).digest()


def details_of(analysis: Analysis) -> dict[str, Any]:
    return {
        "kind": analysis.kind,
        "effects": sorted(analysis.effects),
        "reads": list(analysis.reads),
        "writes": list(analysis.writes),
        "where": analysis.where.value,
        "unknown": analysis.unknown,
        "why": analysis.why,
    }
