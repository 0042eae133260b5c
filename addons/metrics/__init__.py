"""Figures of the running gateway, for Prometheus. Names of resources, listeners and issuers; never of people."""
