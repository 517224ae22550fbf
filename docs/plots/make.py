"""Draws every plot of the documentation again and fills the tables that go with them.

    python docs/plots/make.py

Takes about six minutes on two cores. `benchmarks.py` alone is what a new record in `benchmarks/`
needs. The numbers depend on the machine's rounding only; the seeds are fixed.
"""

from __future__ import annotations

import architecture
import averaging
import batch_norm
import benchmarks
import low_precision
import merging
import post_hoc
import schedules
import warm_up

if __name__ == "__main__":
    architecture.main()
    benchmarks.main()
    averaging.main([])
    batch_norm.main([])
    low_precision.main([])
    merging.main()
    schedules.main()
    post_hoc.main([])
    warm_up.main([])
