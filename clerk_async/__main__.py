"""`python -m clerk_async` is `clerk-async`."""

import sys

from clerk_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
