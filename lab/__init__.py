"""Hosts and a switch on one machine, for tests and for the benchmark. Nothing else is public."""

from lab.network import Host, Lab, LabError
from lab.relay import Fate

__all__ = ["Fate", "Host", "Lab", "LabError"]
