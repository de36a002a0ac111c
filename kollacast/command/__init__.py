"""Floor 5: from a command line to a run, and from its outcome to an exit status."""
