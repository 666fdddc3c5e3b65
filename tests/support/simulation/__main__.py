"""``python -m simulation``: many seeds, or one again."""

import sys

from simulation.runner import main

sys.exit(main())
