"""What an operator asked for, and what an operator is told."""
