"""Whole sessions in memory, of which a seed decides everything: shape, weather and accidents.

A :class:`~tests.storm.session.Session` is drawn from its seed, :mod:`~tests.storm.accidents` happen
to it, and :mod:`~tests.storm.verdict` says what is not as it must be.  The code under test is that
of the server and of all clients, whole; the network, time, threads and disks are those of
``tests.simulation``.  ``python -m tests.storm 10000-20000`` plays a range of seeds.
"""
