"""``python -m bridge``: the bridge service."""

import sys

from bridge.service import main

sys.exit(main())
