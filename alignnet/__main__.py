"""`python -m alignnet` is the console script `alignnet`."""

from __future__ import annotations

import sys

from alignnet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
