"""``python -m neoxrun``."""

import sys

from neoxrun.cli import main

if __name__ == "__main__":
    sys.exit(main())
