"""Retention: what of the journal goes, when, on whose word, and how that stays provable.

    rules    what the configuration says
    holds    what must stay whatever the rules say
    runs     what was announced in the journal (`retention.intended`), and what of it is done
    plan     which segments are due
    rewrite  one segment: its payloads reduced, or the whole of it dropped, with its tombstone
    worker   the side of the indexer process, which does the work
    desk     the side of the gateway process, which alone writes the journal

The journal is the channel: the gateway announces a run, the indexer reads that, carries it out segment by segment and
leaves a result beside the journal, which the gateway records (`retention.done`). A process that dies in between finds
the announcement again.

INVARIANT: nothing goes that was not announced in the journal before; nothing goes from a segment whose final checkpoint
does not verify; the newest segment is never touched.
"""
