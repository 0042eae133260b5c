"""The commands against a real control socket; the evidence behind it is given."""

from __future__ import annotations

import io
import json
import socket

import pytest
from rich.console import Console

from guard.control.wire import ControlError
from guard.state.approvals import ApprovalStatus
from protocols.contract import Analysis, Effect, HoldTerms, Principal, Resource
from scripts import cli, control_commands, control_display, terminal
from scripts.player import Player, outcome
from tests.guard.control.conftest import NOW, Gateway

AGENT = Principal("agent-7", "https://idp", frozenset({"agents"}), expires_at=NOW + 3600)
EVIL = "SELECT 1 \x1b]0;owned\x07\u202e"
SESSION = {
    "session": "s1",
    "subject": "agent-7",
    "issuer": "https://idp",
    "groups": ["agents"],
    "resource": "shop",
    "protocol": "postgres",
    "client": "10.0.0.7:5000",
    "application": "psql \x1b[31m",
    "token_id": "t1",
    "started_at": NOW - 60,
    "ended_at": None,
    "live": True,
    "commands": 3,
    "denied": 1,
}
READ = {
    "session": "s1",
    "n": 1,
    "at": NOW - 50,
    "subject": "agent-7",
    "resource": "shop",
    "kind": "select",
    "text": "select email, card from customers where id = $1",
    "params": ["7", None],
    "effects": ["data.select"],
    "reads": ["public.customers"],
    "writes": [],
    "decision": "allow",
    "rule": "analysts-read",
    "why": "",
    "approval": None,
    "status": "ok",
    "tag": "SELECT 5",
    "rows": 5,
    "us": 1500,
    "masked": ["card", "email"],
}
DENIED = READ | {
    "n": 2,
    "at": NOW - 40,
    "text": EVIL,
    "params": [],
    "reads": [],
    "writes": ["public.orders"],
    "decision": "deny",
    "rule": "no-ddl",
    "why": "denied by rule `no-ddl`\x1b[2J",
    "tag": None,
    "status": "error",
    "sqlstate": "42501",
    "rows": None,
    "masked": [],
}

REFUSED = {
    "at": NOW - 30,
    "kind": "session.refused",
    "client": "10.0.0.9",
    "subject": "",
    "claimed_user": "stranger\x1b[2J",
    "listener": "shop-db",
    "resource": "shop",
    "why": "authentication failed: this is not a token",
}


class Evidence:
    """Answers as `guard.control.evidence.Evidence` does, and notes what it was asked."""

    def __init__(self):
        self.asked: list[dict] = []

    def _note(self, params):
        self.asked.append(dict(params._left))
        return self.asked[-1]

    async def sessions(self, params, live):
        return [SESSION] if self._note(params).get("subject") in (None, "agent-7") else []

    async def show(self, params, live):
        if self._note(params)["session"] != "s1":
            raise ControlError("not_found", "there is no session `nope`")
        return {"session": SESSION, "commands": [READ, DENIED], "next": 99}

    async def search(self, params):
        return [DENIED, READ] if self._note(params).get("subject") in (None, "agent-7") else []

    async def incident(self, params, live):
        subject = self._note(params)["subject"]
        if subject != "agent-7":
            refused = [REFUSED] if subject == "stranger" else []
            return {"subject": subject, "summary": {}, "sessions": [], "not_allowed": [], "refused": refused}
        summary = {
            "relations": [
                {"relation": "public.customers", "access": "read", "commands": 1, "stopped": 0},
                {"relation": "public.orders", "access": "write", "commands": 1, "stopped": 1},
            ],
            "rules": [{"rule": "analysts-read", "decision": "allow", "commands": 1}],
            "rows": 5,
            "bytes": 900,
            "masked": ["card", "email"],
            "first_at": NOW - 50,
            "last_at": NOW - 40,
        }
        shown = {"sessions": [SESSION], "not_allowed": [DENIED], "refused": [{**REFUSED, "subject": subject}]}
        return {"subject": subject, "summary": summary, **shown}

    async def refusals(self, params):
        return [REFUSED] if self._note(params).get("subject") in (None, "stranger") else []

    async def replay(self, params):
        after = self._note(params).get("after")
        if after is None:
            return {
                "session": "s1",
                "events": [{"kind": "session.start", "at_ms": 0, "text": "agent-7 on shop"}],
                "next": 7,
            }
        return {
            "session": "s1",
            "events": [
                {**READ, "kind": "command", "at_ms": 1500},
                {
                    **READ,
                    "kind": "response",
                    "at_ms": 1800,
                    "lines": ["email | card", "[redacted]\x1b[2J | 4111"],
                    "truncated": True,
                },
                {**DENIED, "kind": "command", "at_ms": 90_000},
            ],
            "next": None,
        }


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    made = Gateway(tmp_path, Evidence()).start()
    monkeypatch.setenv("SLUICEGATE_SOCKET", str(made.path))
    monkeypatch.delenv("SLUICEGATE_CONFIG", raising=False)
    yield made
    made.close()


@pytest.fixture
def run(gateway, capsys, monkeypatch):
    def go(who, *arguments, code=0):
        monkeypatch.setenv("SLUICEGATE_TOKEN", f"tok-{who}")
        assert cli.main(list(arguments)) == code
        out, err = capsys.readouterr()
        for shown in (out, err):
            assert all(char.isprintable() or char == "\n" for char in shown), "raw control characters on the terminal"
        return out + err

    return go


@pytest.fixture
def held(gateway):
    analysis = Analysis(kind="drop table", effects=frozenset({Effect.DDL_DROP}), writes=("public.orders",))
    terms = HoldTerms(frozenset({"oncall"}), count=1)
    text = "DROP TABLE   orders --\x1b[2J hidden\n"
    return gateway.run(
        gateway.book.request(
            "s1", AGENT, Resource("shop", "postgres"), terms, text, b"d" * 32, analysis, "hold-ddl", ("a",)
        )
    )


def test_status_whoami_reload(run):
    assert "version" in run("platform", "status")
    assert json.loads(run("platform", "status", "--json"))["version"] == "0.1.0"
    assert "approver" in run("oncall", "whoami")
    assert "v2" in run("platform", "reload")


def test_sessions(run, gateway):
    shown = run("audit", "sessions", "--live", "--resource", "shop")
    assert "agent-7" in shown
    assert "live" in shown
    asked = gateway.handlers._evidence.asked[-1]
    assert asked == {"live": True, "resource": "shop", "limit": 100}
    assert json.loads(run("audit", "sessions", "--json"))[0]["session"] == "s1"
    assert "no sessions" in run("audit", "sessions", "--subject", "nobody")


def test_show_lays_statements_out_and_defuses_them(run):
    shown = run("audit", "show", "s1")
    assert "select email,\n       card\nfrom customers" in shown
    assert "masked: card, email" in shown
    assert "\\x1b" in shown
    assert "--after 99" in shown
    assert "sqlstate 42501" in shown
    assert "'7', NULL" in shown
    assert "no session" in run("audit", "show", "nope", code=1)


def test_search(run, gateway):
    shown = run(
        "audit", "search", "--relation", "public.customers", "--decision", "deny", "--since", "2h", "--text", "x"
    )
    assert "no-ddl" in shown
    asked = gateway.handlers._evidence.asked[-1]
    assert asked.keys() == {"relation", "decision", "since", "text", "limit"}
    assert len(json.loads(run("audit", "search", "--json"))) == 2
    assert "no commands match" in run("audit", "search", "--subject", "nobody")
    assert "no time" in run("audit", "search", "--since", "yesterday", code=2)


def test_a_misspelt_effect_is_no_empty_answer(run):
    assert "there is no effect `data.delet`: did you mean data.delete" in run(
        "audit", "search", "--effect", "data.delet", code=2
    )
    refused = json.loads(run("audit", "search", "--effect", "nonsense-of-mine", "--json", code=2))
    assert "docs/reference/policy.md" in refused["error"]["message"]
    for known in ("data.delete", "ddl.*", "unknown"):
        run("audit", "search", "--effect", known)


@pytest.mark.parametrize("command", ["search", "sessions", "approvals list", "incident"])
@pytest.mark.parametrize("number", ["0", "-1", "x", "\u0663"])
def test_a_limit_is_a_number_of_rows(capsys, command, number):
    with pytest.raises(SystemExit) as left:
        cli.main([*command.split(), "--limit", number])
    assert left.value.code == cli.EXIT_USAGE
    assert "greater than 0" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["search"], ["sessions"], ["search", "--refused"], ["incident", "agent-7"]])
def test_what_a_limit_cuts_off_is_said(run, words):
    assert "--limit takes a larger number" in run("audit", *words, "--limit", "1")
    assert "--limit" not in run("audit", *words, "--limit", "5")
    shown = run("audit", *words, "--limit", "1", "--json")
    assert json.loads(shown.splitlines()[0])  # the answer itself stays one line of JSON


def test_replay(run):
    shown = run("audit", "replay", "s1", "--instant")
    assert "+00:01.500 allow by analysts-read" in shown
    assert "[redacted]\\x1b[2J | 4111" in shown
    assert "+01:30.000 deny by no-ddl" in shown
    assert "keeps no more" in shown
    events = [json.loads(line) for line in run("audit", "replay", "s1", "--json").splitlines()]
    assert [event["kind"] for event in events] == ["session.start", "command", "response", "command"]


def test_replay_keeps_the_recorded_pauses(capsys):
    pauses: list[float] = []
    player = Player(speed=2.0, max_pause=3.0, json=False, sleep=pauses.append)
    for page in (
        {"events": [{"kind": "session.start", "at_ms": 0}, {"kind": "note", "at_ms": 1000}]},
        {
            "events": [
                {"kind": "note", "at_ms": 1500},
                {"kind": "note", "at_ms": 1400},
                {"kind": "note", "at_ms": 99_000},
            ]
        },
    ):
        player.play(page)
    assert pauses == [0.5, 0.25, 3.0]
    assert "note" in capsys.readouterr().out


def test_incident(run):
    shown = run("security", "incident", "agent-7")
    for part in (
        "who issued the commands",
        "what data was accessed",
        "did it comply",
        "public.customers",
        "card, email",
        "no-ddl",
        "1 live session",
        "sluicegate contain agent-7",
    ):
        assert part in shown
    assert json.loads(run("security", "incident", "agent-7", "--json"))["summary"]["rows"] == 5
    [touched] = [line for line in shown.splitlines() if line.startswith("public.orders")]
    assert touched.split() == ["public.orders", "write", "0", "1"], "what was refused is not what was accessed"
    refused = shown[shown.index("logins that were refused") :]
    assert "agent-7" in refused.splitlines()[2]
    assert "this is not a token" in refused.splitlines()[2]
    nobody = run("security", "incident", "nobody")
    assert "no session of this identity" in nobody
    assert "refused" not in nobody
    stranger = run("security", "incident", "stranger")
    assert "no session of this identity" in stranger
    assert "claims stranger\\x1b[2J" in stranger, "nothing proves it"
    run("security", "contain", "agent-7", "--reason", "leak")
    assert "contained" in run("security", "incident", "agent-7").splitlines()[0]


def test_refused_logins_are_found(run, gateway):
    assert "claims stranger\\x1b[2J" in run("audit", "search", "--refused")
    assert "nobody was refused" in run("audit", "search", "--refused", "--subject", "alice")
    asked = json.loads(run("audit", "search", "--refused", "--resource", "shop", "--since", "1h", "--json"))
    assert asked == [REFUSED]
    filters = gateway.handlers._evidence.asked[-1]
    assert filters.keys() == {"resource", "since", "limit"}
    wrong = run("audit", "search", "--refused", "--text", "x", "--rule", "y", code=2)
    assert "--rule, --text: a refused login has none" in wrong


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tag": "1 rows", "rows": 1, "us": 2200}, "1 row, 2.2 ms"),
        ({"tag": "240 rows", "rows": 240}, "240 rows"),
        ({"tag": "SELECT 5", "rows": 5}, "SELECT 5"),
        ({"tag": "OK, 0 affected", "rows": 0}, "OK, 0 affected"),
        ({"tag": "OK, 3 affected (Rows matched: 3)", "rows": 3}, "OK, 3 affected (Rows matched: 3)"),
        ({"status": "error", "sqlstate": "42S02", "rows": 0}, "error, sqlstate 42S02"),
        ({"status": "suspended", "rows": 1}, "suspended, 1 row"),
        ({"rows": None}, "no response"),
    ],
)
def test_an_outcome_counts_its_rows_once(row, said):
    assert outcome(row) == said


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_what_is_copied_is_on_one_line_however_narrow_the_terminal_is(run, monkeypatch, columns):
    class Narrow(Console):
        def __init__(self, **options):
            super().__init__(**{**options, "width": columns})

    monkeypatch.setattr(terminal, "Console", Narrow)
    for words in (["search"], ["sessions"], ["incident", "agent-7"], ["search", "--refused"]):
        lines = run("security", *words).splitlines()
        assert all(len(line) <= columns for line in lines), lines
        whole = "10.0.0.9" if "--refused" in words else "https://idp" if "incident" in words else "s1"
        assert any(whole in line for line in lines)
        if words == ["search"]:
            assert any("2027-01-15" in line[:10] for line in lines), lines
            assert any("analysts-read" in line for line in lines), lines


def test_what_is_folded_on_a_narrow_terminal_stays_under_its_row(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    text = f"DELETE FROM orders WHERE id IN ({'123,' * 20}0)"
    control_display.commands([{"at": 1.8e9, "session": "s1", "n": 1, "decision": "deny", "text": text}])
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("20")
    assert len(others) > 1
    assert all(line.startswith("    ") for line in others), others


def test_approvals(run, held, gateway):
    assert held.id in run("oncall", "approvals", "list")
    shown = run("oncall", "approvals", "show", held.id)
    assert "DROP TABLE   orders --\\x1b[2J hidden" in shown, "the exact text, spaces and all"
    assert "$1 = 'a'" in shown
    assert "reason" in run("oncall", "approvals", "deny", held.id, "--reason", " ", code=2)
    assert "is approved" in run("oncall", "approvals", "approve", held.id, "--reason", "ticket 7")
    assert "already approved" in run("oncall", "approvals", "deny", held.id, "--reason", "no", code=1)
    assert "nothing waits" in run("oncall", "approvals", "list")
    assert json.loads(run("oncall", "approvals", "list", "--status", "all", "--json"))[0]["status"] == "approved"


def test_an_approver_is_told_in_which_database_and_what_is_not_proved(run, gateway, held):
    plain = run("oncall", "approvals", "show", held.id)
    assert "database" not in plain
    assert "not proved" not in plain
    analysis = Analysis(kind="do", effects=frozenset({Effect.UNKNOWN}), why="a block of code\x1b[2J")
    resource = Resource("shop", "postgres", database="billing")
    terms = HoldTerms(frozenset({"oncall"}), count=1)
    request = gateway.book.request("s1", AGENT, resource, terms, "DO $$ $$", b"e" * 32, analysis, "hold-code", ())
    shown = run("oncall", "approvals", "show", gateway.run(request).id)
    assert ["database", "billing"] in [line.split() for line in shown.splitlines()]
    assert "a block of code\\x1b" in shown


def test_a_digest_is_whole_on_a_narrow_terminal(run, held, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    shown = run("oncall", "approvals", "show", held.id)
    assert "…" not in shown
    assert "".join(shown.split()).count("64" * 32) == 1


def test_approvers_who_may_not_decide_are_told_why(run, held):
    assert "you cannot decide" in run("audit", "approvals", "show", held.id)
    assert "takes the role approver" in run("audit", "approvals", "approve", held.id, code=1)


def test_containment(run, gateway):
    assert "agent-7" in run("security", "contain", "agent-7", "--reason", "leak")
    assert gateway.live.ended == [("s1", "contained")]
    assert "leak" in run("security", "contained")
    assert "agent-7" in run("security", "release", "agent-7")
    assert "nobody is contained" in run("security", "contained")
    assert json.loads(run("security", "revoke", "t9", "--json")) == {"token_id": "t9", "ended": 1}
    assert "no live session" in run("security", "terminate", "s1", code=1)


def test_who_ends_nothing_hears_of_it(run, gateway):
    """A misspelt name is contained as well as any other."""
    assert "letter by letter" not in run("security", "contain", "agent-7", "--reason", "leak")
    said = run("security", "contain", "agnet-7", "--reason", "leak")
    assert "sluicegate sessions --subject agnet-7" in said
    gateway.live.ended.clear()


def test_errors_as_json(run):
    refused = json.loads(run("agent", "status", "--json", code=1))
    assert refused["error"]["code"] == "forbidden"
    assert json.loads(run("nobody", "whoami", "--json", code=1))["error"]["code"] == "unauthenticated"


# -- finding the gateway and the token


def test_the_socket_is_found_by_option_environment_or_configuration(run, gateway, tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_SOCKET", str(tmp_path / "elsewhere.sock"))
    assert "cannot reach" in run("oncall", "whoami", code=3)
    assert "alice" in run("oncall", "whoami", "--socket", str(gateway.path))
    config = tmp_path / "gw.yaml"
    config.write_text("version: 1\nstate_dir: .\nlisteners: [{broken: true}]\n")
    assert "alice" in run("oncall", "whoami", "--config", str(config))
    monkeypatch.delenv("SLUICEGATE_SOCKET")
    monkeypatch.setenv("SLUICEGATE_CONFIG", str(config))
    assert "alice" in run("oncall", "whoami")
    config.write_text("version: 1\n")
    (tmp_path / "var").mkdir()
    assert "var/control.sock" in run("oncall", "whoami", code=3)
    for broken in ("- a\n", "state_dir: 7\n", "a: [\n", "\x00"):
        config.write_text(broken)
        assert "give --socket" in run("oncall", "whoami", code=2)
    monkeypatch.delenv("SLUICEGATE_CONFIG")
    monkeypatch.chdir(tmp_path)
    assert "no configuration at `sluicegate.yaml`" in run("oncall", "whoami", code=2)


def test_the_token_comes_from_the_environment_a_file_or_stdin(run, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("tok-platform\n")
    assert "dave" in run("oncall", "whoami", "--token-file", str(file))
    monkeypatch.setattr("sys.stdin", io.StringIO("tok-audit\n"))
    assert "erin" in run("oncall", "whoami", "--token-file", "-")
    assert "cannot read the token file" in run("oncall", "whoami", "--token-file", str(tmp_path / "none"), code=2)
    monkeypatch.delenv("SLUICEGATE_TOKEN")
    assert cli.main(["whoami"]) == 2


def test_wrong_usage_shows_how_to_use_what_was_typed(capsys):
    for words, shown in (
        (["sessions", "--nope"], "usage: sluicegate sessions "),
        (["approvals", "list", "--nope"], "usage: sluicegate approvals list "),
        (["replay", "s1", "--speed", "fast"], "expected a number greater than 0, not `fast`"),
        (["approvals", "list", "--status", "bogus"], "withdrawn"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code == 2
        assert shown in capsys.readouterr().err


def test_every_status_of_an_approval_can_be_asked_for():
    assert {*control_commands.STATUSES} == {*(status.value for status in ApprovalStatus), "all"}


def test_errors_say_what_to_do_next(run, tmp_path):
    empty = tmp_path / "token"
    empty.write_text("\n")
    assert f"the token file `{empty}` is empty" in run("oncall", "whoami", "--token-file", str(empty), code=2)
    assert "is it running" in run("oncall", "whoami", "--socket", str(tmp_path / "none.sock"), code=3)


def test_a_token_is_never_an_argument():
    with pytest.raises(SystemExit):
        cli.main(["whoami", "--token", "x"])


def test_something_else_at_the_socket(run, tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "x.sock"))
        assert "cannot reach" in run("oncall", "whoami", "--socket", str(tmp_path / "x.sock"), code=3)
