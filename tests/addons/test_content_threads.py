"""Bodies have threads of their own."""

from __future__ import annotations

import asyncio
import threading

from addons.content_threads import in_content_thread


def test_slow_bodies_keep_nobody_else_from_a_thread() -> None:
    done = threading.Event()

    async def run() -> None:
        bodies = [asyncio.ensure_future(in_content_thread(done.wait)) for _ in range(64)]
        await asyncio.sleep(0)
        try:
            assert await asyncio.wait_for(asyncio.to_thread(threading.current_thread), 30)
            assert not any(body.done() for body in bodies)
        finally:
            done.set()
        assert all(await asyncio.gather(*bodies))

    asyncio.run(run())


def test_arguments_results_and_errors_come_through() -> None:
    def work(a: int, *, b: int) -> tuple[int, str]:
        return a // b, threading.current_thread().name

    result, name = asyncio.run(in_content_thread(work, 6, b=3))
    assert result == 2
    assert name.startswith("content")
    try:
        asyncio.run(in_content_thread(work, 6, b=0))
    except ZeroDivisionError:
        return
    raise AssertionError("an error was swallowed")
