"""Values that an identity got masked in one place, recognised when it sends them out in another.

`Fingerprints.saw` is told each masked value, `Fingerprints.find` says how many of them a text holds.
`ObservedMasker` is the hook for results of any protocol.

It must never: keep, log or return a value; only keyed fingerprints of it.
"""

from guard.leak.fingerprints import Fingerprints, Leak, telling
from guard.leak.observing import ObservedMask, ObservedMasker

__all__ = ["Fingerprints", "Leak", "ObservedMask", "ObservedMasker", "telling"]
