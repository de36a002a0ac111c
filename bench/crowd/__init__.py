"""Many simulated hosts in one process: honest in protocol, and so cheap that the server works."""
