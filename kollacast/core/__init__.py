"""Floor 1: the packets of one buffer, and who waits for whom; no sockets."""
