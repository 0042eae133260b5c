"""The benchmark: the gateway, and other ways to reach the same database, measured in turns on the same machine.

A figure alone says little on a machine that others use, too; a ratio between neighbours in time says more. So every
measure goes round its targets (A B C D E, A B C D E, ...) and reports medians of the ratios within a round.

INVARIANT: what is measured is started here and stopped here, and every run has a time limit.
"""
