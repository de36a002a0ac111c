"""Floor 1: a small authority, and the certificates by which both ends prove who they are."""
