"""Hosts and a switch on one machine, for tests and for the benchmark. Nothing else is public."""

from lab.network import Host, Lab, LabError

__all__ = ["Host", "Lab", "LabError"]
