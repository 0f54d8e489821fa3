"""``python -m siamkit_runtime``."""

import sys

from .cli import main

sys.exit(main())
