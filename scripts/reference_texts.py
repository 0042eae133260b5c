"""The prose around the generated reference. The YAML examples in it are loaded by the tests."""

CONFIG = """\
# Configuration

One YAML file, named by `SLUICEGATE_CONFIG` or `mitmdump --set sluicegate=FILE`. It is strict: an unknown key, a
wrong type, a name that does not exist, a policy that does not load, and the gateway does not start. `sluicegate
check FILE` shows every problem in one run, with file, line and column. Durations are seconds, sizes are bytes,
relative paths are relative to the file.

Secrets are never written here: there is only `provider:`, which says where one is kept.

```yaml
version: 1
state_dir: ./var
listeners:
  - name: shop-db
    protocol: postgres
    listen: "127.0.0.1:6432"
    resource: shop
resources:
  - name: shop
    protocol: postgres
    host: db.internal
    database: shop
    labels: {env: prod}
    credential: {user: app, provider: env, name: SHOP_DB_PASSWORD}
issuers:
  - issuer: https://idp.example
    audience: sluicegate
    preset: keycloak
policies: [read-only.yaml]
roles:
  approver: {groups: [oncall]}
  responder: {groups: [security]}
```
"""

POLICY = """\
# Policies

A policy bundle is one YAML file, strict like the configuration: an unknown key, an effect that does not exist
or a pattern that could never match stops the start, with file and line. All bundles of a gateway are one
policy.

```yaml
version: 1
name: orders
description: what the order service and its people may do
rules:
  - id: read
    description: everybody reads the shop's tables
    who: {groups: [shop, analysts]}
    allow: {effects: [data.select, show, tx], relations: ["public.*", "pg_catalog.*"]}

  - id: write-orders
    description: the order service writes orders, and says which
    who: {subjects: ["system:serviceaccount:shop:orders"]}
    allow: {effects: [data.insert, data.update], relations: [public.orders], where: [present]}

  - id: no-drop
    description: nothing is dropped in production
    deny: [ddl.drop]
    resource: {labels: {env: prod}}
    unless: {who: {groups: [break-glass]}}
    message: propose a migration instead

  - id: deletes-at-night
    description: outside working hours a second person looks at a delete
    hold: [data.delete]
    when: {days: [mon-fri], hours: ["18:00-08:00"], timezone: Europe/Berlin}
    approvers: {groups: [oncall], count: 1, expires: 10m}

  - id: cards
    description: the last four digits are enough
    mask: {columns: ["*.card"], strategy: partial, keep_last: 4}
    unless: {who: {groups: [fraud]}}
```

## How a decision is made

1. **The strictest rule that matches wins**: terminate, then deny, then hold, then allow. Order does not matter.
2. **What no rule allows is denied** (`rule: default`). The allows must *together* cover everything that a
   command does: every effect, on every relation. An effect of reading (`data.select`, `data.copy_out`,
   `secret.read`) must be covered on each relation that is read; an effect of writing (`data.insert` ...
   `ddl.*`, `priv.grant` ...) on each one that is written; `admin.lock` and `admin.maint` on each one that is
   named; `exec.*` for each function. All other effects need an allow that names them, whatever its `relations`.
   A writing effect on something that is no relation (an extension, a schema) needs an allow without
   `relations`. Several statements in one message are judged together: each effect must then be covered on the
   relations of all of them.
3. **A stopping rule matches if any** effect matches, on any relation, column or function that it names. A star,
   and a relation that is read without naming columns, counts as all its columns. Letter case does not count
   where a rule stops, alerts or masks; it counts where a rule allows.
4. **A hold is an allow that waits**: what the rule names counts as covered; everything else in the command must
   be allowed by other rules, or it is denied at once. Of several holds the narrowest approvers, the largest
   count and the shortest time apply; where no set of approvers lies within all others the command is denied.
   Whoever is spelt in another letter case than the rule's `who` is held as well, and nothing is covered for them.
5. **`unknown`** means that it could not be proved what a command does. Only a rule that spells out `unknown`
   allows it (`*` does not), and whoever grants it grants everything: a stopping rule sees only what was proved.
   In a stopping rule `*` includes `unknown`.
6. **Masks and alerts accumulate**, and decide nothing. A filter on a column that is masked for this identity
   gives the command the effect `probe`: allow it, deny it, or alert on it. Putting what such a column holds
   where this identity could read it in the clear gives it the effect `mask.copy`, on each relation written.
7. **What cannot be evaluated never helps**: a client address that is none matches a stopping rule's networks,
   no allow's, no `unless`.

Who, resource and network are settled when a session begins; time and the application's name are asked for each
command.

`sluicegate policy test` runs the tests beside a bundle, `sluicegate policy explain` shows which rule decides
and why.
"""

TESTS = """\
## Tests

`NAME.tests.yaml` beside `NAME.yaml`, run by `sluicegate policy test`.

```yaml
version: 1
identities:
  analyst: {subject: ann, groups: [analysts]}
resources:
  shop: {labels: {env: prod}}
tests:
  - name: an analyst reads orders
    as: analyst
    resource: shop
    command: SELECT 1
    expect: allow
  - name: at night a delete waits
    as: analyst
    resource: shop
    at: 2026-03-02T23:00:00+01:00
    does: {effects: [data.delete], writes: [public.orders], where: present}
    expect: {decision: hold, rule: orders/deletes-at-night}
  - name: cards are masked
    as: analyst
    expect: {masked: [public.customers.card]}
```
"""
