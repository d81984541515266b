"""One table of server faults, run against embedwire and its peers: `python -m benchmarks.faults`."""

import os

os.environ.setdefault(
    "LITELLM_LOCAL_MODEL_COST_MAP", "True"
)  # else importing it asks the internet for prices
