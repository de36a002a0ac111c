"""Kollacast brings one large image to every host of a cluster at the cost of sending it once."""

__version__ = "0.1.0"
