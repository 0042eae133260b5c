"""What a stock client needs to come through the gateway: a kubeconfig, and the answer of its exec plugin.

Source: Kubernetes' reference, "client-go credential plugins" and "kubeconfig (v1)".
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML

API_VERSION = "client.authentication.k8s.io/v1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,99}\Z")
_SERVER = re.compile(r"https://[A-Za-z0-9.\[\]:-]+(?:/[A-Za-z0-9._~/-]*)?\Z")


def kubeconfig(
    name: str,
    server: str,
    certificate_authority: bytes,
    *,
    token: str = "",
    command: Sequence[str] = ("sluicegate", "exec-credential"),
    namespace: str = "",
) -> str:
    """A kubeconfig (YAML) with one cluster, user and context, all called `name`.

    Without a `token` the client runs `command` for one, each time the last has expired: nothing secret is in the file.
    `certificate_authority` is PEM. Raises ValueError for what would make another file of it.
    """
    if not _NAME.match(name):
        raise ValueError("the name must be letters, digits and `_.@:-`")
    if not _SERVER.match(server):
        raise ValueError("the server must be an https:// address")
    if b"-----BEGIN CERTIFICATE-----" not in certificate_authority:
        raise ValueError("the certificate authority is not pem")
    user: dict[str, Any] = {"token": token} if token else {"exec": _plugin(command)}
    context = {"cluster": name, "user": name} | ({"namespace": namespace} if namespace else {})
    authority = base64.b64encode(certificate_authority).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 1 << 30  # one line for the certificate
    yaml.dump(document, out)
    return out.getvalue()


def _plugin(command: Sequence[str]) -> dict[str, Any]:
    if not command or not all(isinstance(part, str) and part for part in command):
        raise ValueError("the plugin's command is empty")
    return {
        "apiVersion": API_VERSION,
        "command": command[0],
        "args": list(command[1:]),
        "interactiveMode": "IfAvailable",
        "provideClusterInfo": False,
        "installHint": "install sluicegate, then run `sluicegate exec-credential` once to see that it works",
    }


def exec_credential(token: str, expires_at: float | None = None, exec_info: str = "") -> str:
    """What the plugin prints. `expires_at` (epoch seconds): the client then keeps the token that long, and asks again.

    `exec_info` is the environment's KUBERNETES_EXEC_INFO: it names the version that the client speaks. Raises
    ValueError where that is another one, or the token is one that no header can carry.
    """
    if exec_info:
        try:
            asked = json.loads(exec_info)
        except ValueError:
            raise ValueError("KUBERNETES_EXEC_INFO is not json") from None
        version = asked.get("apiVersion") if isinstance(asked, dict) else None
        if version != API_VERSION:
            raise ValueError(f"the client asks for another version than {API_VERSION}: write a new kubeconfig")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("there is no token that could be sent")
    status = {"token": token}
    if expires_at is not None:
        moment = datetime.datetime.fromtimestamp(int(expires_at), datetime.UTC)
        status["expirationTimestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"apiVersion": API_VERSION, "kind": "ExecCredential", "status": status})
