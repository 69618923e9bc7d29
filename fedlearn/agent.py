"""``python -m fedlearn.agent``: the command `fedlearn.commands.agent` under the name that devices' services use."""

import sys

from fedlearn.commands.agent import main

if __name__ == "__main__":
    sys.exit(main())
