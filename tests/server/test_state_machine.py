"""Any order of calls, cancellations, faults, restarts and closes, over real sockets in simulated time."""

from __future__ import annotations

import sys

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.server.machine import Machine, schedules

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.version_info < (3, 11),
        reason="looptime 0.7, the last for Python 3.10, spins in select after jittered pauses",
    ),
]


def test_any_order() -> None:
    """Vectors are their texts' own, every call ends, nobody waits for what nobody works on, and nothing is left."""
    run_state_machine_as_test(Machine, settings=schedules(200, derandomize=True))
