"""Why a token opens nothing."""

from __future__ import annotations


class IdentityError(Exception):
    """A token that is not accepted.

    `str(error)` is public: it goes to the client, so it says what to do and nothing about our configuration.
    `detail` is for the gateway's own log and may name issuers and claims. Neither ever holds a part of the token.
    `subject` is whose token it is, where that was proved before it was refused (contained, expired meanwhile).
    """

    def __init__(self, public: str, detail: str = "", *, subject: str = "") -> None:
        super().__init__(public)
        self.public = public
        self.detail = detail or public
        self.subject = subject
