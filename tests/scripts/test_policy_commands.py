"""`check`, `policy test`, `policy explain` and `policy judge`, as somebody types them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protocols.contract import Action, Analysis, Decision, Effect, Where
from scripts import policy_offline
from scripts.cli import main
from scripts.policy_offline import DsnCatalog, Judge, judge_stream

ROOT = Path(__file__).resolve().parents[2]
READ_ONLY = str(ROOT / "policies" / "read-only.yaml")
DEMO = str(ROOT / "policies" / "demo.yaml")
JUDGE = ["policy", "judge", "--policy", READ_ONLY, "--protocol", "postgres", "--json"]
KEYS = {"id", "decision", "rule", "effects", "reads", "writes", "unknown", "why"}


def judge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: bytes, *more: str) -> list[Any]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main([*JUDGE, *more]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


class TestCheck:
    def test_a_bundle_without_problems(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", READ_ONLY]) == 0
        assert capsys.readouterr().out == ""

    def test_problems_have_file_line_and_column(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "p.yaml"
        path.write_text("version: 1\nname: x\ndescription: d\nrules:\n  - {id: a, description: d, allow: [tz]}\n")
        assert main(["check", str(path)]) == 1
        printed = capsys.readouterr()
        assert printed.out == f"{path}:5:37: `tz` is no effect; did you mean `tx`?\n"
        assert "1 problem" in printed.err

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "gateway.yaml"
        path.write_text("version: 2\n")
        assert main(["check", "--json", str(path)]) == 1
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {"file", "line", "column", "severity", "message"} == set(found[0])
        assert {one["message"] for one in found} >= {"`listeners` is required here", "`policies` is required here"}

    def test_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "/nowhere/x.yaml"]) == 1
        assert "cannot be read: no such file" in capsys.readouterr().out


class TestTest:
    def test_the_shipped_policies_pass(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["policy", "test"]) == 0
        assert ", 0 failed" in capsys.readouterr().out

    def test_a_failure_names_file_line_and_reason(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "p.yaml").write_text((ROOT / "policies" / "read-only.yaml").read_text())
        tests = tmp_path / "p.tests.yaml"
        tests.write_text(
            "version: 1\nidentities: {a: {subject: a}}\ntests:\n"
            "  - {name: drops, as: a, command: DROP TABLE t, expect: allow}\n"
        )
        assert main(["policy", "test", str(tmp_path / "p.yaml")]) == 1
        printed = capsys.readouterr().out
        assert f"{tests}:4: drops: expected decision `allow`, got `deny`" in printed
        assert "0 passed, 1 failed" in printed

    def test_a_bundle_without_tests_is_a_failure(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "p.yaml").write_text("version: 1\n")
        assert main(["policy", "test", str(tmp_path / "p.yaml")]) == 1
        assert "write p.tests.yaml" in capsys.readouterr().out
        assert main(["policy", "test", str(tmp_path / "empty")]) == 1


class TestExplain:
    def test_says_which_rule_decides_and_why(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["policy", "explain", "--policy", DEMO, "--as", "agent", "--resource", "shop", "DROP TABLE t"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert printed.startswith("DENY rule `demo/agents-never-reshape` denies ddl.drop on public.t: propose")
        assert "-> demo/agents-never-reshape deny ddl.drop on public.t" in printed

    def test_json_shows_every_rule(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert (
            main(["policy", "explain", "--json", "--policy", DEMO, "--as", "agent", "DELETE FROM t WHERE id = 1"]) == 0
        )
        answer = json.loads(capsys.readouterr().out)
        assert (answer["decision"], answer["rule"]) == ("hold", "demo/agents-delete-with-approval")
        outcomes = {one["rule"]: one["outcome"] for one in answer["rules"]}
        assert outcomes["demo/agents-delete-with-approval"] == "decides"
        assert outcomes["demo/administrators"] == "silent"

    def test_whose_word_it_is_can_be_asked(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bundle = tmp_path / "p.yaml"
        bundle.write_text(
            "version: 1\nname: p\ndescription: d\nrules:\n"
            "  - {id: r, description: d, who: {groups: [a], issuers: ['https://idp']}, hold: [data.delete],\n"
            "     approvers: {groups: [oncall], issuers: ['https://idp']}}\n"
        )
        asked = ["policy", "explain", "--policy", str(bundle), "--as", "ann:a", "DELETE FROM t"]
        assert main([*asked, "--issuer", "https://idp"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "HOLD" in printed
        assert "released by 1 of: oncall (https://idp), within" in printed
        assert main([*asked, "--issuer", "https://other"]) == 0
        assert "DENY" in capsys.readouterr().out

    def test_markup_in_a_command_stays_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["policy", "explain", "--policy", DEMO, "--as", "admin", 'DROP TABLE "[red]t[/nope]"']) == 0
        assert "[red]t[/nope]" in capsys.readouterr().out

    @pytest.mark.parametrize("identity", [":", ":a"])
    def test_an_identity_without_subject_is_refused(self, identity: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["policy", "explain", "--policy", DEMO, "--as", identity, "SELECT 1"]) == 2
        assert "--as: expected SUBJECT" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "words", [["--label", "env"], ["--claim", "=x"], ["--as", ""], ["--address", "here"], ["--label", "=prod"]]
    )
    @pytest.mark.parametrize("verb", ["explain", "judge"])
    def test_an_option_that_makes_no_sense_is_wrong_usage(
        self, verb: str, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = ["SELECT 1"] if verb == "explain" else []
        assert main(["policy", verb, "--policy", DEMO, *words, *asked]) == 2
        told = capsys.readouterr()
        assert told.err.startswith(f"{words[0]}: ")
        assert told.out == ""

    @pytest.mark.parametrize(
        ("text", "effect"), [("LOCK TABLE orders", "admin.lock"), ("VACUUM orders", "admin.maint")]
    )
    def test_a_denial_says_a_thing_once(self, text: str, effect: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["policy", "explain", "--json", "--policy", DEMO, "--as", "analyst", text]) == 0
        assert json.loads(capsys.readouterr().out)["why"].count(f"{effect} on public.orders") == 1

    def test_a_broken_policy_is_told_with_its_place(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "p.yaml").write_text("version: 3\n")
        assert main(["policy", "explain", "--policy", str(tmp_path / "p.yaml"), "SELECT 1"]) == 1
        assert f"{tmp_path / 'p.yaml'}:1:10:" in capsys.readouterr().err


class TestJudge:
    def test_a_line_each(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        lines = [
            {"id": "a", "input": "SELECT 1"},
            {"id": 2, "input": "DROP TABLE t"},
            {"id": None, "input_hex": b"SHOW server_version".hex()},
            {"id": "nul", "input_hex": "53454c4543542031003b"},
        ]
        answers = judge(monkeypatch, capsys, "\n".join(map(json.dumps, lines)).encode())
        assert [(one["id"], one["decision"]) for one in answers] == [
            ("a", "allow"), ("2" and 2, "deny"), (None, "allow"), ("nul", "deny"),
        ]  # fmt: skip
        assert all(set(one) == KEYS for one in answers)
        assert answers[0]["rule"] == "read-only/read"
        assert answers[1]["writes"] == ["public.t"]

    def test_a_bad_line_is_denied_and_the_run_goes_on(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad = [
            b"{", b"[1]", b"null", b"\xff", b'"x"', b"[" * 5000, b'{"id": 1}', b'{"id": 1, "input": 5}', b"7",
            b'{"id": 1, "input_hex": "zz"}', b'{"id": 1, "input": "SELECT 1", "startup": 5}',
            b'{"id": 1, "input": "SELECT 1", "session": [1]}', b'{"id": 1, "input": "SELECT 1", "prelude": "x"}',
            b'{"id": 1, "input": "SELECT \\ud800"}',
        ]  # fmt: skip
        text = b"\n".join([*bad, b"", b"   ", b'{"id": "last", "input": "SELECT 1"}'])
        answers = judge(monkeypatch, capsys, text)
        assert [one["decision"] for one in answers] == ["deny"] * len(bad) + ["allow"]
        assert all(set(one) == KEYS and (one["why"] or one["decision"] == "allow") for one in answers)

    def test_the_demo_identities(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        drop = b'{"id": 1, "input": "DROP TABLE t"}'
        (answer,) = judge(monkeypatch, capsys, drop, "--policy", DEMO, "--as", "admin")
        assert answer["decision"] == "allow"
        (answer,) = judge(monkeypatch, capsys, drop, "--policy", DEMO, "--as", "somebody:platform,x")
        assert answer["decision"] == "allow"
        (answer,) = judge(monkeypatch, capsys, drop, "--policy", DEMO, "--as", "agent:")
        assert answer["decision"] == "deny"

    def test_a_database_that_cannot_be_asked_stops_the_run(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
        assert main([*JUDGE, "--catalog", "postgresql://x@127.0.0.1:1/x"]) == 1
        assert capsys.readouterr().err

    def test_answers_come_before_the_next_line_is_read(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", *JUDGE],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            for number in range(3):
                process.stdin.write(json.dumps({"id": number, "input": "SELECT 1"}).encode() + b"\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["id"] == number
            process.stdin.close()
            assert process.wait(30) == 0


class TestStream:
    @staticmethod
    def decide(analysis: Analysis) -> Decision:
        return Decision(Action.ALLOW, "r", "because")

    def test_a_line_that_is_too_long_is_denied_without_being_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(policy_offline, "MAX_LINE", 64)
        lines = io.BytesIO(b'{"id": 1, "input": "' + b"x" * 1000 + b'"}\n{"id": 2, "input": "SELECT 1"}\n')
        answers = list(judge_stream(lines, Judge("postgres"), self.decide, DsnCatalog(None)))
        assert [(one["id"], one["decision"]) for one in answers] == [(None, "deny"), (2, "allow")]

    def test_an_exception_on_one_line_is_shown_and_denied(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def explode(*_: object) -> Any:
            raise ZeroDivisionError("private detail")

        monkeypatch.setattr("protocols.postgres.judge_lines.judge_line", explode)
        (answer,) = judge_stream(
            io.BytesIO(b'{"id": 7, "input": "SELECT 1"}\n'), Judge("postgres"), self.decide, DsnCatalog(None)
        )
        assert (answer["id"], answer["decision"], answer["why"]) == (7, "deny", "cannot be judged: ZeroDivisionError")
        assert "ZeroDivisionError" in capsys.readouterr().err

    def test_a_snapshot_is_never_older_than_the_question(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fetched: list[str] = []

        async def fetch(dsn: str) -> Any:
            fetched.append(dsn)
            return len(fetched)

        monkeypatch.setattr(policy_offline, "fetch_dsn", fetch)
        source = DsnCatalog("postgresql://x")
        first: Any = source.since(0.0)
        assert (first, source.since(0.0), len(fetched)) == (1, 1, 1)
        later: Any = source.since(float("inf"))
        assert (later, len(fetched)) == (2, 2)

    def test_lines_that_wait_share_a_snapshot_and_keep_their_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fetched: list[str] = []

        async def fetch(dsn: str) -> Any:
            fetched.append(dsn)

        monkeypatch.setattr(policy_offline, "fetch_dsn", fetch)
        lines = io.BytesIO(b"".join(b'{"id": %d, "input": "SELECT 1"}\n' % n for n in range(300)))
        answers = list(judge_stream(lines, Judge("postgres"), self.decide, DsnCatalog("postgresql://x")))
        assert [one["id"] for one in answers] == list(range(300))
        assert 1 <= len(fetched) <= 300


def test_text_is_analysed_by_the_code_of_the_data_path() -> None:
    analysis = policy_offline.analyse_text("postgres", "DELETE FROM t")
    assert Effect.DATA_DELETE in analysis.effects
    assert analysis.where.value == "missing"
    with pytest.raises(ValueError, match="cannot be analysed"):
        policy_offline.analyse_text("gopher", "SELECT 1")


class TestMySQL:
    """The same commands with the other protocol."""

    def test_explain_knows_the_database_in_which_names_begin(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["policy", "explain", "--json", "--protocol", "mysql", "--database", "shop", "--policy", DEMO]
        assert main([*words, "--as", "agent", "DROP TABLE `orders`"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["decision"], answer["rule"]) == ("deny", "demo/agents-never-reshape")
        assert answer["writes"] == ["shop.orders"]

    def test_a_stream_of_it(self) -> None:
        lines = b"".join(
            json.dumps(line).encode() + b"\n"
            for line in (
                {"id": 1, "input": "SELECT 1", "startup": {"charset": "utf8mb4"}},
                {"id": 2, "input": "SELECT 1; DROP TABLE t", "startup": {"multi_statements": True}},
                {"id": 3, "input": 'SELECT "a\'; DROP TABLE t -- "', "session": {"sql_mode": "ANSI_QUOTES"}},
                {"id": 4},
            )
        )
        seen: list[Analysis] = []

        def decide(analysis: Analysis) -> Decision:
            seen.append(analysis)
            return Decision(Action.ALLOW, "r", "because")

        answers = list(judge_stream(io.BytesIO(lines), Judge("mysql"), decide, DsnCatalog(None)))
        assert [one["id"] for one in answers] == [1, 2, 3, 4]
        assert answers[0].keys() >= KEYS
        assert answers[0]["effects"] == ["data.select"]
        assert {"data.select", "ddl.drop"} <= set(answers[1]["effects"])
        assert answers[3]["decision"] == "deny"  # no command: nobody was asked
        assert len(seen) >= 3

    def test_what_two_servers_read_differently_does_what_either_does(self) -> None:
        analysis = policy_offline.analyse_text("mysql", "SELECT 1 /*M! INTO OUTFILE '/tmp/x' */")
        assert {Effect.DATA_SELECT, Effect.FILE_WRITE} <= analysis.effects
        one = Analysis("a", frozenset({Effect.DATA_DELETE}), where=Where.PRESENT, reads=("x.t",), why="one")
        other = Analysis("a", frozenset({Effect.UNKNOWN}), where=Where.MISSING, reads=("x.t", "x.u"), why="")
        both = policy_offline._either(one, other)
        assert both == policy_offline._either(one, both)
        assert (both.effects, both.where) == ({Effect.DATA_DELETE, Effect.UNKNOWN}, Where.MISSING)
        assert (both.reads, both.why) == (("x.t", "x.u"), "one")

    def test_a_catalog_of_another_protocol_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = [
            "policy",
            "explain",
            "--protocol",
            "mysql",
            "--policy",
            DEMO,
            "--catalog",
            "postgresql://x@127.0.0.1:1/y",
        ]
        assert main([*words, "SELECT 1"]) == 1
        assert "mysql" in capsys.readouterr().err
