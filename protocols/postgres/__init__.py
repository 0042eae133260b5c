"""PostgreSQL's frontend/backend protocol, versions 3.0 and 3.2, sans-io.

Read in this order: `framing` (where messages begin and end), `messages` (their shapes), `session` (when each is legal
and what happens to it), `statements` (what a text does), `catalog` (what the names in it mean), `results` (what comes
back).

INVARIANT: no sockets, no clock, no files, no policy in this package.
"""
