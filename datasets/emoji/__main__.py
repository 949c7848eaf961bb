"""``python -m datasets.emoji`` builds the data set."""

import sys

from datasets.emoji.build import main

if __name__ == "__main__":
    sys.exit(main())
