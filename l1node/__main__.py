"""``python -m l1node``: see `l1node.service`."""

import sys

from l1node.service import main

sys.exit(main())
