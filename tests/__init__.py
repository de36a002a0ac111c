"""The test suite."""

from tests.signals import have_children_hear_signals

have_children_hear_signals()
