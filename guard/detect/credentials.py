"""Credentials: key formats that their issuers publish, private keys, tokens, and values behind a telling name.

Formats are anchored at their fixed prefix. Where a format has none, a name must stand before the value; a name that
often holds something harmless (`token`, `secret`) asks for a value that looks generated.
"""

from __future__ import annotations

import re

from guard.detect import checks
from guard.detect.alphabets import SCHEME, TOKEN
from guard.detect.finding import Anchor, Kind, Pattern, Reach

_C = Kind.CREDENTIAL
_TOKEN = Reach(8192, TOKEN)
_MOST_KEY = 20_000  # characters of a private key in PEM: RSA with 16,384 bits has 13,000


def _key(name: str, prefix: bytes, back: int, rest: bytes) -> Pattern:
    """A key that begins with a fixed-width prefix (an expression of `back` bytes) and goes on with `rest`."""
    regex = re.compile(rb"(?<![A-Za-z0-9])(?=" + prefix + rb")" + rest)
    return Pattern(name, _C, (Anchor(prefix, back),), regex, _TOKEN, inner=regex.groups > 0)


_W = rb"[A-Za-z0-9_-]"

KEYS: tuple[Pattern, ...] = (
    _key("aws-access-key", rb"A(?:KI|SI|BI|CC)A[A-Z2-7]{4}", 8, rb"A..A[A-Z2-7]{16}(?![A-Za-z0-9])"),
    _key("gcp-api-key", rb"AIza[0-9A-Za-z_-]", 5, rb"AIza" + _W + rb"{35}"),
    _key("gcp-oauth-secret", rb"GOCSPX-", 7, rb"GOCSPX-" + _W + rb"{20,64}"),
    _key("gcp-access-token", rb"ya29\.", 5, rb"ya29\." + _W + rb"{20,1024}"),
    _key("github-token", rb"gh[pousr]_[A-Za-z0-9]", 5, rb"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _key("github-token", rb"github_pat_", 11, rb"github_pat_[A-Za-z0-9_]{22,255}"),
    _key("gitlab-token", rb"gl(?:pat|ptt|cbt|imt|oas)-", 6, rb"gl[a-z]{3}-[A-Za-z0-9_.-]{20,255}"),
    _key("gitlab-token", rb"gl(?:dt|rt|ft)-", 5, rb"gl[a-z]{2}-[A-Za-z0-9_.-]{20,255}"),
    _key("slack-token", rb"xox[abeoprs]-", 5, rb"xox[a-z]-[A-Za-z0-9-]{10,255}"),
    _key("slack-token", rb"xapp-[0-9]-", 7, rb"xapp-[0-9]-[A-Za-z0-9-]{10,255}"),
    _key(
        "slack-webhook", rb"hooks\.slack\.com/services/", 25,
        rb"hooks\.slack\.com/services/(T[A-Z0-9]{6,16}/B[A-Z0-9]{6,16}/[A-Za-z0-9]{16,32})",
    ),
    _key("stripe-key", rb"[rs]k_(?:live|test)_", 8, rb"[rs]k_[a-z]{4}_[A-Za-z0-9]{16,255}"),
    _key("stripe-webhook-secret", rb"whsec_", 6, rb"whsec_[A-Za-z0-9+/=]{24,128}"),
    _key("npm-token", rb"npm_[A-Za-z0-9]", 5, rb"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
    _key("pypi-token", rb"pypi-A", 6, rb"pypi-A" + _W + rb"{50,512}"),
    _key("sendgrid-key", rb"SG\.[A-Za-z0-9_-]", 4, rb"SG\." + _W + rb"{22}\." + _W + rb"{43}"),
    _key("mailgun-key", rb"key-[0-9a-f]{4}", 8, rb"key-[0-9a-f]{32}(?![0-9a-f])"),
    _key("twilio-key", rb"SK[0-9a-f]{8}", 10, rb"SK[0-9a-f]{32}(?![0-9A-Za-z])"),
    _key("digitalocean-token", rb"do[opr]_v1_", 7, rb"do[opr]_v1_[0-9a-f]{64}"),
    _key("huggingface-token", rb"hf_[A-Za-z]{4}", 7, rb"hf_[A-Za-z0-9]{34}(?![A-Za-z0-9])"),
    _key("llm-api-key", rb"sk-[A-Za-z0-9_-]{4}", 7, rb"sk-(?=[A-Za-z_-]*[0-9])" + _W + rb"{32,255}"),
    _key("vault-token", rb"hv[sbr]\.", 4, rb"hv[sbr]\." + _W + rb"{24,512}"),
    _key("docker-token", rb"dckr_(?:pat|oat)_", 9, rb"dckr_[a-z]{3}_" + _W + rb"{27,64}"),
    _key("databricks-token", rb"dapi[0-9a-f]{4}", 8, rb"dapi[0-9a-f]{32}(?![0-9a-f])"),
    _key("shopify-token", rb"shp(?:at|ca|pa|ss)_", 6, rb"shp[a-z]{2}_[0-9a-fA-F]{32}"),
    _key("age-key", rb"AGE-SECRET-KEY-1", 16, rb"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    _key("azure-storage-key", rb"AccountKey=", 11, rb"AccountKey=([A-Za-z0-9+/]{86}==)"),
    _key(
        "password-hash", rb"SCRAM-SHA-", 10,
        rb"SCRAM-SHA-(?:1|256|512)\$[0-9]{1,9}:([A-Za-z0-9+/=]{8,128}\$[A-Za-z0-9+/=:]{20,256})",
    ),
    Pattern(
        "password-hash", _C, (Anchor(rb"\$(?:2[abxy]?|[156y]|argon2(?:id|i|d))\$", 0, som=True),),
        re.compile(
            rb"\$2[abxy]?\$[0-9]{2}\$[./A-Za-z0-9]{53}"
            rb"|\$[156y]\$[A-Za-z0-9./=,$]{20,256}"
            rb"|\$argon2(?:id|i|d)\$[A-Za-z0-9+/=,$]{20,512}"
        ),
        _TOKEN,
    ),
    Pattern(
        "jwt", _C, (Anchor(rb"eyJ[A-Za-z0-9_-]{6}", 9),),
        re.compile(
            rb"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{6,2000}\.eyJ[A-Za-z0-9_-]{4,4000}\.[A-Za-z0-9_-]{0,2000}"
        ),
        _TOKEN,
    ),
    Pattern(
        "url-password", _C,
        (Anchor(rb"://[^\s/:@\"'<>\\]{0,64}:[^\s/@\"'<>\\]{1,128}@", 0, seek=b"://", stretch=SCHEME),),
        re.compile(
            rb"[A-Za-z0-9+.-]{0,64}://[!#-&(-.0-9;=?A-Z\[\]^_a-z{|}~]{0,64}:([!#-&(-.0-;=?-Z\[\]^_a-z{|}~]{1,256})@"
            rb"(?=[A-Za-z0-9.\[_$-])"
        ),
        _TOKEN, checks.password, inner=True,
    ),
)  # fmt: skip

# ---------------------------------------------------------------- values behind a name

_GAP = rb"\\?[\"']?[\s]{0,8}"
_STRONG_NAME = rb"(?i:passw(?:or)?d|passphrase|pwd)"
_WEAK_NAME = rb"(?i:secret|token|api[_-]?key|access[_-]?key|signing[_-]?key|encryption[_-]?key|account[_-]?key)"
_LINE = rb"[^\r\n]{0,2200}\Z"
_SUFFIX = rb"[\w-]{0,32}"


def _open(name: bytes) -> Reach:
    """From a name to the end: the value may come, or go on, up to the end of the line."""
    # ends of lines may stand in both gaps: a name of at most 14 letters, 32 more, a quote, and the gaps before them
    return Reach(2400, open=re.compile(name + _SUFFIX + rb"\\?[\"']?\s{0,8}[:=>]{0,2}\s{0,8}" + _LINE), line=80)


_QUOTED = (
    rb"(?:\\\"([^\"\\\r\n]{1,1024})|\\'([^'\\\r\n]{1,1024})"
    rb"|\"((?:[^\"\\\r\n]|\\[^\r\n]){1,1024})|'((?:[^'\\\r\n]|\\[^\r\n]|''){1,1024})"
)
_BARE = rb"[^\s\"'<>&;,(){}\[\]\\|]"
_DOTTED = re.compile(rb"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\Z")


def _not_code(value: bytes) -> bool:
    return checks.password(value) and not _DOTTED.match(value)


# base64 of "-----BEGIN ", of some words, and of "PRIVATE KEY" at each of its alignments
_PEM_IN_BASE64 = rb"LS0tLS1CRUdJTi[A-Za-z0-9+/]{1,28}?(?:UFJJVkFURSBLRV|BSSVZBVEUgS0VZ|QUklWQVRFIEtFW)"
_PEM_BODY = rb"(?:[A-Za-z0-9+/=\s:,.()]|-(?!-)|\\[nrt])"

NAMED: tuple[Pattern, ...] = (
    Pattern(
        "password", _C,
        (Anchor(rb"(?:passw(?:or)?d|passphrase|pwd)[\w-]{0,32}\\?[\"']?\s{0,8}[:=>]", 0, som=True, caseless=True),),
        re.compile(
            _STRONG_NAME + _SUFFIX + rb"(?:"
            + _GAP + rb"(?:=>|:=|[:=])\s{0,8}" + _QUOTED + rb")"
            # without quotes: `name=value`, as in forms, and elsewhere only what has a digit in it
            + rb"|=(?!/)(" + _BARE + rb"{4,1024}+)(?![({\[])"
            + rb"|\s{0,8}[:=]\s{1,8}(?=" + _BARE + rb"{0,60}[0-9])(?!/)"
            + rb"(" + _BARE + rb"{4,1024}+)(?![({\[])"
            + rb"|>([^<>\r\n]{3,1024})<)"
        ),
        _open(_STRONG_NAME), _not_code, inner=True,
    ),
    Pattern(
        "password", _C, (Anchor(rb"--[a-z-]{0,16}passw(?:or)?d[ =]", 0, som=True, caseless=True),),
        re.compile(
            rb"(?i:--[a-z-]{0,16}passw(?:or)?d)[ =]"
            rb"([^\s\"'$<|&;-][^\s\"'<>|&;]{3,255}|\"[^\"\r\n]{3,256}|'[^'\r\n]{3,256})"
        ),
        Reach(400, open=re.compile(rb"--[a-zA-Z-]{0,24}[ =]?[^\r\n]{0,300}\Z"), line=0), checks.password, inner=True,
    ),
    Pattern(
        "sql-password", _C,
        (
            Anchor(rb"passw(?:or)?d\s{1,8}(?:=\s{0,4})?[\w&]{0,4}['\"$]", 0, som=True, caseless=True),
            Anchor(rb"identified\s{1,8}(?:by|as|with)\s", 0, som=True, caseless=True),
        ),
        re.compile(
            rb"(?i:passw(?:or)?d|identified\s{1,8}(?:with\s{1,8}\S{1,64}\s{1,8})?(?:by|as)(?:\s{1,8}passw(?:or)?d)?)"
            rb"\s{1,8}(?:=\s{0,4})?[\w&]{0,4}"
            rb"(?:'((?:[^'\\]|''|\\.){1,512})'|\"((?:[^\"\\]|\"\"|\\.){1,512})\"|\$\w{0,16}\$([^$]{1,512})\$)"
        ),
        Reach(1400, open=re.compile(rb"(?i:passw(?:or)?d|identified)\s[\s\S]{0,1300}\Z")), inner=True,
    ),
    Pattern(
        "secret-assignment", _C,
        (
            Anchor(
                rb"(?:secret|token|(?:api|access|signing|encryption|account)[_-]?key)[\w-]{0,32}\\?[\"']?\s{0,8}[:=>]",
                0, som=True, caseless=True,
            ),
        ),
        re.compile(
            _WEAK_NAME + _SUFFIX + _GAP
            + rb"(?:=>|:=|[:=>])\s{0,8}\\?[\"']?([A-Za-z0-9_./+=~-]{16,1024}+)(?!\()"
        ),
        _open(_WEAK_NAME), checks.random_looking, inner=True,
    ),
    Pattern(
        "authorization", _C, (Anchor(rb"(?:basic|bearer)\s{1,4}[A-Za-z0-9]", 0, som=True, caseless=True),),
        re.compile(rb"(?i:basic|bearer)\s{1,4}([A-Za-z0-9._~+/=-]{16,4096})"),
        Reach(4200, open=re.compile(rb"(?i:basic|bearer)\s{1,4}[A-Za-z0-9._~+/=-]{0,4096}\Z"), line=16),
        checks.random_looking, inner=True,
    ),
    Pattern(
        "gcp-service-account", _C, (Anchor(rb"private_key_id\\?[\"']\s{0,4}:", 0, som=True),),
        re.compile(rb"private_key_id\\?[\"']\s{0,4}:\s{0,4}\\?[\"']([0-9a-f]{40})"),
        Reach(100, open=re.compile(rb"private_key_id[\\\"'\s:0-9a-f]{0,80}\Z")), inner=True,
    ),
    Pattern(
        "private-key", _C, (Anchor(rb"-----BEGIN (?:[A-Z0-9]{2,12} ){0,2}PRIVATE KEY", 0, som=True),),
        re.compile(
            rb"-----BEGIN (?:[A-Z0-9]{2,12} ){0,2}PRIVATE KEY(?: BLOCK)?-----" + _PEM_BODY + rb"{0,%d}" % _MOST_KEY
            + rb"(?:-----END [A-Z0-9 ]{0,40}-----)?"
        ),
        Reach(
            _MOST_KEY * 2 + 300,
            # from the first line of a key to the end, or to the end of its last line
            open=re.compile(
                rb"-----BEGIN (?:[A-Z0-9 ]{0,40}-{0,5}|[A-Z0-9 ]{0,30}PRIVATE KEY[^-]*+(?:-(?!----END )[^-]*+)*+"
                rb"(?:-----END [A-Z0-9 ]{0,40}-{0,5})?)\Z"
            ),
        ),
    ),
    Pattern(
        "private-key", _C, (Anchor(_PEM_IN_BASE64, 0, som=True),),
        re.compile(_PEM_IN_BASE64 + rb"(?:[A-Za-z0-9+/=]|\r?\n|\\n){0,%d}" % _MOST_KEY),
        Reach(
            _MOST_KEY * 2 + 200,
            open=re.compile(rb"LS0tLS1CRUdJTi(?:[A-Za-z0-9+/=\r\n]|\\n){0,%d}+\\?\Z" % (_MOST_KEY * 2)),
        ),
    ),
)  # fmt: skip

CREDENTIALS = (*KEYS, *NAMED)
