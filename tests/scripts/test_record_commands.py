"""`sluicegate verify` and `sluicegate journal dump` as a person and a pipeline run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guard.record import Recorder, RecordSettings
from scripts.cli import main


@pytest.fixture
def state(tmp_path: Path) -> Path:
    recorder = Recorder(RecordSettings(segment_bytes=1000), tmp_path)
    recorder.session_start("s1", {"subject": "ci"})
    for n in range(8):
        text = "SELECT '\x1b[2Jhidden'" if n == 3 else f"SELECT {n}"
        facts = {"t": "command", "s": "s1", "n": n, "decision": "allow", "rule": "r", "text": text}
        recorder.command(json.dumps(facts).encode())
    recorder.event("alert", {"why": "\x1b]0;title\x07"})
    recorder.close()
    return tmp_path


def damage(state: Path) -> None:
    path = next(path for path in sorted((state / "journal").glob("*.seg")) if b"SELECT 5" in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"SELECT 5", b"SELECT 6"))


def test_verify_proves_an_untouched_journal(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(state)]) == 0
    assert main(["verify", str(state / "journal")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("verified:") == 2
    assert "kept on another machine" in shown


def test_verify_names_the_first_bad_record(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(state)
    assert main(["verify", str(state)]) == 1
    shown = capsys.readouterr().out
    assert "NOT verified" in shown
    assert "first bad record:" in shown
    assert "the payload was changed" in shown


def test_verify_answers_machines(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    damage(state)
    assert main(["verify", str(state), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["problem"]["why"]) == (False, "the payload was changed")
    assert answer["problem"]["segment"] >= 1


def test_verify_takes_key_and_head_from_elsewhere(
    state: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    away = tmp_path_factory.mktemp("evidence")
    shutil.copytree(state / "journal", away / "copy")
    shutil.copy(state / "keys" / "journal.pub", away / "key.pem")
    shutil.copy(state / "journal" / "head.json", away / "head.json")
    options = ["--public-key", str(away / "key.pem"), "--head", str(away / "head.json")]
    assert main(["verify", str(away / "copy"), *options]) == 0
    assert "kept on another machine" not in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["journal", "keys/journal.pub"])
def test_what_cannot_be_read_is_exit_code_two(state: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    (state / missing).rename(state / "away")
    assert main(["verify", str(state)]) == 2
    assert main(["verify", str(state), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("sluicegate: ")
    assert json.loads(captured.out)["ok"] is False


def test_a_head_file_that_is_not_there_says_nothing_about_the_journal(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(state), "--head", str(state / "none.json")]) == 2
    told = capsys.readouterr()
    assert "no head file" in told.err
    assert "NOT verified" not in told.out


def test_a_dump_in_which_nothing_matches_says_so(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "dump", str(state), "--kind", "comand"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "no record matches" in told.err
    assert "docs/reference/journal.md names the kinds" in told.err


def test_a_session_is_named_in_full_so_that_it_can_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(RecordSettings(), tmp_path)
    recorder.session_start("0123456789abcdef", {"subject": "ci"})
    recorder.close()
    assert main(["journal", "dump", str(tmp_path)]) == 0
    assert " 0123456789abcdef " in capsys.readouterr().out


def test_dump_shows_every_record_and_no_escape_sequence(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "dump", str(state)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\x1b[2Jhidden" in shown
    assert shown.count(" command ") == 8


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_journal_that_somebody_wrote_to_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    recorder = Recorder(RecordSettings(), tmp_path)
    facts = {"t": "command", "s": "\x1b]0;x\x07", "n": 1, "decision": "\x9b2J", "rule": "\u202er", "text": "\x9b2J"}
    recorder.command(json.dumps(facts).encode())
    recorder.close()
    assert main(["journal", "dump", str(tmp_path), *how]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_dump_filters_and_answers_machines(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "dump", str(state), "--json", "--kind", "command", "--session", "s1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["record"]["n"] for line in lines] == list(range(8))
    assert main(["journal", "dump", str(state), "--json", "--session", "nobody"]) == 0
    assert capsys.readouterr().out == ""


def test_dump_stops_where_the_journal_is_damaged(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(state)
    assert main(["journal", "dump", str(state), "--json", "--kind", "command"]) == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["record"]["n"] for line in captured.out.splitlines()] == list(range(5))
    assert "the journal is damaged" in captured.err


def test_dump_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["journal", "dump", str(tmp_path)]) == 2
    assert "there is no journal" in capsys.readouterr().err


def test_dump_into_a_pipe_that_closes_is_no_crash(state: Path) -> None:
    dump = [sys.executable, "-c", "import sys; from scripts.cli import main; sys.exit(main())", "journal", "dump"]
    process = subprocess.Popen([*dump, str(state), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"")
