"""``python -m siamkit``."""

import sys

from siamkit.cli.app import main

sys.exit(main())
