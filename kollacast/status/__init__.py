"""What operators watch by HTTP: the status page, its live updates, JSON, and metrics."""
