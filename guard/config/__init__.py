"""The gateway's configuration: one strict YAML file, immutable once read.

`load` gives a `Config` or raises `ConfigError` with every problem; `check` gives the problems and the warnings. Both
read the policies that the file names, too: a gateway whose rules do not load must not start.

The models of its sections are imported from `schema`.

INVARIANT: no secret is ever in a `Config`: only references to where one is kept.
"""

from guard.config.loader import check, load
from guard.config.schema import Config
from guard.documents import ConfigError

__all__ = ["Config", "ConfigError", "check", "load"]
