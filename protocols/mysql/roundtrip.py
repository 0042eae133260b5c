"""The answer that most traffic is made of, taken as one: a whole result, in one piece, of the only statement of its
command, which changes nothing and whose rows need no mask.

It does exactly what `answers` would do packet by packet, in half the time. Whatever does not fit the pattern to the
last byte goes the long way, before anything has happened.
"""

from __future__ import annotations

from protocols.mysql.framing import HEADER
from protocols.mysql.messages import EOF, Status
from protocols.mysql.pending import Awaited, Pending
from protocols.mysql.repeats import Repeats

_OTHER = int(Status.MORE_RESULTS | Status.CURSOR_EXISTS | Status.STATE_CHANGED)
_MAX_COLUMNS = 0xFA  # as many as one byte says


class RoundTrip(Repeats):
    """Mixed into `MysqlSession`."""

    def _whole(self, entry: Pending, buf: bytes, packets: list[tuple[int, int, int]], end: int) -> bool:
        """True: the whole answer, on record; pass `buf` on as it is. False: nothing has happened."""
        verdict = entry.verdict
        if (
            entry.awaited is not Awaited.FIRST
            or entry.index
            or entry.keeps_head
            or verdict is None
            or verdict.changes
            or verdict.renames
            or end != len(buf)
        ):
            return False
        _, pos, stop = packets[0]
        if pos or stop != HEADER + 1:
            return False
        columns = buf[HEADER]
        head = columns + (1 if self.deprecate_eof else 2)
        last = len(packets) - 1
        if not 0 < columns <= _MAX_COLUMNS or last < head:
            return False
        _, pos, stop = packets[last]
        if self.deprecate_eof:
            if stop - pos != HEADER + 7 or buf[pos + HEADER : pos + HEADER + 3] != b"\xfe\0\0":
                return False
            status = buf[pos + HEADER + 3] | buf[pos + HEADER + 4] << 8
        else:
            _, middle, behind = packets[head - 1]
            if stop - pos != HEADER + 5 or buf[pos + HEADER] != EOF:
                return False
            if behind - middle != HEADER + 5 or buf[middle + HEADER] != EOF:
                return False
            status = buf[pos + HEADER + 3] | buf[pos + HEADER + 4] << 8
        if status & _OTHER:
            return False
        for i in range(1, columns + 1):
            _, pos, stop = packets[i]
            if stop == pos + HEADER:
                return False
        for i in range(head, last):
            _, pos, stop = packets[i]
            if stop == pos + HEADER or buf[pos + HEADER] >= EOF:  # rows that begin so are rare: the long way knows them
                return False
        if self.masking:
            entry.definitions = [buf[pos + HEADER : stop] for _, pos, stop in packets[1 : columns + 1]]
            rewriter, entry.columns = self._masks(entry)
            if rewriter is not None:
                return False
        entry.rows = last - head
        entry.tag = b"%d rows" % entry.rows
        self._capture(entry, buf)
        self._remember_answer(entry, buf, packets[head][1], packets[head][0], packets[last][1], status)
        if status != self.status:
            self._flags(status)
        if verdict.touches:
            self._after(entry)
        self._finish(entry, b"ok")
        self._done()
        return True
