"""Floor 0: every byte that crosses the network, and nothing that does I/O."""
