"""``python -m bridge``: the bridge service; ``python -m bridge operator``: an operator of a committee bridge."""

import sys

from bridge import operator_service, service

if sys.argv[1:2] == ["operator"]:
    sys.exit(operator_service.main(sys.argv[2:]))
sys.exit(service.main())
