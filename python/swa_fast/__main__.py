"""`python -m swa_fast` is the command `swa-fast`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
