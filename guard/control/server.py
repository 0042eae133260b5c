"""The Unix socket: one task per connection, one call at a time on each, everything bounded.

    read a line -> verify its token -> check its role -> record it -> carry it out -> answer

A step that fails answers an error and the connection goes on; a line that is too long, or a peer that is too slow, ends
it.
"""

from __future__ import annotations

import asyncio
import fcntl
import grp
import logging
import os
import secrets
import socket
import stat
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from guard.control import wire
from guard.control.roles import METHODS, Method, Roles
from guard.control.wire import ControlError
from guard.identity import IdentityError
from protocols.contract import Principal

MAX_CONNECTIONS = 32
MAX_OF_ONE_USER = 8  # of another user than the gateway's and root: a member of its group must not keep all others out
READ_TIMEOUT_S = 30.0  # for a whole request line, and for an answer to be taken
CALL_TIMEOUT_S = 60.0
_MAX_RECORDED = 1000  # characters of one parameter in the record
_MAX_OF_NOBODY = 50  # ... where nobody proved who asks
SOCKET = "control socket"  # the listener of what is refused here

Handler = Callable[[Principal, Mapping[str, Any]], Awaitable[Any]]
"""Carries out one method; answers JSON-able data. Raises ControlError for what the caller should read."""

log = logging.getLogger("sluicegate.control")


# The loop must not look after the socket file: a long path was bound through a descriptor whose number means something
# else by now. `_give_back` removes it.
_SOCKET_IS_OURS: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class TokenVerifier(Protocol):
    """The part of `guard.identity.Verifier` that is needed here."""

    async def verify(self, token: str) -> Principal: ...


class EventRecorder(Protocol):
    """The part of the recorder that is needed here."""

    def event(self, kind: str, payload: Mapping[str, Any]) -> int: ...


class ControlServer:
    """Serves `handlers` at `path`. Every method of `roles.METHODS` must have its handler, and no other may be given.

    Only the gateway's own user may connect; with `group` also the members of that group. Neither says who acts.
    `refused` puts a refused call on record, or counts it: nobody need have a token to make many.
    """

    def __init__(
        self,
        path: Path,
        verifier: TokenVerifier,
        roles: Roles,
        handlers: Mapping[str, Handler],
        recorder: EventRecorder,
        *,
        group: str | None = None,
        refused: Callable[[str, Mapping[str, Any]], object] | None = None,
        call_timeout: float = CALL_TIMEOUT_S,
        read_timeout: float = READ_TIMEOUT_S,
    ) -> None:
        if handlers.keys() != METHODS.keys():
            wrong = sorted(handlers.keys() ^ METHODS.keys())
            raise ValueError(f"handlers and methods differ in: {', '.join(wrong)}")
        self.path = path
        self._group = group
        self._verifier = verifier
        self._roles = roles
        self._handlers = dict(handlers)
        self._recorder = recorder
        self._note = refused or recorder.event
        self._call_timeout = call_timeout
        self._read_timeout = read_timeout
        self._server: asyncio.Server | None = None
        self._lock = -1
        self._inode = 0
        self._connections: dict[asyncio.Task[None], int] = {}  # with the user at the other end

    async def start(self) -> None:
        """Take the socket and serve. Raises ControlError(conflict) when another gateway has it, OSError otherwise."""
        listening = await asyncio.to_thread(self._take)
        try:
            self._server = await asyncio.start_unix_server(
                self._connected, sock=listening, limit=wire.MAX_REQUEST, **_SOCKET_IS_OURS
            )
        except BaseException:
            listening.close()
            self._give_back()
            raise

    async def stop(self) -> None:
        """Stop serving; calls under way are cut off."""
        if self._server is not None:
            self._server.close()
            for task in tuple(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None
        self._give_back()

    # -- the socket file

    def _take(self) -> socket.socket:
        """INVARIANT: who holds the lock on the lock file owns the socket file; a socket found then is stale."""
        folder = self.path.parent
        gid = None if self._group is None else _gid(self._group)
        _prepare(folder, gid)
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._lock_or_fail()
            self._remove_stale()
            return self._bind(gid)
        except BaseException:
            self._give_back()
            raise

    def _lock_or_fail(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ControlError("conflict", f"another gateway runs with the control socket `{self.path}`") from None

    def _remove_stale(self) -> None:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ControlError("conflict", f"`{self.path}` is no socket; move it away or set another state_dir")
        with socket.socket(socket.AF_UNIX) as probe, wire.socket_address(self.path) as address:
            probe.settimeout(1.0)
            try:
                probe.connect(address)
            except ConnectionRefusedError:
                self.path.unlink()
                return
        # it holds no lock, perhaps on a file system without locks, but it is alive
        raise ControlError("conflict", f"another gateway answers at the control socket `{self.path}`")

    def _bind(self, gid: int | None) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            with wire.socket_address(self.path) as address:
                listening.bind(address)
            self._inode = self.path.stat().st_ino
            if gid is not None:  # nobody can connect yet: it does not listen
                os.chown(self.path, -1, gid, follow_symlinks=False)
                self.path.chmod(0o660)
        except BaseException:
            listening.close()
            raise
        finally:
            os.umask(before)
        return listening

    def _give_back(self) -> None:
        if self._inode and self.path.exists() and self.path.stat().st_ino == self._inode:
            self.path.unlink()
        self._inode = 0
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        # drain then waits for the last byte: the abort at the end would throw away what is still in the buffer
        writer.transport.set_write_buffer_limits(high=0)
        try:
            uid = _peer(writer)["uid"]
            mine = uid in (0, os.geteuid())
            of_user = sum(other == uid for other in self._connections.values())
            if len(self._connections) >= MAX_CONNECTIONS or (not mine and of_user >= MAX_OF_ONE_USER):
                busy = ControlError("busy", "too many control connections; try again in a moment")
                await self._send(writer, wire.encode_error(None, busy))
                return
            self._connections[task] = uid
            await self._serve(reader, writer)
        except (TimeoutError, ConnectionError):
            pass  # a slow or vanished peer: the connection ends, and that is all
        except Exception:
            log.exception("control connection")
        finally:
            self._connections.pop(task, None)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer(writer)
        while True:
            try:
                async with asyncio.timeout(self._read_timeout):
                    line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                large = ControlError("bad_request", f"the request is larger than {wire.MAX_REQUEST} bytes")
                await self._send(writer, wire.encode_error(None, large))
                return
            await self._send(writer, await self._answer(line, peer))

    async def _send(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        writer.write(line)
        async with asyncio.timeout(self._read_timeout):
            await writer.drain()

    async def _answer(self, line: bytes, peer: Mapping[str, int]) -> bytes:
        identity: str | int | None = None
        try:
            request = wire.decode_request(line)
            identity = request.id
            return wire.encode_result(identity, await self._call(request, peer))
        except ControlError as error:
            return wire.encode_error(identity, error)
        except Exception:
            # the text may hold anything, so the caller gets a number to quote and the log gets the rest
            incident = secrets.token_hex(4)
            log.exception("control call failed, incident %s", incident)
            message = f"the gateway could not do this; its log says more under `{incident}`"
            return wire.encode_error(identity, ControlError("internal", message))

    async def _call(self, request: wire.Request, peer: Mapping[str, int]) -> Any:
        name, method = request.method, METHODS.get(request.method)
        if method is None:
            raise ControlError("bad_request", f"there is no method `{name[:64]}`")
        facts: dict[str, Any] = {"method": name, "params": _shown(request.params), "peer": dict(peer)}
        try:
            principal = await self._verifier.verify(request.token)
        except IdentityError as error:
            log.info("control call %s refused: %s", name, error.detail)
            self._refused({**facts, "params": _shown(request.params, _MAX_OF_NOBODY)}, error.public)
            raise ControlError("unauthenticated", error.public) from None
        facts |= {"by": principal.subject, "issuer": principal.issuer, "token_id": principal.token_id}
        if not self._roles.may(principal, method):
            needed = " or ".join(sorted(method.roles))
            self._refused(facts, f"takes the role {needed}")
            raise ControlError("forbidden", f"`{principal.subject}` may not do this: it takes the role {needed}")
        recorded = self._record(method, facts)
        result = await self._carry_out(name, principal, request.params, facts)
        if not recorded and isinstance(result, dict):
            result["warning"] = "done, but the journal cannot be written: this act is in the gateway's log only"
        return result

    def _record(self, method: Method, facts: Mapping[str, Any]) -> bool:
        try:
            self._recorder.event("admin.act" if method.act else "admin.read", facts)
        except Exception:
            if not method.tightens:
                raise
            log.exception("%s by %s cannot be recorded and is carried out", facts["method"], facts["by"])
            return False
        return True

    async def _carry_out(
        self, name: str, principal: Principal, params: Mapping[str, Any], facts: Mapping[str, Any]
    ) -> Any:
        try:
            async with asyncio.timeout(self._call_timeout):
                return await self._handlers[name](principal, params)
        except TimeoutError:
            raise ControlError("unavailable", f"no answer within {self._call_timeout:g} s; ask for less") from None
        except ControlError as error:
            if METHODS[name].act:
                self._refused(facts, error.message)
            raise

    def _refused(self, facts: Mapping[str, Any], why: str) -> None:
        by, uid = facts.get("by"), facts["peer"]["uid"]
        # those who have shown no token must not hide in their number who has
        client = f"uid {uid}" if by is None else f"{by}, uid {uid}"
        try:
            self._note("admin.refused", {**facts, "listener": SOCKET, "client": client, "why": why})
        except Exception:
            log.exception("a refused control call cannot be recorded: %s", facts["method"])


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ControlError(
            "conflict", f"there is no group `{group}`, whose members may use the control socket"
        ) from None


def _prepare(folder: Path, gid: int | None) -> None:
    """The folder of the socket, made if it is not there. Raises ControlError where it is open to others.

    A folder that is there is never changed: it may be `/run`.
    """
    if gid is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        try:
            folder.mkdir(mode=0o700)
            _open_to(folder, gid)
        except FileExistsError:
            pass
        except FileNotFoundError:
            # made here it would be for the gateway's user alone, and nobody could reach what is in it
            raise ControlError("conflict", f"make the folder `{folder.parent}` for the control socket first") from None
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        raise ControlError("conflict", f"others can write to `{folder}`, where the control socket is; chmod go-w it")
    if gid is not None and (found.st_gid != gid or mode & 0o057 != 0o050):
        group = grp.getgrgid(gid).gr_name
        raise ControlError(
            "conflict",
            f"`{folder}`, where the control socket is, must be for group `{group}` and nobody else: remove it, and the "
            f"gateway makes it, or: chgrp {group} it and chmod 0750 it",
        )


def _open_to(folder: Path, gid: int) -> None:
    try:
        os.chown(folder, -1, gid)
        folder.chmod(0o750)
    except PermissionError:
        folder.rmdir()
        group = grp.getgrgid(gid).gr_name
        raise ControlError(
            "conflict", f"the gateway's user cannot give `{folder}` to group `{group}`: make it a member of the group"
        ) from None


def _peer(writer: asyncio.StreamWriter) -> dict[str, int]:
    """Process and user at the other end (`SO_PEERCRED`, unix(7)): evidence, not authentication."""
    connection = writer.get_extra_info("socket")
    pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return {"pid": pid, "uid": uid}


def _shown(params: Mapping[str, Any], longest: int = _MAX_RECORDED) -> dict[str, Any]:
    """The parameters as they are recorded: short, and flat."""
    shown: dict[str, Any] = {}
    for name, value in list(params.items())[:20]:
        plain = value if isinstance(value, int | float | bool | None) else str(value)[:longest]
        shown[name[:64]] = plain
    return shown
