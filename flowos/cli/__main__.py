"""`python -m flowos.cli` is the command `flowos`, for where it is not on the PATH."""
import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
