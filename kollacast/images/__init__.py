"""Image files: archives of a registry's storage, packed, listed, unpacked and checked."""
