"""The former place of a command, which says where it is now."""

import sys

if __name__ == "__main__":
    print("error: this command is now python -m datasets.features.vectors", file=sys.stderr)
    sys.exit(2)
