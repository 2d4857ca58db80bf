"""Training, evaluation and their report.  `python -m train --help` tells how."""
