"""Run the command line as `python -m nairi_async`."""

from __future__ import annotations

import sys

from nairi_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
