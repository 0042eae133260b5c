"""AWS' way of signing requests: what the gateway writes for an upstream, and what clients of AWS' software send to it.

A client's own signature is worth nothing here: it is made with keys that open nothing. What carries the client's
identity is a token of its issuer, in the place of the session token. All of the client's signature ends at the gateway,
and the request is signed anew with the gateway's keys.

INVARIANT: no I/O and no clock in this package.
"""
