"""Floor 2: how datagrams and messages leave and arrive, fast."""
