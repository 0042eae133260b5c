"""A gateway whose control socket is for a group: people approve as themselves, and read none of the gateway's files."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scripts.support.lab import Lab
from tests.support.journal import await_records
from tests.support.other_user import NOBODY, another_user, as_root, ask

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    place = Path(tempfile.mkdtemp(prefix="sluicegate-run-"))
    place.chmod(0o755)
    mine = os.getgroups() if os.geteuid() else [g.gr_gid for g in grp.getgrall()]
    group = next((g for g in grp.getgrall() if g.gr_gid in mine and g.gr_gid not in (0, NOBODY)), None)
    if group is None:
        pytest.skip("this machine has no group to try it with")

    def adjust(document: dict[str, Any]) -> None:
        document["control"] = {"path": str(place / "control" / "control.sock"), "group": group.gr_name}
        document["issuers"][0]["require"] = {"groups": ["platform", "security", "agents"]}

    try:
        with Lab(tls="off", adjust=adjust) as running:
            running.gateway.socket = place / "control" / "control.sock"
            yield running
    finally:
        shutil.rmtree(place)


def test_the_command_line_finds_it_in_the_configuration(lab: Lab) -> None:
    done = lab.gateway.cli("whoami", token=lab.tokens["admin"], env={"SLUICEGATE_SOCKET": ""})
    assert done.returncode == 0, done.stderr
    assert not (lab.gateway.state_dir / "control.sock").exists()
    assert stat.S_IMODE(lab.gateway.socket.stat().st_mode) == 0o660


def test_status_says_how_each_issuer_is(lab: Lab) -> None:
    (row,) = lab.gateway.ask("status", token=lab.tokens["admin"])["issuers"]
    assert (row["issuer"], row["error"]) == (lab.issuer.url, None)
    assert row["keys_age"] >= 0
    assert row["usable_until"] > row["read_at"]
    shown = lab.gateway.cli("status", token=lab.tokens["admin"]).stdout
    assert f"{lab.issuer.url}: keys read" in " ".join(shown.split())


def test_a_token_without_what_is_required_opens_nothing_and_is_on_record(lab: Lab) -> None:
    stranger = lab.issuer.token("stranger", ["top-secret-project"])
    with pytest.raises(psycopg.OperationalError, match="claim `groups` is not one that this gateway accepts"):
        psycopg.connect(lab.gateway.dsn("stranger", stranger))
    done = lab.gateway.cli("whoami", token=stranger)
    assert (done.returncode, "claim `groups`" in done.stderr) == (1, True)
    (refused,) = await_records(
        lab.gateway.state_dir, lambda r: r["t"] == "session.refused" and r["subject"] == "stranger"
    )
    assert "`groups`" in refused["why"]
    assert "top-secret-project" not in str(refused) + lab.gateway.log.read_text()
    with psycopg.connect(lab.dsn("agent")) as known:
        assert known.execute("SELECT 1").fetchone() == (1,)


@as_root
def test_another_user_acts_with_a_token_of_its_own_and_with_nothing_else(lab: Lab) -> None:
    group = lab.gateway.socket.stat().st_gid
    socket = lab.gateway.socket
    (answer,) = ask(socket, [group], lab.issuer.token("rita", ["security"]), "contain", subject="stray", reason="odd")
    assert answer["result"]["contained"] is True
    (act,) = await_records(lab.gateway.state_dir, lambda r: r["t"] == "admin.act" and r["by"] == "rita")
    assert act["peer"]["uid"] == NOBODY
    (answer,) = ask(socket, [group], lab.issuer.token("agent", ["agents"]), "contain", subject="rita", reason="odd")
    assert answer["error"]["code"] == "forbidden"
    (answer,) = ask(socket, [group], "", "contain", subject="rita", reason="odd")
    assert answer["error"]["code"] == "unauthenticated"
    assert ask(socket, [], lab.issuer.token("rita", ["security"]), "whoami") == [{"failed": "PermissionError"}]
    # also where the folders around it would let people pass
    lab.folder.chmod(0o755)
    state = lab.gateway.state_dir
    for path in ("keys/journal.key", "keys/mask.key", "ca/ca.key", "state.db", "journal/head.json"):
        assert (state / path).exists(), path
        tried = another_user("import sys; open(sys.argv[1], 'rb')", str(state / path), groups=[group])
        assert "PermissionError" in tried.stderr
