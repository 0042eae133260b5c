"""Hooks reach the addons that have them: in order, nested ones too, and whatever one of them does."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy import connection, exceptions
from mitmproxy.proxy import layers, server_hooks
from mitmproxy.proxy.layers.http import _hooks as http_hooks
from mitmproxy.test import tflow

from addons.web.hooks import QuickHooks
from addons.web.port import SluicegateStepHook, Step


class Handler:
    """As much of mitmproxy's as hooks need."""

    def __init__(self, *chain: Any) -> None:
        self.master = SimpleNamespace(addons=SimpleNamespace(chain=list(chain)))
        self.slow: list[str] = []

    async def handle_hook(self, hook: Any) -> None:
        self.slow.append(hook.name)


def client() -> connection.Client:
    return connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0.0)


def fire(*chain: Any, hook: Any = None) -> Handler:
    handler = Handler(*chain)
    asyncio.run(QuickHooks(cast(Any, handler))(hook or server_hooks.ClientDisconnectedHook(client())))
    return handler


def noting(name: str, told: list[str], **more: Any) -> Any:
    return SimpleNamespace(client_disconnected=lambda _: told.append(name), **more)


def test_every_addon_that_has_the_hook_is_asked_in_order() -> None:
    told: list[str] = []
    inner = noting("inner", told)
    fire(noting("first", told), SimpleNamespace(), noting("outer", told, addons=[inner]), noting("last", told))
    assert told == ["first", "outer", "inner", "last"]


def test_a_hook_that_waits_is_waited_for() -> None:
    told: list[str] = []

    async def waits(_: Any) -> None:
        await asyncio.sleep(0.001)
        told.append("waited")

    fire(SimpleNamespace(client_disconnected=waits), noting("after", told))
    assert told == ["waited", "after"]


def test_what_an_addon_raises_is_logged_and_the_others_are_asked(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def fails(_: Any) -> None:
        raise ValueError("oops")

    async def fails_later(_: Any) -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    with caplog.at_level(logging.ERROR):
        fire(
            SimpleNamespace(client_disconnected=fails),
            SimpleNamespace(client_disconnected=fails_later),
            noting("after", told),
        )
    assert told == ["after"]
    assert "oops" in caplog.text
    assert "later" in caplog.text


def test_an_addon_can_halt_the_others() -> None:
    told: list[str] = []

    def halts(_: Any) -> None:
        raise exceptions.AddonHalt

    fire(noting("before", told), SimpleNamespace(client_disconnected=halts), noting("after", told))
    assert told == ["before"]


def test_a_module_named_like_a_hook_is_none() -> None:
    fire(SimpleNamespace(client_disconnected=layers))


def test_hooks_about_flows_stay_with_mitmproxy() -> None:
    told: list[str] = []
    addon = SimpleNamespace(requestheaders=lambda _: told.append("asked"))
    handler = fire(addon, hook=http_hooks.HttpRequestHeadersHook(tflow.tflow()))
    assert handler.slow == ["requestheaders"]
    assert told == []


def test_our_own_steps_are_run_and_nobody_else_sees_them() -> None:
    told: list[str] = []

    async def work() -> str:
        return "done"

    async def run() -> Step:
        step = Step(work())
        handler = Handler(SimpleNamespace(sluicegate_step=lambda _: told.append("seen")))
        await QuickHooks(cast(Any, handler))(SluicegateStepHook(step))
        return step

    step = asyncio.run(run())
    assert (step.result, step.error, told) == ("done", None, [])
