"""Independent peers that interop tests run the program against; they import nothing from it."""
