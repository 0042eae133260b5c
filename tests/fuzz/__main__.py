"""`./scripts/fuzz`: feeds the targets with mutated inputs until told to stop.

With atheris (not among the project's dependencies: it is for one platform, and large) coverage guides the search:

    uv pip install --target .cache/atheris atheris
    ./scripts/fuzz session

Without it the corpus is mutated at random, which finds less, and needs nothing. What is found is written beside the
corpus as `crash-...`: commit it with its fix, and it stays a test.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
_MAX = 4096  # bytes of one input
_ROOT = Path(__file__).resolve().parents[2]
_CACHE = _ROOT / ".cache" / "atheris"


def seeds(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*")) if path.is_file()] or [b""]


def mutated(pick: random.Random, known: Sequence[bytes]) -> bytes:
    """One input made of the corpus: bytes changed, removed, repeated, or spliced with another's."""
    data = bytearray(pick.choice(known))
    for _ in range(pick.choice((1, 1, 2, 4, 16))):
        at = pick.randrange(len(data) + 1)
        match pick.randrange(6):
            case 0:
                data[at : at + 1] = bytes((pick.randrange(256),))
            case 1:
                del data[at : at + pick.randrange(1, 9)]
            case 2:
                data[at:at] = pick.randbytes(pick.randrange(1, 9))
            case 3:
                data[at:at] = data[at : at + pick.randrange(1, 65)]
            case 4:
                other = pick.choice(known)
                start = pick.randrange(len(other) + 1)
                data[at:] = other[start:]
            case _:
                data[at : at + 4] = pick.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\4"))
    return bytes(data[:_MAX])


def keep(target: str, data: bytes) -> Path:
    path = CORPUS / target / f"crash-{hashlib.sha256(data).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def plainly(target: str, check: Callable[[bytes], None], seconds: float, seed: int) -> int:
    """Random mutations for so long; how many inputs were tried. A failure is kept and raised."""
    pick, known, count = random.Random(seed), seeds(target), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(pick, known)
        count += 1
        try:
            check(data)
        except Exception:
            print(f"{target}: input kept in {keep(target, data)}", file=sys.stderr)
            raise
    return count


def guided(target: str, seconds: float, seed: int) -> None:
    """libFuzzer, through atheris; ends the process."""
    import atheris  # type: ignore[import-not-found]  # installed by hand: see above

    with atheris.instrument_imports(include=["protocols"]):
        from tests.fuzz.targets import TARGETS
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    found = Path(f"{folder}/crash-")
    # new inputs go to the first folder: the second, the corpus in the tree, is only read
    fresh = _ROOT / ".cache" / "fuzz" / target
    fresh.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-artifact_prefix={found}", f"-max_len={_MAX}"]
    atheris.Setup([sys.argv[0], *options, str(fresh), str(folder)], TARGETS[target])
    atheris.Fuzz()


def _atheris() -> Any:
    if _CACHE.is_dir() and str(_CACHE) not in sys.path:
        sys.path.append(str(_CACHE))
    try:
        import atheris
    except ImportError:
        return None
    return atheris


def main(argv: Sequence[str] | None = None) -> int:
    names = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="*", help=f"what to fuzz: {', '.join(names)} (default: all, in turn)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices; 0: another one each time")
    parser.add_argument("--plain", action="store_true", help="random mutations even where atheris is installed")
    options = parser.parse_args(argv)
    wanted = options.target or names
    if unknown := set(wanted) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    seed = options.seed or random.randrange(1, 1 << 31)
    if len(wanted) == 1 and not options.plain and _atheris() is not None:
        guided(wanted[0], options.seconds, seed)
        return 0
    from tests.fuzz.targets import TARGETS

    for name in wanted:
        try:
            count = plainly(name, TARGETS[name], options.seconds, seed)
        except Exception:
            traceback.print_exc()
            return 1
        print(f"{name}: {count} inputs in {options.seconds:g} s, seed {seed}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
