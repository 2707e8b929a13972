"""`python -m sbertlab COMMAND`; `--help` lists the commands."""

import sys

from sbertlab.commands import main

if __name__ == "__main__":
    sys.exit(main())
