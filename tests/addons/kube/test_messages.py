"""WebSocket messages of exec and port-forward: how much of one is waited for."""

from __future__ import annotations

import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from addons.kube.streams import Messages
from addons.web.port import Ended
from protocols.kubernetes.channels import MAX_MESSAGE


@pytest.mark.parametrize("from_client", [True, False])
def test_a_message_that_is_searched_in_one_piece_is_bounded(from_client: bool) -> None:
    frames = FrameProtocol(client=from_client, extensions=[])
    messages = Messages(from_client=from_client)
    largest = b"\x00" + b"x" * (MAX_MESSAGE - 1)
    [(opcode, payload, _)] = messages.feed(bytes(frames.send_data(largest, fin=True)))
    assert (opcode, payload) == (Opcode.BINARY, largest)
    for _ in range(3):  # in frames that never end
        messages.feed(bytes(frames.send_data(b"x" * (MAX_MESSAGE // 4), fin=False)))
    with pytest.raises(Ended, match="larger than"):
        messages.feed(bytes(frames.send_data(b"x" * (MAX_MESSAGE // 2), fin=False)))
