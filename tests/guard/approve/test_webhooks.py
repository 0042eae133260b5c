"""Webhooks against a real HTTP receiver that checks signatures, fails, and hangs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time

import pytest

from guard.approve import Webhooks
from guard.approve.webhooks import QUEUE_SIZE, sign
from guard.config.schema import NotifyConfig, SecretRef
from guard.secrets import Secret

SECRET = Secret("shared")


def belongs(secret, header, body, now):
    """What docs/control.md tells a receiver to do, written without the sender's code."""
    stamp, mac = (part.partition("=")[2] for part in header.split(","))
    wanted = hmac.new(secret.password.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return abs(now - int(stamp)) <= 300 and hmac.compare_digest(mac, wanted)


class Receiver:
    """Answers with the given statuses in turn, the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses) or [200]
        self.deliveries: list[tuple[dict[str, str], bytes]] = []
        self.hang = asyncio.Event()
        self.hang.set()

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
        self.deliveries.append((headers, await reader.readexactly(int(headers["content-length"]))))
        await self.hang.wait()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
def deliver(monkeypatch):
    """Run `work(hooks, receiver)` with a started notifier; returns (receiver, what was recorded)."""
    monkeypatch.setenv("HOOK_SECRET", "shared")

    def run(work, *statuses, pauses=(0.01, 0.01), path="/hook", secret="HOOK_SECRET", events=("approval.requested",)):
        recorded: list[tuple[str, dict]] = []

        async def go():
            receiver = Receiver(*statuses)
            server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
            async with server:
                url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
                config = NotifyConfig(url=url, secret=SecretRef(provider="env", name=secret), events=events)
                record = lambda kind, payload: recorded.append((kind, dict(payload)))  # noqa: E731
                hooks = Webhooks([config], record, gateway="g1", pauses=pauses)
                await hooks.start()
                await work(hooks, receiver)
                await hooks.stop()
                assert len(asyncio.all_tasks()) == 1 + sum("serve" in str(task) for task in asyncio.all_tasks())
                receiver.hang.set()
            return receiver

        return asyncio.run(go()), recorded

    return run


async def send_one(hooks, receiver):
    hooks.send("approval.requested", {"id": "abc", "text": "DROP TABLE orders"})


def test_a_delivery_is_signed_and_says_what_happened(deliver):
    receiver, recorded = deliver(send_one)
    [(headers, body)] = receiver.deliveries
    document = json.loads(body)
    assert document["event"] == "approval.requested"
    assert document["gateway"] == "g1"
    assert document["data"] == {"id": "abc", "text": "DROP TABLE orders"}
    assert headers["sluicegate-delivery"] == document["id"]
    header = headers["sluicegate-signature"]
    assert belongs(SECRET, header, body, time.time())
    assert not belongs(SECRET, header, body + b" ", time.time())
    assert not belongs(Secret("other"), header, body, time.time())
    assert not belongs(SECRET, header, body, time.time() + 301)
    assert recorded == []


def test_the_signature_binds_the_time():
    header = sign(SECRET, b"{}", 1000)
    assert belongs(SECRET, header, b"{}", 1000)
    assert not belongs(SECRET, header.replace("t=1000", "t=1001"), b"{}", 1000)


def test_a_failing_receiver_is_tried_again_with_the_same_delivery(deliver):
    async def work(hooks, receiver):
        await send_one(hooks, receiver)

    receiver, recorded = deliver(work, 500, 429, 204)
    assert len(receiver.deliveries) == 3
    assert len({headers["sluicegate-delivery"] for headers, _ in receiver.deliveries}) == 1
    assert recorded == []


def test_a_receiver_that_never_recovers_is_recorded(deliver):
    _, recorded = deliver(send_one, 503)
    [(kind, facts)] = recorded
    assert kind == "notify.failed"
    assert facts["attempts"] == 3
    assert facts["why"] == "status 503"
    assert facts["host"] == "127.0.0.1"


def test_a_refusal_is_not_repeated(deliver):
    receiver, recorded = deliver(send_one, 410)
    assert len(receiver.deliveries) == 1
    assert recorded[0][1]["why"] == "status 410"


def test_the_path_of_a_hook_is_never_recorded(deliver, caplog):
    _, recorded = deliver(send_one, 410, path="/services/T0/B0/pa55")
    assert "pa55" not in str(recorded) + caplog.text


def test_a_secret_that_is_missing_sends_nothing(deliver):
    receiver, recorded = deliver(send_one, secret="NO_SUCH_SECRET")
    assert receiver.deliveries == []
    assert "NO_SUCH_SECRET" in recorded[0][1]["why"]


def test_only_wanted_events_are_sent(deliver):
    async def work(hooks, receiver):
        hooks.send("alert", {})
        hooks.send("approval.decided", {})

    receiver, _ = deliver(work, events=("alert",))
    assert [json.loads(body)["event"] for _, body in receiver.deliveries] == ["alert"]


def test_a_receiver_that_hangs_blocks_nobody_and_the_queue_is_bounded(deliver):
    async def work(hooks, receiver):
        receiver.hang.clear()
        for number in range(QUEUE_SIZE + 500):
            hooks.send("approval.requested", {"n": number})
            if number == 0:
                while not receiver.deliveries:
                    await asyncio.sleep(0.001)
        await hooks.stop(grace=0.01)

    receiver, recorded = deliver(work)
    assert len(receiver.deliveries) == 1
    full = [facts for _, facts in recorded if "wait already" in facts["why"]]
    assert len(full) == 1
    assert len(recorded) == 1 + 1 + QUEUE_SIZE  # dropped (once), the one under way, and all that were queued


def test_a_flood_of_requests_keeps_no_alert_and_no_containment_from_arriving(deliver):
    async def work(hooks, receiver):
        for number in range(QUEUE_SIZE + 10):
            hooks.send("approval.requested", {"n": number})
        hooks.send("alert", {"alert": "bulk read"})
        hooks.send("containment", {"act": "contain"})
        deadline = time.monotonic() + 5
        while len(told(receiver)) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert len(receiver.deliveries) < 50  # they overtake what waits
        await hooks.stop(grace=0.01)

    def told(receiver):
        events = [json.loads(body)["event"] for _, body in receiver.deliveries]
        return [event for event in events if not event.startswith("approval.")]

    receiver, recorded = deliver(work, events=("approval.requested", "alert", "containment"))
    assert told(receiver) == ["alert", "containment"]
    assert {facts["event"] for _, facts in recorded} == {"approval.requested"}


def test_data_that_is_no_json_is_logged_and_not_raised(deliver, caplog):
    async def work(hooks, receiver):
        hooks.send("approval.requested", {"x": object()})

    receiver, _ = deliver(work)
    assert receiver.deliveries == []
    assert "cannot be sent" in caplog.text


def test_a_record_that_fails_does_not_stop_the_deliveries(monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", "shared")

    def broken(kind, payload):
        raise OSError("no space left on device")

    async def go():
        receiver = Receiver(410, 200)
        server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            config = NotifyConfig(url=url, secret=SecretRef(provider="env", name="HOOK_SECRET"))
            hooks = Webhooks([config], broken)
            await hooks.start()
            await send_one(hooks, receiver)
            await send_one(hooks, receiver)
            await hooks.stop()
        return receiver

    assert len(asyncio.run(go()).deliveries) == 2
