"""Which bytes matches are made of: any other byte ends every match, so that nothing needs to be held back there."""

from __future__ import annotations

import string

_ALNUM = (string.ascii_letters + string.digits).encode()

# printable ASCII without quotes, angle brackets, backslash and white space: keys, addresses, URLs
TOKEN = bytes(b for b in range(0x21, 0x7F) if b not in b"\"'<>\\`")
# numbers in groups, with the letters that some national numbers have
NUMBER = _ALNUM + b" -.()+/"
LOCAL_PART = _ALNUM + b"._%+-"
SCHEME = _ALNUM + b"+.-"
