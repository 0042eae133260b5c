"""From the bytes of a message to text that may safely be parsed, and the second-level cache key.

Three dangers sit before the grammar: bytes that the server decodes differently, text that the server's lexer reads
under other settings, and text that exhausts the parser (libpg_query follows a long chain of operators on the C stack:
25,000 of them end the process, and a run of comment openers costs it quadratic time).

INVARIANT: no I/O in this module.
"""

from __future__ import annotations

import codecs
import re

from protocols.postgres.settings import encoding_name, words

MAX_TOKENS = 100_000  # of one message: some tenths of a second, in which nobody else is served
MAX_STATEMENTS = 2000  # of one message
MAX_CHAIN = 4500  # operators, joins or set operations that may nest in each other; 25,000 overflow an 8 MiB stack
SHORT = 8000  # characters: below, no chain can be longer than MAX_CHAIN
MAX_WORK = 1_000_000  # names compared while one message is judged: a second or two
MAX_RECURSION = 16  # a message with more recursive queries than people write is judged more roughly
MAX_OPERATOR_WORK = 2_000_000  # length times comment openers, summed over runs of operator characters

# single-byte encodings in which a byte below 0x80 is that ASCII character: PostgreSQL's name -> Python's
_SINGLE_BYTE = {
    "latin1": "latin_1", "latin2": "iso8859_2", "latin3": "iso8859_3", "latin4": "iso8859_4", "latin5": "iso8859_9",
    "latin6": "iso8859_10", "latin7": "iso8859_13", "latin8": "iso8859_14", "latin9": "iso8859_15",
    "latin10": "iso8859_16", "iso88591": "latin_1", "iso885915": "iso8859_15", "iso88595": "iso8859_5",
    "iso88596": "iso8859_6", "iso88597": "iso8859_7", "iso88598": "iso8859_8", "win1250": "cp1250",
    "win1251": "cp1251", "win1252": "cp1252", "win1253": "cp1253", "win1254": "cp1254", "win1255": "cp1255",
    "win1256": "cp1256", "win1257": "cp1257", "win1258": "cp1258", "win866": "cp866", "win874": "cp874",
    "win": "cp1251", "alt": "cp866", "tcvn": "cp1258", "koi8": "koi8_r", "koi8r": "koi8_r", "koi8u": "koi8_u",
}  # fmt: skip
_UTF8 = frozenset({"utf8", "unicode"})


class Unreadable(Exception):
    """The text cannot be judged; the message says why, in lower case, and names no content."""


def decode(raw: bytes, client_encoding: str) -> str:
    """The characters that the server will see. Raises Unreadable where that is not certain."""
    if b"\0" in raw:
        raise Unreadable("the text contains a NUL byte, at which the server stops reading")
    if raw.isascii():  # the same characters in every client encoding that PostgreSQL has
        return raw.decode("ascii")
    name = encoding_name(client_encoding)
    python = "utf_8" if name in _UTF8 else _SINGLE_BYTE.get(name)
    if python is None:
        raise Unreadable(f"text beyond ASCII in client_encoding `{client_encoding[:20]}`; set client_encoding to UTF8")
    try:
        return codecs.decode(raw, python)
    except ValueError as error:
        raise Unreadable(f"the text is not valid in client_encoding `{client_encoding[:20]}`") from error


class Budget:
    """How much work one message may still make: a column looked for in five thousand tables costs five thousand.

    `turns`: how often recursive queries are still walked again, each with all that is inside.
    """

    __slots__ = ("left", "turns")

    def __init__(self, units: int = MAX_WORK) -> None:
        self.left = units
        self.turns = MAX_RECURSION

    def spend(self, units: int) -> None:
        """Raises Unreadable when it is used up."""
        self.left -= units
        if self.left < 0:
            raise Unreadable("the statement takes too much work to be judged")


# one token of PostgreSQL's lexer, as far as nesting needs it; literals and comments are one token each. The quantifiers
# are possessive: one that could back up keeps a mark for each character, gigabytes for a literal of some megabytes
_TOKENS = re.compile(
    r"""
    (?P<blank>[ \t\n\r\f\v]+ | --[^\n\r]*)
  | (?P<comment>/\*)
  | (?P<escape>[eE]'(?:[^'\\]++|\\.|'')*+(?:'|\Z))
  | (?P<string>'(?:[^']++|'')*+(?:'|\Z))
  | (?P<quoted>"(?:[^"]++|"")*+(?:"|\Z))
  | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9\x80-\U0010ffff]*)?\$)
  | (?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9$\x80-\U0010ffff]*)
  | (?P<number>\.?[0-9][0-9A-Za-z_.]* | \$[0-9]+)
  | (?P<open>[(\[]) | (?P<close>[)\]]) | (?P<comma>,) | (?P<end>;)
  | (?P<other>::|.)
    """,
    re.S | re.X,
)
_COMMENT = re.compile(r"/\*|\*/")
_OPERATOR_RUN = re.compile(r"[~!@#^&|`?+\-*/%<>=]{512,}")
_LISTS = words(
    """
    and or when then else values select from where set on using having returning order group limit offset
    """
)
_CHAINS = frozenset({"join", "union", "intersect", "except"})


def _after_comment(text: str, start: int) -> int:
    depth, position = 1, start
    while depth:
        match = _COMMENT.search(text, position)
        if match is None:
            return len(text)
        depth += 1 if match.group() == "/*" else -1
        position = match.end()
    return position


def check_depth(text: str) -> None:
    """Bounds what the parser will do with this text. Raises Unreadable where it could be exhausted.

    Counts, over-estimating, how deep the tree can be: in each open parenthesis the words and operators since the last
    comma or clause, plus its joins and set operations.
    """
    work = sum(len(run) * run.count("/*") for run in _OPERATOR_RUN.findall(text)) if len(text) > 512 else 0
    if work > MAX_OPERATOR_WORK:
        raise Unreadable("the text has too long a run of operator characters")
    if len(text) <= SHORT:
        return
    frames: list[tuple[int, int]] = []
    chain = segment = below = tokens = statements = position = 0
    length = len(text)
    while position < length:
        match = _TOKENS.match(text, position)
        if match is None:
            raise Unreadable("the text cannot be split into tokens")
        position = match.end()
        kind = match.lastgroup
        if kind == "comment":
            position = _after_comment(text, position)
            continue
        if kind == "dollar":
            end = text.find(match.group(), position)
            position = length if end < 0 else end + len(match.group())
        elif kind == "blank":
            continue
        tokens += 1
        if tokens > MAX_TOKENS:
            raise Unreadable("the text has too many tokens to be judged")
        if kind == "open":
            frames.append((chain, segment))
            below += chain + segment
            chain = segment = 0
        elif kind == "close":
            if frames:
                chain, segment = frames.pop()
                below -= chain + segment
                segment += 1
        elif kind == "comma":
            segment = 0
        elif kind == "end":
            statements += 1
            if statements > MAX_STATEMENTS:
                raise Unreadable(f"more than {MAX_STATEMENTS} statements in one message")
            if not frames:
                chain = segment = 0
        elif kind == "word":
            word = match.group().lower()
            if word in _LISTS:
                segment = 0
            elif word in _CHAINS:
                chain += 1
                segment = 0
            else:
                segment += 1
        elif kind == "other":
            segment += 1
        if below + chain + segment > MAX_CHAIN:
            raise Unreadable("the statement is nested too deeply to be judged")


def copied_query(text: str) -> str | None:
    """What stands between the parentheses of `COPY (query) ...`; None for any other text."""
    position, start, depth, seen = 0, 0, 0, 0
    while position < len(text):
        match = _TOKENS.match(text, position)
        if match is None:
            return None
        begin, position, kind = position, match.end(), match.lastgroup
        if kind == "comment":
            position = _after_comment(text, position)
        elif kind == "dollar":
            end = text.find(match.group(), position)
            position = len(text) if end < 0 else end + len(match.group())
        if kind in ("blank", "comment"):
            continue
        seen += 1
        if (seen == 1 and match.group().lower() != "copy") or (seen == 2 and match.group() != "("):
            return None
        if kind == "open":
            depth += 1
            start = start or position
        elif kind == "close":
            depth -= 1
            if depth == 0:
                return text[start:begin]
    return None


def outside_literals(text: str) -> str:
    """The text without literals and comments; quoted identifiers stay."""
    kept, position = [], 0
    while position < len(text):
        match = _TOKENS.match(text, position)
        if match is None:
            return text
        position = match.end()
        kind = match.lastgroup
        if kind == "comment":
            position = _after_comment(text, position)
        elif kind == "dollar":
            end = text.find(match.group(), position)
            position = len(text) if end < 0 else end + len(match.group())
        elif kind not in ("blank", "string", "escape"):
            kept.append(match.group())
        else:
            kept.append(" ")
    return "".join(kept)


# ---------------------------------------------------------------- the second-level cache key

# A subset of the lexical grammar small enough to be surely right: no comments, no dollar quotes, no prefixed strings,
# no backslashes, no characters beyond ASCII. Possessive throughout: no input makes it try twice.
_SHAPE_TEXT = re.compile(
    rb"""\s*+(?:select|with|insert|update|delete)\b(?:
        '(?:[^'\\\x00]|'')*+'
      | [0-9]++(?:\.[0-9]++)?+(?![\w.$'"])
      | [A-Za-z_][A-Za-z0-9_]*+(?!['"$])
      | "[^"\x00-\x1f]++"(?!")
      | \$[0-9]++(?![\w$])
      | [ \t\n\r]++ | [(),.\[\]] | :: | [-+*/<>=~!@\#%^&|?]++
    )*+;?+[ \t\n\r]*+""",
    re.X | re.I,
)
_SHAPE_LITERAL = re.compile(rb"""'(?:[^']|'')*+'|"[^"]*+"|(?<![\w$.])[0-9]++(?:\.[0-9]++)?+""")
_SHAPE_UNSURE = re.compile(rb"""--|/\*|\x01s[ \t\n\r]*+\x01s|[0-9.]\x01""")


def _literal_type(match: re.Match[bytes]) -> bytes:
    literal = match.group()
    if literal.startswith(b"'"):
        return b"\x01s"
    if literal.startswith(b'"'):
        return literal
    if b"." in literal or len(literal) > 19:
        return b"\x01n"
    value = int(literal)
    return b"\x01i" if value < 2**31 else b"\x01l" if value < 2**63 else b"\x01n"


def shape_key(raw: bytes) -> bytes | None:
    """The text with each literal replaced by its type, or None where two texts of one shape could differ in meaning.

    Only for a single SELECT, INSERT, UPDATE, DELETE or WITH. Equal keys mean equal token structure and literal types;
    an analysis may be shared between them only where it says `Cacheable.SHAPE`.
    """
    if len(raw) > SHORT or not raw.isascii() or _SHAPE_TEXT.fullmatch(raw) is None:
        return None
    key = _SHAPE_LITERAL.sub(_literal_type, raw)
    # a comment opener, literals that may be one (a line break between them), a number that runs into another
    return None if _SHAPE_UNSURE.search(key) is not None else key.rstrip(b" \t\n\r;")
