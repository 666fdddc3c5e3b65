"""``python -m fuzzing`` (with ``PYTHONPATH=tests/support:.``): see docs/FUZZING.md."""

import sys

from fuzzing.cli import main

sys.exit(main())
