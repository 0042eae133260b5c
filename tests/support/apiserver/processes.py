"""Pods as local processes: the first container's command runs here, and so does what is executed in it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.apiserver.remote import ERROR, RESIZE, STDERR, STDIN, STDOUT, SUCCESS, Remote, failure


@dataclass
class Running:
    """A pod's own process: everything it has printed, and who listens to it."""

    process: asyncio.subprocess.Process | None = None
    log: bytes = b""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    pump: asyncio.Task[None] | None = None  # kept alive with the pod

    def add(self, data: bytes) -> None:
        self.log += data
        waiter, self.changed = self.changed, asyncio.Event()
        waiter.set()

    def end(self) -> None:
        self.ended = True
        self.changed.set()

    async def follow(self, since: int = 0) -> AsyncIterator[bytes]:
        """What is printed from `since` on, until the process ends."""
        while True:
            waiter, at = self.changed, since
            since = len(self.log)
            if since > at:
                yield self.log[at:since]
            elif self.ended:
                return
            else:
                await waiter.wait()


async def start(folder: Path, command: list[str], ended: Callable[[int], None]) -> Running:
    """Runs a pod's command in its folder; without one the pod idles."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Running()
    if not command:
        return running
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    running.process = process

    async def pump() -> None:
        assert process.stdout is not None
        while data := await process.stdout.read(65536):
            running.add(data)
        code = await process.wait()
        running.end()
        ended(code)

    running.pump = asyncio.create_task(pump())
    return running


async def stop(running: Running) -> None:
    if running.process is None or running.pump is None:
        return
    if running.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, 9)
    if running.process.stdin is not None:
        running.process.stdin.close()
    # it reads to the end of the output, which closes the pipe
    await running.pump


async def attach(running: Running, remote: Remote) -> None:
    """The pod's own process: what it prints from now on, and its stdin."""
    assert running.process is not None
    stdin = running.process.stdin

    async def read() -> None:
        async for channel, data in remote.events():
            if channel == STDIN and data and stdin is not None:
                stdin.write(data)
                await stdin.drain()

    await remote.send(STDOUT, b"")
    reading = asyncio.create_task(read())
    try:
        async for data in running.follow(len(running.log)):
            await remote.send(STDOUT, data)
        await remote.finish(SUCCESS)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def execute(folder: Path, command: list[str], remote: Remote, *, tty: bool, stdin: bool) -> None:
    """Runs a command in the pod's folder, on a terminal of its own with `tty`."""
    await remote.send(STDOUT, b"")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        await (_on_terminal if tty else _on_pipes)(folder, command, remote, stdin)
    except FileNotFoundError:
        body = {"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500}
        await remote.finish(json.dumps(body | {"message": f"exec failed: {command[0]}: no such file"}).encode())


async def _on_pipes(folder: Path, command: list[str], remote: Remote, stdin: bool) -> None:
    source = asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdin=source, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )

    async def pump(reader: asyncio.StreamReader | None, channel: int) -> None:
        assert reader is not None
        while data := await reader.read(32768):
            await remote.send(channel, data)

    async def feed() -> None:
        async for channel, data in remote.events():
            if channel == STDIN and process.stdin is not None and not process.stdin.is_closing():
                if data is None:
                    process.stdin.close()
                else:
                    process.stdin.write(data)
                    with contextlib.suppress(ConnectionError):
                        await process.stdin.drain()

    await _until_done(process, remote, feed, lambda: _both(pump(process.stdout, STDOUT), pump(process.stderr, STDERR)))


async def _both(first: Awaitable[None], second: Awaitable[None]) -> None:
    await asyncio.gather(first, second)


async def _on_terminal(folder: Path, command: list[str], remote: Remote, stdin: bool) -> None:
    master, slave = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
    finally:
        os.close(slave)
    os.set_blocking(master, False)
    loop = asyncio.get_running_loop()
    printed: asyncio.Queue[bytes] = asyncio.Queue()

    def readable() -> None:
        try:
            data = os.read(master, 32768)
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(master)
        printed.put_nowait(data)

    loop.add_reader(master, readable)

    async def pump() -> None:
        while data := await printed.get():
            await remote.send(STDOUT, data)

    async def feed() -> None:
        async for channel, data in remote.events():
            if channel == STDIN and data:
                os.write(master, data)
            elif channel == RESIZE and data:
                size = json.loads(data)
                packed = struct.pack("HHHH", size["Height"], size["Width"], 0, 0)
                fcntl.ioctl(master, termios.TIOCSWINSZ, packed)

    try:
        await _until_done(process, remote, feed, pump)
    finally:
        loop.remove_reader(master)
        os.close(master)


async def _until_done(
    process: asyncio.subprocess.Process,
    remote: Remote,
    feed: Callable[[], Awaitable[None]],
    pump: Callable[[], Awaitable[None]],
) -> None:
    """Runs until the process has ended and all that it printed is sent; a client that leaves ends the process."""

    async def fed() -> None:
        await feed()

    async def pumped() -> None:
        await pump()

    feeding, pumping = asyncio.create_task(fed()), asyncio.create_task(pumped())
    try:
        done, _ = await asyncio.wait({feeding, pumping}, return_when=asyncio.FIRST_COMPLETED)
        if pumping not in done:
            # the client is gone: nobody reads what the process prints
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pumping, 1)
        if process.returncode is None and not pumping.done():
            process.kill()
        code = await process.wait()
        with contextlib.suppress(ConnectionError):
            await remote.finish(SUCCESS if code == 0 else failure(code))
    finally:
        # also where the server itself stops in the middle
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(pumping, 1)
        await process.wait()


__all__ = ["ERROR", "Running", "attach", "execute", "start", "stop"]
