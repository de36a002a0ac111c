"""Buffers of packets, and where received packets land."""
