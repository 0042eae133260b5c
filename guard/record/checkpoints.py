"""Signing and reading checkpoints: the payload of a checkpoint record, and of `head.json` beside the segments.

The head file repeats the newest checkpoint *after* the journal up to there is on disk. A journal that is shorter than
its head was cut. Keep a copy of it elsewhere to prove that to somebody who does not trust this machine.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from guard.record.format import Checkpoint
from guard.record.keys import key_id

KIND = "checkpoint"


class Signed(NamedTuple):
    checkpoint: Checkpoint
    key: str
    signature: bytes


class Signer:
    """Ed25519 over `Checkpoint.message()`; some 70 us each."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key()
        self.key_id = key_id(self.public)

    def sign(self, checkpoint: Checkpoint, at: int) -> bytes:
        """The JSON payload of a checkpoint made at `at` (ns)."""
        return orjson.dumps(
            {
                "t": KIND,
                "at": at,
                "journal": checkpoint.journal_id.hex(),
                "segment": checkpoint.segment,
                "seq": checkpoint.seq,
                "chain": checkpoint.chain.hex(),
                "tree_size": checkpoint.tree_size,
                "root": checkpoint.root.hex(),
                "final": checkpoint.final,
                "key": self.key_id,
                "sig": self._key.sign(checkpoint.message()).hex(),
            }
        )


def parse(payload: bytes) -> Signed:
    """Raises ValueError for anything that is not exactly a checkpoint's JSON. The signature is not checked here."""
    try:
        data = orjson.loads(payload)
        checkpoint = Checkpoint(
            journal_id=bytes.fromhex(data["journal"]),
            segment=_natural(data["segment"], 2**32),
            seq=_natural(data["seq"], 2**64),
            chain=bytes.fromhex(data["chain"]),
            tree_size=_natural(data["tree_size"], 2**64),
            root=bytes.fromhex(data["root"]),
            final=data["final"],
        )
        signed = Signed(checkpoint, data["key"], bytes.fromhex(data["sig"]))
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError("not a checkpoint") from error
    sizes = (len(checkpoint.journal_id), len(checkpoint.chain), len(checkpoint.root))
    if sizes != (16, 32, 32) or not isinstance(checkpoint.final, bool) or not isinstance(signed.key, str):
        raise ValueError("not a checkpoint")
    return signed


def is_genuine(signed: Signed, key: Ed25519PublicKey) -> bool:
    if signed.key != key_id(key):
        return False
    try:
        key.verify(signed.signature, signed.checkpoint.message())
    except InvalidSignature:
        return False
    return True


def _natural(value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError("not a checkpoint")
    return value
