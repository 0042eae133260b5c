"""mitmproxy's hooks of one HTTP connection, given to the addons that have them, and to no coroutine per addon.

mitmproxy asks each of its some forty addons in a coroutine and a context of its own, for every hook, whether it has it;
a connection fires half a dozen of them. Here each addon is asked, too, in the same order and with the same meaning of
what it raises, but by a look at its attribute.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

from mitmproxy import exceptions, flow, hooks
from mitmproxy.addonmanager import safecall, traverse
from mitmproxy.proxy import server

from addons.web.port import SluicegateStepHook


class QuickHooks:
    """In the place of a connection handler's `handle_hook`. Hooks about flows stay with mitmproxy: they can be paused.

    The handler's idle timeout, which mitmproxy takes up again after each hook, stays as it was set.
    """

    def __init__(self, handler: server.ConnectionHandler) -> None:
        self._handler = cast(Any, handler)
        self._slow = self._handler.handle_hook

    async def __call__(self, hook: Any) -> None:
        if isinstance(hook, SluicegateStepHook):
            await hook.step.run()  # ours alone: no other addon has a name for it
            return
        (data,) = hook.args()
        if isinstance(data, flow.Flow):
            await self._slow(hook)
        else:
            await self._ask(hook)

    async def _ask(self, hook: hooks.Hook) -> None:
        data, name = hook.args(), hook.name
        for addon in self._handler.master.addons.chain:
            try:
                for one in cast(Any, traverse)([addon]):
                    function = getattr(one, name, None)
                    if not callable(function):
                        continue
                    with safecall():
                        outcome = function(*data)
                        if outcome is not None and inspect.isawaitable(outcome):
                            await outcome
            except exceptions.AddonHalt:
                return
