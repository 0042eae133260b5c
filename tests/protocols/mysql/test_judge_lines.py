"""One line in, one line out: `policy judge` for MySQL."""

from __future__ import annotations

from typing import Any

import pytest

from protocols.judge_lines import JudgeError
from protocols.mysql.judge_lines import judge_line
from tests.support.mysql_statements import decide, shop


def ask(**line: Any) -> dict[str, Any]:
    return judge_line({"id": 7, **line}, decide, line.pop("catalog", None))


def test_an_answer_has_the_fields_of_every_protocol() -> None:
    answer = ask(input="SELECT * FROM users")
    assert answer["id"] == 7
    assert answer["decision"] == "allow"
    assert answer["reads"] == ["test.users"]
    assert answer["effects"] == ["data.select"]
    assert answer["writes"] == []
    assert answer["unknown"] is False
    assert "without a catalog" in answer["why"]


def test_the_startup_says_how_a_text_is_read() -> None:
    text = 'SELECT "a\\"; DROP TABLE users; -- "'
    assert ask(input=text)["decision"] == "allow"
    assert ask(input=text, startup={"sql_mode": "ANSI_QUOTES"})["decision"] == "deny"
    assert ask(input="SELECT 1", startup={"sql_mode": "no such mode"})["decision"] == "deny"
    assert ask(input="SELECT 'é'", startup={"charset": "gbk"})["decision"] == "deny"
    assert ask(input="SELECT * FROM users", startup={"database": "hr"})["reads"] == ["hr.users"]


def test_bytes_are_taken_as_they_are() -> None:
    assert ask(input_hex=b"SELECT '\xe9'".hex())["decision"] == "deny"
    assert ask(input_hex=b"SELECT '\xe9'".hex(), startup={"charset": "latin1"})["decision"] == "allow"


def test_the_prelude_has_run() -> None:
    assert ask(input="EXECUTE s", prelude=["PREPARE s FROM 'SELECT 1'"])["decision"] == "allow"
    assert ask(input="EXECUTE s", prelude=["PREPARE s FROM 'DROP TABLE users'"])["decision"] == "deny"
    assert ask(input="EXECUTE s", prelude=[{"sql": "PREPARE s FROM 'SELECT 1'", "ok": False}])["decision"] == "deny"


def test_the_session_is_what_is_in_force_last() -> None:
    assert ask(input='SELECT "a" FROM users', session={"sql_mode": "ORACLE"})["decision"] == "deny"
    assert ask(input="SELECT * FROM user", session={"database": "mysql"})["decision"] == "deny"


def test_without_a_server_the_stricter_of_both_counts() -> None:
    text = "SELECT system FROM users"  # a name for MariaDB, a keyword of MySQL's
    assert ask(input=text, server="mariadb")["decision"] == "allow"
    assert ask(input=text, server="mysql")["decision"] == "deny"
    assert ask(input=text)["decision"] == "deny"


def test_without_a_server_its_functions_are_those_of_every_version() -> None:
    assert ask(input="SELECT MD5('a'), SHA1('a')")["decision"] == "allow"
    assert ask(input="SELECT NEXTVAL(s)")["decision"] == "deny"
    assert ask(input="SELECT nobody_knows('a')")["decision"] == "deny"


def test_a_catalog_knows_more() -> None:
    line = {"id": 1, "input": "SELECT * FROM shop.v_wipe"}
    assert judge_line(line, decide, None)["decision"] == "allow"
    assert judge_line(line, decide, shop())["decision"] == "deny"


@pytest.mark.parametrize(
    "line",
    [{}, {"input": 1}, {"input_hex": "xx"}, {"input": "\ud800"}, {"input": "", "prelude": "x"},
     {"input": "", "prelude": [1]}, {"input": "", "startup": 1}, {"input": "", "server": "oracle"}],
)  # fmt: skip
def test_a_bad_line_is_an_error(line: dict[str, Any]) -> None:
    with pytest.raises(JudgeError):
        judge_line(line, decide, None)
