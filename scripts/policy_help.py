"""What `--help` of the policy commands ends with."""

CHECK_EPILOG = """\
examples:
  sluicegate check gateway.yaml               every problem of the configuration and of the policies that it names
  sluicegate check policies/read-only.yaml    a policy bundle alone
  sluicegate check --json gateway.yaml        for an editor or a pipeline

exit codes: 0 can be started (there may be warnings), 1 cannot
"""
POLICY_EPILOG = """\
examples:
  sluicegate policy test                                    the tests of the bundles shipped here
  sluicegate policy test my/policies                        every *.tests.yaml in a folder
  sluicegate policy explain --policy policies/demo.yaml --as agent "DELETE FROM orders WHERE id = 7"
  sluicegate policy judge --policy policies/read-only.yaml --protocol mysql --json < commands.jsonl
  sluicegate policy judge --policy policies/ci-egress.yaml --protocol http --as job:ci --json < requests.jsonl
"""
EXPLAIN_EPILOG = """\
Shows the decision, the rule that gives it, and what every other rule says.

examples:
  sluicegate policy explain --policy policies/demo.yaml --as agent --resource shop "DROP TABLE orders"
  sluicegate policy explain --policy a.yaml --policy b.yaml --as ci@shop:jobs,writers "TRUNCATE t"
  sluicegate policy explain --policy a.yaml --label env=prod --catalog postgresql://localhost/shop "SELECT f(1)"
  sluicegate policy explain --policy policies/ci-egress.yaml --protocol http --as job:ci "GET https://pypi.org/simple/"
  sluicegate policy explain --policy policies/kubernetes-read-only.yaml --protocol kubernetes "exec web -n shop -- id"

A request is `METHOD URL`; on further lines its headers, an empty line, and its body. With kubernetes it may also be
`VERB RESOURCE[.GROUP][/SUBRESOURCE] [NAME] [-n NAMESPACE | -A] [-- COMMAND]`, with a body behind an empty line. Verbs:
get, list, watch, create, update, patch, delete, deletecollection, logs, exec, attach, port-forward.
"""
JUDGE_EPILOG = """\
Reads one JSON object a line and answers one a line, in order, as soon as it is read:
  {"id": 1, "input": "DROP TABLE t"}
  {"id": 1, "decision": "deny", "rule": "default", "effects": ["ddl.drop"], "reads": [], "writes": ["public.t"], ...}

Besides `input` (or `input_hex` for bytes) a line may give `prelude` (what the same session sent before), `startup` and
`session` (settings in force). With mysql `startup` holds `charset`, `database`, `multi_statements`, `local_infile` and
`sql_mode`. A line that cannot be judged is denied with the reason, and the run goes on.

With http and kubernetes a line holds a request, and the answer also its `facts` (what rules ask about) and the `status`
that the gateway itself would answer with:
  {"id": 1, "request": {"method": "POST", "url": "https://api.example/v1/orders", "headers": [["Content-Type",
   "application/json"]], "body": "{}"}}
  {"id": 2, "request": {"method": "GET", "url": "/api/v1/namespaces/shop/secrets/db"}}
`body_hex` is a body in bytes, `headers` are in order. `input` may hold the request as text in its place (see `policy
explain --help`). `masked` lists values that the identity was shown masked before, for rules about `exfil.masked`;
`response` (`status`, `headers`) is an answer of the upstream, for rules about answers. A URL names the upstream itself;
an https one is reached through CONNECT, so a rule that lets a host pass unopened shows as `http.opaque`.
"""
