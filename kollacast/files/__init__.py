"""Files: where the image comes from and goes to."""
