"""`python -m nairi_async`: the command line where its entry point is not on the path."""

from __future__ import annotations

import sys

from nairi_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
