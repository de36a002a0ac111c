"""Strangers who attack a transfer between real processes, and what that costs the others.

`attacker` is one stranger, `trial` a transfer with or without one, in turns. ``python -m
tests.hostile`` is the long form, at 1 Gbit/s; ``test_hostile_traffic`` the short one.
"""
