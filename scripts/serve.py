"""`sluicegate serve`: the production entry. The same addons as `mitmdump -s addons/gateway.py`, on uvloop.

SIGTERM and SIGINT drain: no new connections, open transactions get a grace period, then every session ends politely.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
from pathlib import Path
from typing import Any

DEFAULT_GRACE = 20.0


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "serve",
        help="run the gateway",
        description="Runs the gateway in the foreground: uvloop, a deep listen backlog, graceful drain on SIGTERM.",
        epilog="example: sluicegate serve /etc/sluicegate/sluicegate.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the configuration file (see `sluicegate check`)")
    parser.add_argument(
        "--grace",
        type=float,
        default=DEFAULT_GRACE,
        metavar="SECONDS",
        help=f"how long open transactions may go on after SIGTERM (default {DEFAULT_GRACE:g})",
    )
    parser.add_argument("--verbose", action="store_true", help="log every connection")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 after a drain, 1 where the gateway could not start."""
    from guard.config import ConfigError, load

    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        state = load(args.config).state_dir
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return 1
    except OSError as e:
        print(f"cannot read or make {e.filename or args.config}: {e.strerror}", file=sys.stderr)
        return 1
    _raise_file_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(args, state))


def _loop_factory() -> Any:
    """uvloop where it is installed; mitmproxy then gets an eager task factory that takes uvloop's arguments."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    if sys.version_info < (3, 14):

        def eager(loop: Any, coro: Any, *, eager_start: bool = True, **options: Any) -> asyncio.Task[Any]:
            return asyncio.Task(coro, loop=loop, eager_start=True, **options)

        asyncio.eager_task_factory = eager
    return uvloop.new_event_loop


def _raise_file_limit() -> None:
    """Every session takes two sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(args: argparse.Namespace, state: Path) -> int:
    from mitmproxy import options
    from mitmproxy.tools.dump import DumpMaster

    from addons.suite import Gateway, suite

    # the CA of the forward proxy belongs to this gateway, and a service may have no home
    opts: Any = options.Options(confdir=str(state / "mitmproxy"))
    master: Any = DumpMaster(opts, with_termlog=False, with_dumper=False)  # untyped, like all of mitmproxy's outside
    addons = suite()
    master.addons.add(*addons)
    opts.update(sluicegate=str(args.config), mode=[], server=False)
    gateway = next(a for a in addons if isinstance(a, Gateway))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    running = asyncio.ensure_future(master.run())
    failed = asyncio.ensure_future(gateway.failed.wait())
    stopped = asyncio.ensure_future(stopping.wait())
    done, _ = await asyncio.wait({running, failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if stopped in done:
        await gateway.drain(args.grace)
    master.shutdown()
    await running
    failed.cancel()
    stopped.cancel()
    return 1 if gateway.failed.is_set() else 0
