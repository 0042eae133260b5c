"""What `mitmdump -s addons/gateway.py` loads. It wires, and defines no behaviour: its reload changes nothing.

Configuration: `--set sluicegate=FILE`, or the environment variable SLUICEGATE_CONFIG, or `sluicegate.yaml` here.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from addons.suite import Script

addons = [Script()]
