"""Kubernetes: what a request to an API server asks for, what its answers show, what its streams carry.

`paths` and `requests` resolve method and path as the API server does; `analysis` says what it does; `objects` and
`workloads` read bodies, `leaving` says what they carry; `media`, `secrets`, `lists` and `watching` keep Secrets out of
answers; `status` refuses in the API's own words; `impersonation` says who acts upstream; `channels`, `spdy` and
`spdystreams` decode exec, attach and port-forward; `output` masks what a command prints; `asciicast` keeps terminals;
`kubeconfig` is what clients need.

INVARIANT: no I/O, no clock, no policy in this package. What is not understood is refused or unknown, never passed.
"""
