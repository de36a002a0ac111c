"""What happens when: who waits for it, what has failed, which state follows, on which reactor."""
