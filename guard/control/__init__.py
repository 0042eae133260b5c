"""The control API: what people and pipelines may ask of a running gateway, over a Unix socket.

Newline-delimited JSON. Each request carries the caller's own token; it is verified each time, the caller's roles are
checked against the method's, and the call is recorded before it is carried out. `wire` says shape, `roles` who may do
what, `server` when, `handlers` what; `client` is for the command line.

INVARIANT: no method without a required role in `roles.METHODS`; no call that is not recorded.
INVARIANT: importing this package imports none of its modules: the command line needs `client` within milliseconds, and
`handlers` bring a database with them.
"""
