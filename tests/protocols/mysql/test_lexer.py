"""The lexer follows the server's rules; what servers read differently is refused."""

from __future__ import annotations

import random

import pytest

from protocols.mysql.statements.lexer import Kind, Rules, Unreadable, lex

PLAIN = Rules()


def texts(text: str, rules: Rules = PLAIN) -> list[str]:
    return [token.text for token in lex(text, 0, rules).tokens]


def kinds(text: str, rules: Rules = PLAIN) -> list[Kind]:
    return [token.kind for token in lex(text, 0, rules).tokens]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", ["SELECT", "1"]),
        ("SELECT\t1\n\v\f\r", ["SELECT", "1"]),
        ("a.b", ["a", ".", "b"]),
        ("'it''s'", ["it's"]),
        (r"'a\'b\n\%\_\Z'", ["a'b\n\\%\\_\x1a"]),
        (r"'\\'", ["\\"]),
        ('"a""b"', ['a"b']),
        ("`a``b`", ["a`b"]),
        ("'a\0b'", ["a\0b"]),
        ("N'x'", ["x"]),
        ("x'41' 0x41 b'01' 0b01", ["41", "41", "01", "01"]),
        ("1.5 .5 1e3 1E-3 2.", ["1.5", ".5", "1e3", "1E-3", "2."]),
        ("@a @`b c` @'d' @x.y", ["a", "b c", "d", "x.y"]),
        ("@@global.x", ["@@", "global", ".", "x"]),
        ("a<=>b->>c:=d||e", ["a", "<=>", "b", "->>", "c", ":=", "d", "||", "e"]),
        ("1 -- c\n2 # c\n3 /* c */ 4", ["1", "2", "3", "4"]),
        ("5--1", ["5", "-", "-", "1"]),
        ("5--\x011\n6", ["5", "6"]),
        ("1 -- c\r2", ["1"]),
        ("1--", ["1"]),
        ("SELECT /*+ BKA(t) */ 1", ["SELECT", " BKA(t) ", "1"]),
        ("1 /*+ x */ 2", ["1", "2"]),
        ("/* a /* b */ c", ["c"]),
        ("wörter", ["wörter"]),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "'open",
        '"open',
        "`open",
        "/* open",
        "'a\\",
        "x'4",
        "x'4g'",
        "b'2'",
        "``",
        "`a `",
        "`a\0`",
        "\0",
        "1a",
        "1e1a",
        "0x4g",
        "t.1a",
        "1.2.3",
        "1..2",
        "@",
        "@@",
        "@@1",
        "\\N",
        "$$",
        "$a",
        "€ €\x00",
        "SELECT /*+ QB_NAME(`a*/ 1 -- `) */ 1",
        "SELECT /*+ X(`'`) Y('*/ 1 -- ') */ 1",
        "/*!50000 /* */ */",
        "/*! /*! 1 */ */",
        "/*! 1",
        "/*!1234567 1 */",
        "/*! 1; */",
        "/*! -- x */ \n */",
        "--\u00a0x",
    ],
)
def test_what_is_not_sure_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        lex(text, 0, PLAIN)


def test_a_statement_ends_at_its_semicolon_and_the_next_begins_behind() -> None:
    text = "SELECT ';' /* ; */ -- ;\n; SELECT 2"
    first = lex(text, 0, PLAIN)
    assert first.semicolon
    assert text[first.end :] == " SELECT 2"
    assert [t.text for t in lex(text, first.end, PLAIN).tokens] == ["SELECT", "2"]


def test_ansi_quotes_make_names_of_double_quotes() -> None:
    assert kinds('"a"') == [Kind.STRING]
    assert kinds('"a\\"', Rules(ansi_quotes=True)) == [Kind.NAME]


def test_without_backslash_escapes_a_backslash_is_a_character() -> None:
    assert texts("'\\'", Rules(backslash=False)) == ["\\"]
    with pytest.raises(Unreadable):
        lex("'\\'", 0, PLAIN)


def test_latin1_has_one_more_blank() -> None:
    assert texts("DROP\xa0TABLE", Rules(wide_blank=True, non_ascii_names=False)) == ["DROP", "TABLE"]
    assert texts("DROP\xa0TABLE") == ["DROP\xa0TABLE"]
    with pytest.raises(Unreadable):
        lex("DR\xd6P", 0, Rules(wide_blank=True, non_ascii_names=False))


@pytest.mark.parametrize(
    ("text", "run", "skipped"),
    [
        ("1 /*!50000 + 2*/ 3", ["1", "+", "2", "3"], ["1", "3"]),
        ("1 /*!+2*/ 3", ["1", "+", "2", "3"], ["1", "3"]),
        ("1 /*M!100100 + 2*/ 3", ["1", "+", "2", "3"], ["1", "3"]),
        ("/*!99999 a*/b", ["a", "b"], ["b"]),
        ("/*!123 a*/", ["123", "a"], []),
        ("DR/*!50000 OP*/", ["DR", "OP"], ["DR"]),
    ],
)
def test_executable_comments_are_read_either_way(text: str, run: list[str], skipped: list[str]) -> None:
    assert texts(text) == run
    assert texts(text, Rules(executes=lambda digits, mariadb: False)) == skipped
    assert lex(text, 0, PLAIN).conditional


def test_versions_decide_and_are_no_tokens() -> None:
    asked: list[tuple[str, bool]] = []

    def executes(digits: str, mariadb: bool) -> bool:
        asked.append((digits, mariadb))
        return len(digits) == 6

    assert texts("/*!50701 a*/ /*!100100 b*/ /*M!110000 c*/", Rules(executes=executes)) == ["b", "c"]
    assert asked == [("50701", False), ("100100", False), ("110000", True)]


def test_any_text_gives_tokens_in_order_or_is_refused() -> None:
    chance = random.Random(3)
    pieces = [
        "'",
        '"',
        "`",
        "\\",
        "/*",
        "*/",
        "/*!",
        "/*!50000",
        "--",
        "#",
        "\n",
        " ",
        ";",
        "@",
        "@@",
        "a",
        "1",
        ".",
        "x'",
        "\0",
        "é",
        "(",
        ")",
    ]
    for _ in range(3000):
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(12)))
        try:
            found = lex(text, 0, Rules(ansi_quotes=chance.random() < 0.5, backslash=chance.random() < 0.5))
        except Unreadable:
            continue
        position = 0
        for token in found.tokens:
            assert position <= token.start < token.end <= found.end
            position = token.end
        assert found.end == len(text) or text[found.end - 1] == ";"
