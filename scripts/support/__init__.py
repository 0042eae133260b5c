"""What the demo, the lab, the tests and the bench stand on: real servers, started quickly and stopped for certain.

Nothing here runs in production: the gateway itself never imports this package. Everything binds to loopback, lives in
private temporary folders, and dies with the process that started it, even when that process is killed.
"""
