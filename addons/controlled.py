"""What the control API may see of this process, and do to it: its sessions, its policies, its health."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from guard.config import Config, load
from guard.config.checks import check_rules
from guard.documents import ConfigError, read
from guard.enforce import PolicySet
from guard.record.people import same_person

if TYPE_CHECKING:
    from addons.runtime import Runtime


class LiveSessions:
    """See `guard.control.handlers.LiveSessions`: the sessions of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self) -> Sequence[Mapping[str, Any]]:
        return [live.summary() for live in self._runtime.sessions.values()]

    def terminate(self, session_id: str, reason: str) -> bool:
        live = self._runtime.sessions.get(session_id)
        if live is None:
            return False
        live.terminate(reason)
        return True

    def contain(self, subject: str) -> int:
        ended = 0
        for live in list(self._runtime.sessions.values()):
            if same_person(live.principal.subject, subject):
                live.terminate(f"`{subject}` is contained: every access is cut until a responder releases it")
                ended += 1
        return ended


async def reload(runtime: Runtime) -> dict[str, Any]:
    """Loads the policies anew; where that fails, or cannot be recorded, the old ones stay, and the error says why."""
    policies = await asyncio.to_thread(_read, runtime.config)
    old = runtime.policies.version
    # first on record: where that fails no session is judged by policies that others do not have
    runtime.recorder.event("policy.loaded", {"version": policies.version, "before": old})
    runtime.policies = policies
    for live in list(runtime.sessions.values()):
        live.new_policy(policies.for_session(live.principal, live.resource, live.facts))
    return {"version": policies.version, "before": old, "changed": old != policies.version}


def _read(config: Config) -> PolicySet:
    """Raises ConfigError, also for what does not go with the issuers and roles that this process was started with: the
    file's may be others by now, and count after a restart only."""
    policies = PolicySet.load(load(config.path).policies)
    problems = [problem for problem in check_rules(config, read(config.path), policies) if not problem.warning]
    if problems:
        raise ConfigError(problems)
    return policies


def status(runtime: Runtime) -> dict[str, Any]:
    """The gateway's own facts."""
    return {
        "gateway": runtime.name,
        "pid": os.getpid(),
        "started_at": runtime.started_at,
        "connections": runtime.connections,
        "policy": runtime.policies.version,
        "stopped": runtime.stopped or None,
        "space": runtime.retention.warning,
        "contained": sorted(runtime.blocklist.contained),
        "catalogs": {k.name: k.error or "fresh" for k in runtime.upstreams.keepers.values()},
        "issuers": runtime.verifier.status(),
    }
