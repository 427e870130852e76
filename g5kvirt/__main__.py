"""``python -m g5kvirt`` is ``g5kvirt``."""

from __future__ import annotations

import sys

from g5kvirt.cli import main

if __name__ == "__main__":
    sys.exit(main())
