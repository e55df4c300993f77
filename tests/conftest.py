"""What holds for all tests."""

from __future__ import annotations

import os
import sys

# Some machines (many images of containers) keep Python from writing byte-code. The tests start a thousand hosts, hooks and
# trials, and each would compile livetag anew: 0.2 s of processor time for a host.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
