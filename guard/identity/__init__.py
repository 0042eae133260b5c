"""Tokens become principals here, and nowhere else.

`Verifier` checks a signed token of a configured issuer and answers a `Principal`; whatever it cannot prove it refuses.
`tokens` reads the outside of a token, `keys` keeps each issuer's signing keys fresh, `claims` says what claims mean.

INVARIANT: no token text in an error, a log line or a principal; no key from anywhere but the configured issuer.
"""

from guard.identity.claims import PRESETS, Preset
from guard.identity.errors import IdentityError
from guard.identity.verifier import IssuerConfig, Verifier

__all__ = ["PRESETS", "IdentityError", "IssuerConfig", "Preset", "Verifier"]
