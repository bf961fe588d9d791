"""`python -m leashrl` is `leashrl`."""

import sys

from leashrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
