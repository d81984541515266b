"""A home of its own for what the packages keep there, set before any of them is loaded."""

from __future__ import annotations

import os
import tempfile

HOME = tempfile.mkdtemp(prefix="ew-recipes-")
os.environ |= {
    "HOME": HOME,
    "HF_HOME": HOME,
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "DAFT_PROGRESS_BAR": "0",
}
