"""The client/server protocol of MySQL and MariaDB, sans-io.

Read in this order: `framing` (where packets begin and end), `capabilities` (which variant of the protocol is spoken),
`fields`, `messages`, `rows` and `parameters` (their shapes), `handshake` (from the first byte to a session), `session`
(when each packet is legal and what happens to it), `statements` (what a text does), `catalog` (what the names in it
mean), `results` (what comes back).

INVARIANT: no sockets, no clock, no files, no policy in this package.
"""
