"""``python -m fedlearn.agent``: `fedlearn.commands.agent` as devices' services start it."""

import sys

from fedlearn.commands.agent import main

if __name__ == "__main__":
    sys.exit(main())
