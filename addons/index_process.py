"""The index is made by a child process: it shares neither our loop nor our GIL."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from addons.runtime import Runtime

log = logging.getLogger("sluicegate")

_ROOT = Path(__file__).resolve().parent.parent
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until it is started again


class IndexProcess:
    """`run` keeps one going while the gateway serves."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        runtime, pause = self._runtime, _PAUSE
        while not runtime.draining:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "guard.record.indexer",
                "--state",
                str(runtime.config.state_dir),
                "--parent",
                str(os.getpid()),
                *runtime.retention.arguments(),
                cwd=_ROOT,
                stdin=asyncio.subprocess.PIPE,  # it ends when we do, however we end
            )
            code = await self._process.wait()
            if runtime.draining:
                return
            log.error("the indexer ended with %s; starting it again in %g s", code, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
