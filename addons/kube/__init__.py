"""Kubernetes, on top of `addons.web`: requests judged, Secrets masked, exec, attach and port-forward decoded.

INVARIANT: the folder is not called `kubernetes`: `addons/` is first on `sys.path`, and would hide the client library.
"""
