"""Content detection, body masks and leak fingerprints: what they find, and how fast. No servers, no gateway.

`python -m scripts.benchmarks.detect [--json] [--quick]`. Speed is bytes by CPU time of one core (other load on the
machine counts little); the best of several runs.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gzip
import io
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from guard.detect import Scanner, Stream
from guard.leak import Fingerprints
from guard.mask.bodies import BodyRules, ContentRule, FieldRule, body_masker, mask_of
from protocols.contract import MaskRule
from scripts.benchmarks import detect_corpus as corpus

type Row = dict[str, Any]

_CHUNK = 65_536
_KEY = b"a key for measuring"
_SHARES = (("clean", 0.0), ("5%", 0.05), ("dense", 1.0))


def accuracy(each: int, alikes: int, seed: int = 11) -> Iterator[Row]:
    """One row per detector, then one for texts in which nothing is."""
    rng = random.Random(seed)  # noqa: S311 - a corpus that is the same each time
    scanner = Scanner()
    made: dict[str, int] = {}
    found: dict[str, int] = {}
    for sample in corpus.hits(rng, each):
        assert sample.detector is not None
        made[sample.detector] = made.get(sample.detector, 0) + 1
        hit = any(
            f.detector == sample.detector and sample.start <= f.start and f.end <= sample.end + 1
            for f in scanner.find(sample.text)
        )
        found[sample.detector] = found.get(sample.detector, 0) + hit
    for detector, count in made.items():
        yield {"measure": "recall", "detector": detector, "samples": count, "recall": round(found[detector] / count, 4)}
    wrong: dict[str, int] = {}
    texts = corpus.look_alikes(rng, alikes)
    flagged = 0
    for sample in texts:
        names = {f.detector for f in scanner.find(sample.text)}
        flagged += bool(names)
        for name in names:
            wrong[name] = wrong.get(name, 0) + 1
    yield {
        "measure": "false",
        "samples": len(texts),
        "flagged": flagged,
        "share": round(flagged / len(texts), 5),
        "by": wrong,
    }


def _speed(what: str, size: int, run: Callable[[], object], rounds: int, **more: Any) -> Row:
    best = 0.0
    for _ in range(rounds):
        begin = time.process_time()
        run()
        best = max(best, size / 1e6 / max(time.process_time() - begin, 1e-9))
    return {"measure": "speed", "what": what, **more, "mb_per_s": round(best, 1)}


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]


def _masked(kind: str, rules: BodyRules, data: bytes, coding: str = "") -> None:
    masker = body_masker(kind, coding, rules)
    for piece in _pieces(data):
        masker.feed(piece)
    masker.end()


def _scanned(scanner: Scanner, blocks: Sequence[bytes]) -> None:
    for block in blocks:
        scanner.find(block)


def _streamed(scanner: Scanner, data: bytes) -> None:
    stream = Stream(scanner)
    for piece in _pieces(data):
        stream.feed(piece)
    stream.end()


def _documents(rng: random.Random, size: int) -> tuple[bytes, bytes]:
    """The same records as JSON and CSV; each has an address to mask."""
    records = [
        {
            "id": number, "name": f"Customer {number}", "email": corpus.email(rng), "city": "Berlin", "active": True,
            "amount": round(rng.random() * 1000, 2), "created": "2024-01-05T10:11:12Z", "tags": ["a", "b", "c"],
            "note": "the quick brown order shipped to warehouse with care and in time " * 2,
        }
        for number in range(size // 310)
    ]  # fmt: skip
    table = io.StringIO()
    writer = csv.DictWriter(table, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return json.dumps(records).encode(), table.getvalue().encode()


def scanning(size: int, rounds: int, seed: int = 12) -> Iterator[Row]:
    """Rows of MB/s of the detectors alone."""
    rng = random.Random(seed)  # noqa: S311 - as above
    scanner = Scanner()
    for name, share in _SHARES:
        data = corpus.lines(rng, share, size)
        yield _speed("scan", len(data), partial(_scanned, scanner, _pieces(data)), rounds, hits=name)


def speed(size: int, rounds: int, seed: int = 12) -> Iterator[Row]:
    """Rows of MB/s: scanning, streaming, masking, fingerprints."""
    rng = random.Random(seed)  # noqa: S311 - as above
    scanner = Scanner()
    texts = {name: corpus.lines(rng, share, size) for name, share in _SHARES}
    for name, data in texts.items():
        blocks = _pieces(data)
        yield _speed("scan", len(data), partial(_scanned, scanner, blocks), rounds, hits=name)
        yield _speed("stream", len(data), partial(_streamed, scanner, data), rounds, hits=name)
    redact = mask_of(MaskRule("bench", (), (), "redact"), _KEY)
    by_path = BodyRules((FieldRule("**.email", redact),))
    by_content = BodyRules(contents=(ContentRule(("personal", "credential"), redact),))
    _masked("text/plain", by_content, b"")  # compiles
    for name, data in texts.items():
        yield _speed("mask text", len(data), partial(_masked, "text/plain", by_content, data), rounds, hits=name)
    document, table = _documents(rng, size)
    for what, kind, data, coding in (
        ("mask json", "application/json", document, ""),
        ("mask csv", "text/csv", table, ""),
        ("mask json gzip", "application/json", gzip.compress(document, 5), "gzip"),
    ):
        for by, rules in (("field", by_path), ("content", by_content)):
            plain = len(table if kind == "text/csv" else document)
            run = partial(_masked, kind, rules, data, coding)
            yield _speed(what, plain, run, rounds, hits="every record", by=by)
    prints = Fingerprints(_KEY)
    for number in range(20_000):
        prints.saw("bench", f"user{number}@corp{number % 50}.example", 0.0)
    body = texts["clean"]
    yield _speed("leak", len(body), partial(prints.find, "bench", body, 1.0), rounds, hits="clean", known=len(prints))
    coded = base64.b64encode(body)
    yield _speed(
        "leak base64", len(coded), partial(prints.find, "bench", coded, 1.0), rounds, hits="clean", known=len(prints)
    )


def show(rows: Sequence[Row]) -> None:
    """Tables for people."""
    console = Console(highlight=False)
    recall = Table("detector", "samples", "recall", title="Found", title_justify="left")
    fast = Table("what", "hits", "by", "MB/s per core", title="Speed", title_justify="left")
    for row in rows:
        if row["measure"] == "recall":
            recall.add_row(row["detector"], str(row["samples"]), f"{row['recall']:.3f}")
        elif row["measure"] == "speed":
            fast.add_row(row["what"], row.get("hits", ""), row.get("by", ""), f"{row['mb_per_s']:g}")
    console.print(recall)
    for row in rows:
        if row["measure"] == "false":
            console.print(
                f"of {row['samples']} look-alikes {row['flagged']} were flagged ({row['share']:.2%}): {row['by']}"
            )
    console.print(fast)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks.detect", description="Measure content detection."
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per figure on standard output")
    parser.add_argument("--quick", action="store_true", help="few samples, short runs")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    quick: bool = options.quick
    for row in accuracy(50 if quick else 500, 2_000 if quick else 20_000):
        rows.append(row)
    for row in speed(1_000_000 if quick else 8_000_000, 1 if quick else 3):
        rows.append(row)
    if options.json:
        for row in rows:
            print(json.dumps(row))
    else:
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
