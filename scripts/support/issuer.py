"""A local OIDC issuer: a real HTTPS server in its own process, and signed tokens for anyone we name.

The private keys stay in our memory; the server process only serves the discovery document and the public keys.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from scripts.support.process import Process, wait_until
from scripts.support.tls import Authority

AUDIENCE = "sluicegate"
ALGORITHMS = ("RS256", "ES256")
_ROOT = Path(__file__).resolve().parents[2]

type PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Issuer:
    """A running issuer. `url` is its `iss`; `ca_file` verifies its certificate. Raises StartError."""

    def __init__(self, authority: Authority | None = None, *, audience: str = AUDIENCE) -> None:
        self.audience = audience
        self.folder = Path(tempfile.mkdtemp(prefix="sgissuer-"))
        self._documents = self.folder / "documents"
        self._documents.mkdir()
        try:
            authority = authority or Authority(self.folder)
            self.ca_file = authority.file
            pair = authority.server(f"issuer-{self.folder.name}")
            shutil.copyfile(pair.certificate, self.folder / "server.pem")
            shutil.copyfile(pair.key, self.folder / "server.key")
            (self.folder / "server.key").chmod(0o600)
            self.behave()
            self.rotate()
            self.process = Process(
                [sys.executable, "-m", "scripts.support.issuer_server", self.folder],
                log=self.folder / "issuer.log",
                name="the local issuer",
                cwd=_ROOT,
                remove=(self.folder,),
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        try:
            address = self.folder / "address"
            wait_until(
                address.exists, 15.0, what="the local issuer", alive=lambda: self.process.running, log=self.process.log
            )
            self.url = f"https://{address.read_text()}"
            self._publish(
                ".well-known/openid-configuration",
                {
                    "issuer": self.url,
                    "jwks_uri": f"{self.url}/jwks",
                    "authorization_endpoint": f"{self.url}/authorize",
                    "token_endpoint": f"{self.url}/token",
                    "response_types_supported": ["code"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": list(ALGORITHMS),
                },
            )
        except BaseException:
            self.stop()
            raise

    def token(
        self,
        subject: str,
        groups: Iterable[str] = (),
        *,
        ttl: float = 3600.0,
        algorithm: str = "RS256",
        headers: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A token for `subject` that expires `ttl` seconds from now (a negative ttl: long ago).

        `claims` are added and replace the usual ones; a claim given as None is left out, to test what happens then.
        """
        now = int(time.time())
        issued = min(now, int(now + ttl) - 60)
        payload = {
            "iss": self.url,
            "aud": self.audience,
            "sub": subject,
            "groups": list(groups),
            "iat": issued,
            "nbf": issued,
            "exp": int(now + ttl),
            "jti": secrets.token_hex(8),
            **claims,
        }
        payload = {name: value for name, value in payload.items() if value is not None}
        kid, key = self._keys[algorithm]
        return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": kid, **(headers or {})})

    def rotate(self, *, keep_old: bool = False) -> None:
        """Sign with new keys from now on; `keep_old` still publishes those before."""
        self._keys: dict[str, tuple[str, PrivateKey]] = {
            "RS256": (secrets.token_hex(4), rsa.generate_private_key(public_exponent=65537, key_size=2048)),
            "ES256": (secrets.token_hex(4), ec.generate_private_key(ec.SECP256R1())),
        }
        published = [self._jwk(name) for name in ALGORITHMS]
        if keep_old:
            published += json.loads((self._documents / "jwks").read_bytes())["keys"]
        self._publish("jwks", {"keys": published})

    def behave(self, *, status: int = 200, delay: float = 0.0) -> None:
        """Answer every request with `status`, after `delay` seconds; without arguments: well."""
        self._write(self.folder / "behaviour.json", {"status": status, "delay": delay})

    def requests(self) -> list[str]:
        """The paths requested so far, oldest first."""
        log = self.folder / "requests.log"
        return log.read_text().splitlines() if log.exists() else []

    def stop(self) -> None:
        """End the server and remove its folder. May be called again."""
        self.process.stop()

    def _jwk(self, algorithm: str) -> dict[str, Any]:
        kid, key = self._keys[algorithm]
        kind = jwt.algorithms.RSAAlgorithm if algorithm.startswith("RS") else jwt.algorithms.ECAlgorithm
        public: dict[str, Any] = json.loads(kind.to_jwk(key.public_key()))  # type: ignore[arg-type]  # the key fits
        return {**public, "kid": kid, "use": "sig", "alg": algorithm}

    def _publish(self, path: str, document: dict[str, Any]) -> None:
        self._write(self._documents / path.replace("/", "~"), document)

    @staticmethod
    def _write(path: Path, document: dict[str, Any]) -> None:
        partial = path.with_name(f"{path.name}.new")
        partial.write_text(json.dumps(document))
        partial.replace(path)  # the server reads at any time: never a half-written document

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
