"""The code that imports mitmproxy: accepts connections, runs the handshakes, relays bytes between sockets and sessions.

INVARIANT: no module here is named like one of the standard library or of a package: this folder is first on `sys.path`.
"""
