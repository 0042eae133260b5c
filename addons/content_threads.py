"""Threads in which bodies are read and searched, and nothing else: a secret or a catalog does not have to wait until
somebody's large body is done with.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_POOL = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="content")  # threads begin when first needed


async def in_content_thread[**P, T](work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(*args)` in one of the threads; bodies beyond their number take their turn."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, lambda: work(*args, **kwargs))
