"""The messages that can run something, judged where they could first take effect."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import orjson

from protocols.contract import Action, Cacheable, Wait
from protocols.postgres import evidence
from protocols.postgres.catalog import Catalog
from protocols.postgres.catalog_queries import FIRST_USER_OID
from protocols.postgres.errors import ProtocolError
from protocols.postgres.judging import KEPT
from protocols.postgres.messages import (
    Bind,
    Describe,
    Execute,
    FunctionCall,
    Parse,
    Query,
)
from protocols.postgres.pending import SHORT, Kind, Pending, Portal, Prepared, Verdict
from protocols.postgres.settling import STAND_IN, Settling, of_temporaries
from protocols.postgres.statements import analyse_function_call, with_parameter_types
from protocols.postgres.statements.paths import emptying, only_reads, under_empty_path

_describes: dict[bytes, Describe] = {}  # the same few bodies come again and again
_executes: dict[bytes, Execute] = {}
_MAX_REMEMBERED = 256
_MAX_NAME = 63  # bytes


def _remember[M](known: dict[bytes, M], body: bytes, message: M) -> M:
    if len(known) < _MAX_REMEMBERED and len(body) < 128:
        known[body] = message
    return message


def check_name(name: bytes, encoding: str) -> None:
    """The server looks names up by their first 63 bytes (NAMEDATALEN): two that begin alike are one to it.

    It takes them for characters of client_encoding: beyond ASCII the same bytes are another name once that has changed,
    and may be one that SQL has made.
    """
    if len(name) > _MAX_NAME:
        raise ProtocolError(f"the name of a statement or portal is longer than {_MAX_NAME} bytes", "42622")
    if not name.isascii() and encoding.upper() not in ("UTF8", "UNICODE"):
        raise ProtocolError("a name of a statement or portal beyond ASCII needs client_encoding UTF8", "42622")


class Commands(Settling):
    """Mixed into `PostgresSession`.

    Handlers answer True: forward the message unchanged; False: dealt with; None: wait.
    """

    # ------------------------------------------------------------ the messages that can run something

    def _query(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        text = buf[pos + 5 : stop - 1]
        if stop - pos < 6 or buf[stop - 1] or 0 in text:
            text = Query.decode(buf[pos + 5 : stop]).text  # raises, and says what is wrong with it
        ready, catalog = self._catalog()
        if not ready:
            return None
        verdict = self.judge.judge(text, catalog)
        if self._naming(verdict):
            self._wait_for_server()
            return None
        if verdict.changes and verdict.decision.action:
            verdict = self._emptying(text, verdict)
        entry = self._command(self._sync(Pending(Kind.QUERY, verdict=verdict)), b"query")
        if self._calm == entry.number - 1 and only_reads(verdict.command.analysis):
            self._calm = entry.number
        return self._settle(
            buf,
            run,
            pos,
            stop,
            entry,
            (),
            lambda: Query(STAND_IN).encode(),
            lambda: hashlib.sha256(b"Q" + text).digest(),
        )

    def _emptying(self, text: bytes, verdict: Verdict) -> Verdict:
        """An emptied search_path is a harmless setting where nothing in the open transaction could run under it."""
        calm = self.status == "I" or (self.status == "T" and self._calm == self.number)
        emptied = emptying(text, verdict.command) if calm and not (self.queue or self.open) else None
        if emptied is None:
            return verdict
        self._calm = self.number
        return self.judge.verdict(text, emptied, verdict)

    def _parse(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        message = Parse.decode(buf[pos + 5 : stop])
        check_name(message.name, self.state.encoding)
        ready, catalog = self._catalog()
        if not ready:
            return None
        if len(self.prepared) + len(self.parsing) >= self.limits.names_max:
            raise ProtocolError("more prepared statements than the gateway keeps track of", "54000")
        if len(message.text) > SHORT and self._kept_texts() + len(message.text) > self.limits.texts_max:
            raise ProtocolError("longer prepared statements than the gateway keeps; close some first", "54000")
        verdict = self._kept(message.text, message.type_oids, catalog)
        if self._naming(verdict):
            self._wait_for_server()
            return None
        entry = Pending(Kind.PARSE, verdict=verdict, name=message.name)
        if verdict.decision.action >= Action.DENY:
            self._command(entry, b"parse")
            return self._settle(
                buf, run, pos, stop, entry, (), lambda: Parse(message.name, STAND_IN).encode(), lambda: b""
            )
        # nothing runs yet: on record only if the server refuses it; its Bind is judged and recorded
        prepared = Prepared(message.name, message.text, verdict, self._epoch, message.type_oids, self.syncs)
        entry.prepared = self.parsing[message.name] = prepared
        self._await(entry)
        return True

    def _typed(self, text: bytes, oids: tuple[int, ...], catalog: Catalog | None) -> Verdict:
        """The verdict on a statement whose parameters have these types: binding a value may run a type's own code."""
        verdict = self.judge.judge(text, catalog)
        if any(oid >= FIRST_USER_OID for oid in oids):
            command = with_parameter_types(verdict.command, oids, catalog)
            if command is not verdict.command:
                if self.state.path_emptied:
                    command = replace(command, analysis=under_empty_path(command.analysis))
                return self.judge.verdict(text, command, verdict)
        return verdict

    def _kept(self, text: bytes, oids: tuple[int, ...], catalog: Catalog | None) -> Verdict:
        """The verdict on a statement whose plan the server keeps: made at any time, it stands for whatever it then was.

        The server plans anew when a definition or search_path changed, but not for a temporary relation that takes a
        name: a temporary one in it may be the permanent one of that name as well.
        """
        verdict = self._typed(text, oids, catalog)
        analysis = verdict.command.analysis
        if not of_temporaries(analysis):
            return verdict
        verdict = self.judge.judge(text, catalog, KEPT)
        return self.judge.verdict(text, with_parameter_types(verdict.command, oids, catalog), verdict)

    def _lookup(self, name: bytes) -> tuple[bool, Prepared | None]:
        """-> (may go on, statement).

        A Parse that fails takes everything up to its Sync with it, but not what follows: behind a Sync the name may
        stand for an older statement, so the answer is waited for.
        """
        parsing = self.parsing.get(name)
        if parsing is None:
            return True, self.prepared.get(name)
        if parsing.syncs != self.syncs:
            self._barrier = parsing
            self.waiting = Wait.SERVER
            return False, None
        return True, parsing

    def _bind(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        body = buf[pos + 5 : stop]
        message = Bind.decode(body)
        check_name(message.portal, self.state.encoding)
        if not message.statement.isascii():
            check_name(message.statement, self.state.encoding)
        if len(self.portals) >= self.limits.names_max and message.portal not in self.portals:
            raise ProtocolError("more portals than the gateway keeps track of", "54000")
        going, prepared = self._lookup(message.statement)
        if not going:
            return None
        ready, catalog = self._catalog()
        if not ready:
            return None
        if prepared is None:
            verdict = self._sql_prepared(message.statement, catalog)
            if verdict is None:
                # sent to where it must fail, so that a name this session does not know can never run unjudged
                name = message.statement.decode("utf-8", "replace")
                missing = (
                    f'prepared statement "{name}" does not exist'
                    if name
                    else "unnamed prepared statement does not exist"
                )
                self._before(buf, run, pos)
                self._refuse(
                    Pending(Kind.BIND, name=message.portal), Bind(b"", self.nowhere).encode(), ("26000", missing, "")
                )
                return False
            text = b""
            oids: tuple[int, ...] = ()
        else:
            text, oids = prepared.text, prepared.oids
            verdict = prepared.verdict
            if prepared.epoch is not self._epoch or verdict.command.analysis.cacheable == "no":
                verdict = prepared.verdict = self._kept(text, oids, catalog)
                prepared.epoch = self._epoch
                if self._naming(verdict):
                    self._wait_for_server()
                    return None
            elif verdict.decision.valid_until <= self.port.now_ns() / 1e9:
                verdict = prepared.verdict = self._kept(text, oids, catalog)
        values: tuple[str | None, ...] = ()
        params = b""
        if message.values and not verdict.failed:  # of a text that nobody has read nobody knows which are secrets
            values = evidence.show_values(message.values, message.formats, oids)
            shown = self.judge.params(verdict, values)
            params = b',"params":' + orjson.dumps(shown)
        entry = Pending(Kind.BIND, verdict=verdict, name=message.portal)
        self._command(entry, b"bind", params)
        portal = Portal(message.portal, verdict, entry.number, self.port.policy_epoch(), self.syncs)
        portal.prepared, portal.formats = prepared, message.result_formats
        portal.judged = entry.started
        analysis = verdict.command.analysis
        # what writes sees the rows that are there when it runs: a temporary table may have been filled by then
        fills = self.masking and bool(analysis.writes) and of_temporaries(analysis)
        if analysis.cacheable is Cacheable.NO or fills:
            portal.renames = self.renames
        entry.portal = portal
        if not verdict.decision.action and not self._unsettled(verdict):
            self.portals[message.portal] = portal
            self._await(entry)
            if self.masking:
                self._before(buf, run, stop)
                self._describe_portal(portal)
                return False
            return True
        if verdict.decision.action is Action.HOLD:
            # whoever approves sees all that would run; what is too long to be shown is refused
            values = evidence.show_values(message.values, message.formats, oids, 2 * len(body))
        return self._settle(
            buf,
            run,
            pos,
            stop,
            entry,
            values,
            lambda: Bind(message.portal, self.nowhere).encode(),
            # what would run, whatever name this connection's driver has given it
            hashlib.sha256(b"B" + text + b"\0" + body[len(message.portal) + len(message.statement) + 2 :]).digest,
        )

    def _sql_prepared(self, name: bytes, catalog: Catalog | None) -> Verdict | None:
        """A statement that SQL's PREPARE made: both ways share one namespace. Judged by the names in force now."""
        known = self._sql_name(name)
        if known is None or self.state.prepared(known) is None:
            return None
        return self.judge.judge(b'EXECUTE "%b"' % name.replace(b'"', b'""'), catalog)

    def _sql_name(self, name: bytes) -> str | None:
        """A name of the protocol as SQL knows it; None where it is not certain that the two are the same."""
        if not name.isascii() and self.state.encoding.upper() not in ("UTF8", "UNICODE"):
            return None
        try:
            return name.decode()
        except UnicodeDecodeError:
            return None

    def _describe_portal(self, portal: Portal) -> None:
        """The gateway's own Describe: masks need the columns even where the client does not ask for them."""
        entry = Pending(Kind.DESCRIBE, name=portal.name)
        entry.what, entry.hidden, entry.portal = b"P", True, portal
        self._await(entry)
        self.up.append(Describe(b"P", portal.name).encode())

    def _describe(self, buf: bytes, pos: int, stop: int) -> bool:
        body = buf[pos + 5 : stop]
        message = _describes.get(body) or _remember(_describes, body, Describe.decode(body))
        if not message.name.isascii():
            check_name(message.name, self.state.encoding)
        entry = Pending(Kind.DESCRIBE, name=message.name)
        entry.what = message.what
        if message.what == b"P":
            entry.portal = self.portals.get(message.name)
        else:
            entry.prepared = self.parsing.get(message.name) or self.prepared.get(message.name)
        self._await(entry)
        return True

    def _execute(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        body = buf[pos + 5 : stop]
        message = _executes.get(body) or _remember(_executes, body, Execute.decode(body))
        if not message.portal.isascii():
            check_name(message.portal, self.state.encoding)
        portal = self.portals.get(message.portal)
        if portal is None:
            return self._execute_cursor(buf, pos, stop, run, message)
        if (portal.syncs != self.syncs and not portal.bound) or (portal.name and self._renaming()):
            # its Bind may fail and leave an older one, or SQL may put a cursor of that name in its place
            self._wait_for_server()
            return None
        if portal.renames >= 0:
            # EXECUTE and FETCH look their name up when they run: it must still mean what was judged
            if self._naming(portal.verdict) or self._renaming():
                self._wait_for_server()
                return None
            if portal.renames != self.renames:
                self._before(buf, run, pos)
                why = "a prepared statement or cursor was made or closed since this portal was bound; bind it again"
                self._refuse(
                    Pending(Kind.EXECUTE, name=message.portal), Execute(self.nowhere).encode(), ("55000", why, "")
                )
                return False
        until = portal.verdict.decision.valid_until
        if portal.policy is not self.port.policy_epoch() or until <= self.port.now_ns() / 1e9:
            # the policy or the hour changed since Bind: decide again, on the analysis that the server planned by
            portal.policy = self.port.policy_epoch()
            last = portal.verdict
            before = last.decision.action
            portal.verdict = verdict = self.judge.verdict(last.text, last.command, last)
            if verdict.decision.action is Action.HOLD > before:
                # its parameters are not at hand: an approver must see all that would run
                self._before(buf, run, pos)
                why = f"held by rule `{verdict.decision.rule}` since this portal was bound; bind it again"
                entry = self._command(Pending(Kind.EXECUTE, verdict=verdict, name=message.portal), b"execute")
                self._refuse(entry, Execute(self.nowhere).encode(), ("55000", why, ""))
                return False
            if verdict.decision.action > before:
                entry = self._command(Pending(Kind.EXECUTE, verdict=verdict, name=message.portal), b"execute")
                entry.portal = portal
                return self._settle(
                    buf,
                    run,
                    pos,
                    stop,
                    entry,
                    (),
                    lambda: Execute(self.nowhere).encode(),
                    hashlib.sha256(buf[pos:stop]).digest,
                )
        entry = Pending(Kind.EXECUTE, portal.number, portal.verdict, message.portal)
        entry.portal = portal
        entry.started = self.port.now_ns()
        entry.room = self.limits.response_max
        self._await(entry)
        return True

    def _execute_cursor(self, buf: bytes, pos: int, stop: int, run: int, message: Execute) -> bool | None:
        """A portal that no Bind of ours made: an SQL cursor, or a name that the server will refuse."""
        ready, _ = self._catalog()
        if not ready:
            return None
        known = self._sql_name(message.portal)
        command = None if known is None else self.state.portal(known)
        if command is None:
            name = message.portal.decode("utf-8", "replace")
            self._before(buf, run, pos)
            why = ("34000", f'portal "{name}" does not exist', "")
            self._refuse(Pending(Kind.EXECUTE, name=message.portal), Execute(self.nowhere).encode(), why)
            return False
        verdict = self.judge.verdict(b"(cursor) " + message.portal, command)
        entry = self._command(Pending(Kind.EXECUTE, verdict=verdict, name=message.portal), b"execute")
        portal = Portal(message.portal, verdict, entry.number, self.port.policy_epoch(), self.syncs)
        portal.judged = entry.started
        entry.portal = portal
        if self.masking and not verdict.decision.action:
            self._before(buf, run, pos)
            self._describe_portal(portal)
            self.up.append(buf[pos:stop])
            self._await(entry)
            return False
        return self._settle(
            buf,
            run,
            pos,
            stop,
            entry,
            (),
            lambda: Execute(self.nowhere).encode(),
            hashlib.sha256(buf[pos:stop]).digest,
        )

    def _call(self, buf: bytes, pos: int, stop: int, run: int) -> bool | None:
        body = buf[pos + 5 : stop]
        message = FunctionCall.decode(body)
        ready, catalog = self._catalog()
        if not ready:
            return None
        command = analyse_function_call(message.oid, catalog)
        if self.state.path_emptied:
            command = replace(command, analysis=under_empty_path(command.analysis))
        verdict = self.judge.verdict(b"function call of oid %d" % message.oid, command)
        held = verdict.decision.action is Action.HOLD
        values = evidence.show_values(
            message.values, message.formats, (), 2 * len(body) if held else evidence.MAX_PARAM
        )
        entry = self._command(
            self._sync(Pending(Kind.CALL, verdict=verdict)),
            b"call",
            b',"params":' + orjson.dumps(values) if values else b"",
        )
        return self._settle(
            buf, run, pos, stop, entry, values, lambda: FunctionCall(0).encode(), hashlib.sha256(b"F" + body).digest
        )
