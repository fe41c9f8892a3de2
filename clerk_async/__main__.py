"""`python -m clerk_async` runs `clerk-async`."""

import sys

from clerk_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
