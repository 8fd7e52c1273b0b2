"""Benchmarks, run by hand from the root of the checkout: ``python -m benchmarks.<name>``.

Threads that wait for one another must not spin: where another process has the core, a spinning thread costs
tens of times what is being measured. PyTorch reads this once, so it is set before anything imports it.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
