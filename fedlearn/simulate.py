"""``python -m fedlearn.simulate``: `fedlearn.commands.simulate` as users know it."""

import sys

from fedlearn.commands.simulate import main

if __name__ == "__main__":
    sys.exit(main())
