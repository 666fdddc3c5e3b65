"""``python -m rollup sequencer|verifier``."""

import sys

from rollup.service import main

sys.exit(main())
