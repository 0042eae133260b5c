"""Admission, whatever a listener speaks: who it is, whether a resource is open to them, how a session begins and ends.

What is asked, in which order, and what of it goes on record is here, once; how it is said is a gate's own (`_denied`).

INVARIANT: every session of a client is opened, registered, put on record and ended through `Door`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar

from addons.live import NO_LONGER, LiveSession, Opened
from guard.config.schema import ListenerConfig, ResourceConfig
from guard.enforce import PolicySet
from guard.identity import IdentityError
from guard.record.errors import RecordError
from guard.secrets import SecretError
from guard.state.database import StateError
from guard.state.registry import SessionEntry
from protocols.contract import Principal, Resource, SessionFacts

if TYPE_CHECKING:
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate.admission")

FULL = "the gateway has too many connections; try again later"
NO_CREDENTIAL = "the gateway has no credential for this resource; its log says why"
_NO_STATE = "the gateway cannot record or check state; nothing passes until it can"
_MAX_TEXT = 256  # characters of what a client says of itself


class Ground(Enum):
    """On what ground somebody is not admitted: each protocol has its own code for it."""

    FULL = auto()
    CLOSED = auto()  # the gateway shuts down, or nothing passes for now
    IDENTITY = auto()
    POLICY = auto()
    CREDENTIAL = auto()  # the gateway's own, for the upstream
    STATE = auto()  # it can neither record nor look at what it knows


class Door(ABC):
    """One client connection of one listener, from a stranger's to its end."""

    refusal_type: ClassVar[type[Exception]]  # what `_denied` makes

    def __init__(self, runtime: Runtime, listener: ListenerConfig, resource: ResourceConfig, peer: str) -> None:
        self.runtime = runtime
        self.listener = listener
        self.resource = resource
        self.peer = peer
        self._refusal_recorded = False
        self._stranger = False
        self._counted = False  # it has its place among `connections`
        self._subject = ""  # whose token it is that asks now, once it was verified
        self._policies: PolicySet | None = None  # those that opened the resource

    @abstractmethod
    def _denied(self, ground: Ground, text: str) -> Exception:
        """The refusal that the client is told, in the codes of its protocol."""

    # ------------------------------------------------------------ places

    def arrive(self) -> bool:
        """Whether one more may come in: nobody has said who they are yet, so they share one bound."""
        self._stranger = self.runtime.strangers.enter(self.peer)
        return self._stranger

    def arrived(self) -> None:
        """It belongs to somebody now, or it is gone. Safe to call twice."""
        if self._stranger:
            self._stranger = False
            self.runtime.strangers.leave(self.peer)

    def _take_place(self) -> None:
        """One place for each connection, taken before anything is waited for: many at once do not pass the bound."""
        if self._counted:
            return
        if self.runtime.connections >= self.runtime.config.limits.max_connections:
            raise self._denied(Ground.FULL, FULL)
        self._counted = True
        self.runtime.connections += 1

    def _give_place_back(self) -> None:
        if self._counted:
            self._counted = False
            self.runtime.connections -= 1

    # ------------------------------------------------------------ the way in

    @contextmanager
    def _asking(self, application: str, claimed_user: str = "") -> Iterator[None]:
        """Around one attempt to come in. What keeps them out is on record, and raised again as `refusal_type`.

        An error that nobody has foreseen passes as it is, and lets nobody in either.
        """
        had_place, admitted = self._counted, False
        why = detail = ""
        try:
            yield
            admitted = True
        except IdentityError as e:
            why, detail, self._subject = str(e), e.detail, e.subject
            raise self._denied(Ground.IDENTITY, f"authentication failed: {e}") from None
        except SecretError as e:
            log.error("credential of %s: %s", self.resource.name, e)
            why, detail = "no upstream credential", str(e)
            raise self._denied(Ground.CREDENTIAL, NO_CREDENTIAL) from None
        except (RecordError, StateError) as e:
            log.error("%s admits nobody: %s", self.listener.name, e)
            why = _NO_STATE
            raise self._denied(Ground.STATE, why) from None
        except self.refusal_type as e:
            why = str(e)
            raise
        finally:
            if not admitted and not had_place:
                self._give_place_back()
            if why:
                self._refused(why, detail, application, claimed_user)
            self._subject = ""

    async def _verified(self, token: str) -> Principal:
        """Who it is. Raises IdentityError, or `refusal_type` where nobody is asked now."""
        runtime = self.runtime
        if runtime.stopped or runtime.draining:
            raise self._denied(Ground.CLOSED, runtime.stopped or "the gateway shuts down")
        self._take_place()
        principal = await runtime.verifier.verify(token)
        self._subject = principal.subject
        return principal

    def _opened(self, principal: Principal, resource: Resource, application: str) -> Opened:
        """Raises `refusal_type` where no policy opens the resource to them."""
        facts = SessionFacts(self.peer, application[:_MAX_TEXT], time.time())
        self._policies = policies = self.runtime.policies
        policy = policies.for_session(principal, resource, facts)
        if not policy.may_connect:
            text = f"no policy opens `{resource.name}` to you; ask its owner for a rule"
            raise self._denied(Ground.POLICY, text)
        return Opened(secrets.token_hex(8), principal, resource, facts, policy)

    def _let_in(self, live: LiveSession) -> None:
        """The last word before it is registered. Raises `refusal_type`."""
        live.listener = self.listener.name
        if why := live.refusal():
            raise self._denied(Ground.POLICY, why)

    def _refused(self, why: str, detail: str = "", application: str = "", claimed_user: str = "") -> None:
        """On record: `why` as the client may know it, `detail` for the gateway's own people."""
        self._refusal_recorded = True
        if detail:
            log.info("%s: refused %s: %s", self.listener.name, self.peer, detail)
        self.runtime.note(
            "session.refused",
            {
                "listener": self.listener.name,
                "resource": self.resource.name,
                "client": self.peer,
                "subject": self._subject,
                "claimed_user": claimed_user[:_MAX_TEXT],
                "application": application[:_MAX_TEXT],
                "why": why,
                "detail": detail,
            },
        )

    # ------------------------------------------------------------ start and end

    async def _register(self, live: LiveSession) -> None:
        """In the registry, before it begins. Raises `StateError`, or is cancelled: an end belongs there all the same.

        A locked store makes those who log in wait and fail, and nobody who is in.
        """
        principal, facts = live.principal, live.facts
        entry = SessionEntry(
            live.id,
            self.runtime.name,
            principal.subject,
            principal.issuer,
            live.resource.name,
            live.resource.protocol,
            self.peer,
            facts.application,
            facts.started_at,
            principal.expires_at,
        )
        try:
            async with asyncio.timeout(self.runtime.config.limits.auth_timeout):
                await self.runtime.registrar.start(entry)
        except TimeoutError:
            raise StateError("the session registry does not answer") from None

    def _renewed(self, live: LiveSession) -> str:
        """Under the policies in force now: until it is listed, no reload reaches it. -> why it must not go on."""
        policies = self.runtime.policies
        if policies is not self._policies:
            live.begin_under(policies.for_session(live.principal, live.resource, live.facts))
        return live.refusal() or ("" if live.policy.may_connect else NO_LONGER)

    def _begin(self, live: LiveSession) -> None:
        """On record, and listed. Raises `RecordError`: then it is neither."""
        principal, resource = live.principal, live.resource
        self.runtime.recorder.session_start(
            live.id,
            {
                "subject": principal.subject,
                "issuer": principal.issuer,
                "groups": sorted(principal.groups),
                "token_id": principal.token_id,
                "expires_at": principal.expires_at,
                "resource": resource.name,
                "protocol": resource.protocol,
                "database": resource.database,
                "listener": self.listener.name,
                "client": self.peer,
                "application": live.facts.application,
                "claimed_user": live.claimed_user[:_MAX_TEXT],
                "policy": live.policy.version,
            }
            | ({"attributes": live.attributes} if live.attributes else {}),
        )
        self.runtime.sessions[live.id] = live

    def _end(self, live: LiveSession, why: str) -> None:
        """It has begun, and is over: because of `why`, unless the gateway ended it for a reason of its own."""
        self.runtime.sessions.pop(live.id, None)
        self.runtime.session_ended(live, live.end_reason or why)
