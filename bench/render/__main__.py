"""`python -m bench.render`: see release.py."""

import sys

from .release import main

if __name__ == "__main__":
    main(sys.argv[1:])
