"""One stream of bytes out: buffers, the barrier, repairs."""
