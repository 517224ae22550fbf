"""The plots of docs/averaging.md of what weighs how much, one for each schedule.

Nothing is trained: the numbers follow from the schedules.

    python docs/plots/schedules.py

Takes seconds. Needs matplotlib and swa-fast.
"""

from __future__ import annotations

from style import ACCENT, GOLD, OURS, figure

import swa_fast
from swa_fast import Average, decays

STEPS = 1000

PICTURES: dict[str, tuple[str, dict[str, Average]]] = {
    "mean": (
        "A mean weighs its snapshots alike",
        {
            "Average()": Average(),
            "Average(start=500)": Average(start=500),
            "Average(start=500, period=2)": Average(start=500, period=2),
        },
    ),
    "constant": (
        "A constant decay keeps much of the first snapshot for long",
        {
            "decay=0.99": Average(decay=0.99),
            "decay=0.997": Average(decay=0.997),
            "decay=0.999": Average(decay=0.999),
        },
    ),
    "warmup": (
        "A warm-up forgets the first snapshots",
        {
            "warmup(0.999)": Average(decay=decays.warmup(0.999)),
            "warmup(0.999, power=3/4)": Average(decay=decays.warmup(0.999, power=3 / 4)),
            "warmup(0.999, power=1)": Average(decay=decays.warmup(0.999, power=1)),
        },
    ),
    "ratio": (
        "A ratio grows with the training, until it reaches its decay",
        {
            "ratio(0.999)": Average(decay=decays.ratio(0.999)),
            "ratio(0.99)": Average(decay=decays.ratio(0.99)),
            "ratio(0.98)": Average(decay=decays.ratio(0.98)),
        },
    ),
    "ramp": (
        "A ramp comes near its decay after three tau or so",
        {
            "ramp(0.995, tau=50)": Average(decay=decays.ramp(0.995, 50)),
            "ramp(0.995, tau=200)": Average(decay=decays.ramp(0.995, 200)),
            "ramp(0.995, tau=300)": Average(decay=decays.ramp(0.995, 300)),
        },
    ),
    "half_life": (
        "A half-life is a number of steps",
        {
            "half_life(200)": Average(decay=decays.half_life(200)),
            "half_life(100)": Average(decay=decays.half_life(100)),
            "half_life(50)": Average(decay=decays.half_life(50)),
        },
    ),
    "power": (
        "A power is as wide at any time, relative to the training so far",
        {
            "power(sigma_rel=0.05)": Average(decay=decays.power(sigma_rel=0.05)),
            "power(sigma_rel=0.1)": Average(decay=decays.power(sigma_rel=0.1)),
            "power(sigma_rel=0.2)": Average(decay=decays.power(sigma_rel=0.2)),
        },
    ),
    "after": (
        "after() begins anew at a step",
        {
            "after(400, 0.99)": Average(decay=decays.after(400, 0.99)),
            "after(400, ratio(0.999))": Average(decay=decays.after(400, decays.ratio(0.999))),
            "after(400, power(sigma_rel=0.2))": Average(
                decay=decays.after(400, decays.power(sigma_rel=0.2))
            ),
        },
    ),
}
"""For each picture its title, and the averages by their labels."""


def main() -> None:
    """Draw all pictures."""
    for name, (title, averages) in PICTURES.items():
        with figure(f"profile-{name}", 6.2, 2.3) as ax:
            ax.set_prop_cycle(color=[OURS, ACCENT, GOLD])
            swa_fast.plots.profile(averages, STEPS, ax=ax)
            ax.set_title(title)


if __name__ == "__main__":
    main()
