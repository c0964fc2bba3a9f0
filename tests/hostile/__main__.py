"""`python -m tests.hostile`: run cases, print a verdict for each."""

from __future__ import annotations

import os
import sys

from tests.hostile.running import main

if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # not sys.exit: libraries complain of what `gc.freeze` keeps
