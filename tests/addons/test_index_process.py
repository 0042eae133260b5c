"""The indexer is started again when it ends, and not once the gateway ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from addons import index_process
from addons.index_process import IndexProcess


async def another(indexer: IndexProcess, than: int = 0) -> int:
    """The id of the process that runs now."""
    while indexer._process is None or indexer._process.pid == than:
        await asyncio.sleep(0.005)
    return indexer._process.pid


def test_one_runs_while_the_gateway_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(index_process, "_PAUSE", 0.01)
    runtime = SimpleNamespace(
        config=SimpleNamespace(state_dir=tmp_path), retention=SimpleNamespace(arguments=list), draining=False
    )

    async def run() -> None:
        indexer = IndexProcess(cast(Any, runtime))
        indexer.stop()  # before there is one
        keeping = asyncio.ensure_future(indexer.run())
        first = await another(indexer)
        os.kill(first, signal.SIGKILL)
        second = await another(indexer, first)
        assert "the indexer ended with -9; starting it again" in caplog.text
        runtime.draining = True
        indexer.stop()
        await keeping
        assert indexer._process is not None
        assert indexer._process.pid == second
        indexer.stop()  # it has ended already

    asyncio.run(run())
