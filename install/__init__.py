"""Makes the virtual environment of `make`. It runs before any package is there, so it imports none.

This file must run on any old Python, to say which one is needed.
"""

import sys

LEAST_PYTHON = (3, 10)

if sys.version_info < LEAST_PYTHON:
    found = ".".join(map(str, sys.version_info[:2]))
    sys.stderr.write(
        "error: expected Python 3.10 to 3.13, found " + found + "; name another one, such as make PYTHON=python3.12\n"
    )
    sys.exit(2)
