"""One stream of bytes in: buffers, repairs, what is kept."""
