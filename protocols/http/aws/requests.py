"""What a request of AWS' software carries for its own signature: taken off, since the gateway signs itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from protocols.http.aws.chunked import FORMS, Chunks
from protocols.http.aws.sigv4 import AS_IT_IS
from protocols.http.headers import folded, media_type
from protocols.http.targets import BadTarget

Field = tuple[bytes, bytes]

# one who signs says these; `date` is what a signature is checked by where there is no `x-amz-date`
_OF_A_SIGNATURE = frozenset(
    {"date", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token", "x-amz-s3session-token"}
    | {"x-amz-region-set", "x-amz-algorithm", "x-amz-credential", "x-amz-signature", "x-amz-signedheaders"}
    | {"x-amz-expires", "x-amz-decoded-content-length", "x-amz-trailer", "x-amz-trailer-signature"}
    # of a client's attempts: another one each time, so that no request would be the one that was approved
    | {"amz-sdk-invocation-id", "amz-sdk-request"}
)
_PRESIGNED = frozenset(
    {"x-amz-algorithm", "x-amz-credential", "x-amz-signature", "x-amz-signedheaders", "x-amz-security-token"}
    | {"x-amz-s3session-token", "x-amz-expires", "x-amz-date", "x-amz-content-sha256", "awsaccesskeyid"}
)
_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Signed:
    """What was said of a signature and of the body under it. `payload`: `x-amz-content-sha256`, as it came."""

    scheme: bool = False  # it has an `Authorization` as AWS' software makes it
    token: str = ""
    payload: str = ""
    decoded_length: str = ""
    coding: str = ""

    @property
    def digest(self) -> str:
        """The SHA-256 of the body that the client has promised; empty: none."""
        return self.payload if _DIGEST.match(self.payload) else ""

    def chunks(self) -> Chunks | None:
        """What takes the body apart; None: it comes as it is. Raises BadTarget."""
        if not self.payload.startswith("STREAMING-"):
            if "aws-chunked" in _codings(self.coding):
                raise BadTarget("a body in aws-chunked without its x-amz-content-sha256")
            return None
        if self.payload not in FORMS:
            raise BadTarget("a body that is signed in a way that this gateway does not know; send it unsigned")
        if not _LENGTH.match(self.decoded_length):
            raise BadTarget("a body in aws-chunked without its x-amz-decoded-content-length")
        return Chunks(int(self.decoded_length), trailer=FORMS[self.payload])

    def without_chunks(self) -> str:
        """`content-encoding` once the chunks are gone; empty: there is none."""
        return ", ".join(name for name in _codings(self.coding) if name != "aws-chunked")


def _codings(value: str) -> list[str]:
    return [name.strip().lower() for name in value.split(",") if name.strip()]


def take_off(fields: Iterable[Field]) -> tuple[tuple[Field, ...], Signed]:
    """The fields without those of a signature, and what these said."""
    kept: list[Field] = []
    said: dict[str, str] = {}
    for field in fields:
        name, value = folded(field[0].decode("latin-1")), field[1].decode("utf-8", "surrogateescape").strip()
        if name not in _OF_A_SIGNATURE:
            kept.append(field)
        if name not in said:
            said[name] = value
        elif name in ("authorization", "x-amz-security-token"):
            said[name] += f", {value}"  # two of them are no token
    scheme = said.get("authorization", "").partition(" ")[0].upper()
    return tuple(kept), Signed(
        scheme == "AWS" or scheme.startswith("AWS4-"),
        said.get("x-amz-security-token", ""),
        said.get("x-amz-content-sha256", ""),
        said.get("x-amz-decoded-content-length", ""),
        said.get("content-encoding", ""),
    )


def refuse_other_signatures(service: str, method: str, content_type: str, query: Iterable[tuple[str, str]]) -> None:
    """Raises BadTarget for a request that carries a signature where none can be taken off: in its query, in a form."""
    if any(name.strip().lower() in _PRESIGNED for name, _ in query):
        raise BadTarget(
            "a presigned URL: this gateway signs requests itself; send it without the X-Amz- parameters, with a token "
            "of your own"
        )
    if service in AS_IT_IS and method == "POST" and media_type(content_type) == "multipart/form-data":
        raise BadTarget("a form upload carries a signature of its own: upload with PUT")
