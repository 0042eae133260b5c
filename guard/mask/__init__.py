"""What a masked column's values become, and which columns are masked.

Given where each output column comes from (`ResultShape`), a `Masker` answers with a `MaskPlan`: one `ColumnMask` or
None per column. It turns text into text; the wire formats around that text belong to the protocols.

It must never: do I/O (except `keys`), know a protocol, let a value through because a mask could not be applied (the
answer is then None, SQL NULL), or raise for a value. A rule that cannot work stops the Masker from being built.
"""

from guard.mask.masker import ColumnMask, Masker, MaskPlan
from guard.mask.strategies import STRATEGIES, MaskRuleError, check_rule

__all__ = ["STRATEGIES", "ColumnMask", "MaskPlan", "MaskRuleError", "Masker", "check_rule"]
