"""Makes the virtual environment of `make`. It runs before any package is there, so it imports none."""
