"""The HTTP side: the guard beneath mitmproxy's HTTP, and what becomes of a request, an answer, a stream.

INVARIANT: the folder is not called `http`: `addons/` is first on `sys.path`, and would hide the standard library's.
"""
