"""`python -m payments` is `payments`."""

import sys

from payments.commands import main

if __name__ == "__main__":
    sys.exit(main())
