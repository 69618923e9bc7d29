"""``python -m fedlearn.simulate``: the command `fedlearn.commands.simulate` under the name that users know."""

import sys

from fedlearn.commands.simulate import main

if __name__ == "__main__":
    sys.exit(main())
