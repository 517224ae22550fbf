"""One description of an average: when it takes a snapshot, and with what weight.

Pure functions of counters, no tensors: every framework's averager follows the same description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ._checks import check_integer, check_number, dtype_name
from .decays import Schedule, after, check_schedule, constant, from_dict, to_dict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Average:
    """When an average takes a snapshot of the values, and how much each snapshot weighs in it.

    Of the updates, counted from 1, those numbered ``start + 1``, ``start + 1 + period``,
    ``start + 1 + 2 * period``, ... take a snapshot. The first is copied. Each later one goes in as
    ``average + (value - average) * weight``, with the weight ``1 / (count + 1)`` in a mean of
    ``count`` snapshots, and ``1 - decay`` in an exponential average.

    Args:
        decay: None for the mean of all snapshots; a number from 0 to 1, the share of the old
            average that the new one keeps, for the exponential average; or a schedule
            ``(s, t, n) -> decay`` for one whose decay changes: see ``swa_fast.decays``.
        start: updates before the first snapshot, >= 0.
        period: updates from one snapshot to the next, >= 1.
        dtype: of the floating-point averages: "float64", "float32", "float16", "bfloat16", or the
            dtype of any framework that has such a name. None leaves the choice to the averager.
        initial: whether the values at construction are the first snapshot, as in
            ``tfa.optimizers.MovingAverage``, torch_ema and ultralytics. The average then has 1
            snapshot before the first update, whose own is the second: it weighs 1 / 2 in a mean.

    Attributes:
        decay: None, a float, or a schedule. A ``decays.constant`` is kept as its number.
        dtype: the name, or None.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.

    Example:
        >>> from swa_fast import Average, decays
        >>> Average(start=100, period=10)
        Average(decay=None, start=100, period=10, dtype=None, initial=False)
        >>> ema = Average(decay=decays.half_life(1000))
        >>> Average.from_dict(ema.to_dict()) == ema
        True
    """

    decay: float | Schedule | None = None
    start: int = 0
    period: int = 1
    dtype: Any = None
    initial: bool = False
    _behind: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the arguments."""
        decay: float | Schedule | None = None
        if self.decay is not None:
            decay = check_schedule("decay", self.decay)
            if isinstance(decay, constant):
                decay = decay.decay
        if not isinstance(self.initial, bool):
            raise TypeError(f"initial must be True or False. Received: {self.initial!r}")
        settings = {
            "decay": decay,
            "start": check_integer("start", self.start, 0),
            "period": check_integer("period", self.period, 1),
            "dtype": None if self.dtype is None else dtype_name(self.dtype),
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        behind = self.count(decay.updates) if isinstance(decay, after) else 0
        object.__setattr__(self, "_behind", behind)

    def due(self, update: int) -> bool:
        """Returns whether update number ``update``, counted from 1, takes a snapshot."""
        return bool(due(update, self.start, self.period))

    def count(self, update: int) -> int:
        """Returns the number of snapshots after update ``update``, if none was left out."""
        taken: int = max(0, taken_before(update, self.start, self.period) + 1)
        return taken + self.initial

    def last_due(self, update: int) -> int:
        """Returns the number of the last update up to ``update`` that is due; 0 if none is."""
        if update <= self.start:
            return 0
        return update - (update - 1 - self.start) % self.period

    def next_due(self, update: int) -> int:
        """Returns the number of the first update from ``update`` on that is due."""
        return max(self.start + 1, update + (self.start + 1 - update) % self.period)

    def weight(self, s: int, t: int, n: int) -> int | float:
        """Returns the weight of the snapshot that update ``t`` takes.

        Args:
            s: snapshots taken so far, with ``initial`` the values at construction among them.
            t: number of this update, counted from 1.
            n: updates since the last snapshot, this one included; of no effect if ``s`` is 0.

        Returns:
            A float, the weight. Or an int, the number of snapshots in a mean, whose weight
            ``1 / (count + 1)`` must be rounded once to each type of the arithmetic, as
            ``swa_fast.running_mean_`` does; 0 for a first snapshot, which is copied.

        Raises:
            TypeError: the schedule, a callable of the user's, returned no number.
            ValueError: it returned one outside [0, 1], or NaN.

        Example:
            >>> from swa_fast import Average
            >>> Average().weight(3, 4, 1), Average(decay=0.75).weight(3, 4, 1)
            (3, 0.25)
        """
        decay = self.decay
        if s == 0 or decay is None:
            return s
        if type(decay) is float:
            return 1.0 - decay
        schedule: Any = decay
        if isinstance(schedule, after):
            # That many snapshots are behind update `schedule.updates`; one at least is after it,
            # or else this one is copied.
            value = schedule.counted(max(1, s - self._behind), t, n)
        else:
            value = schedule(s, t, n)
        if type(value) is not float:
            value = check_number("the decay that a schedule returns", value)
        if not 0.0 <= value <= 1.0:
            raise ValueError(
                "the decay that a schedule returns must be between 0 and 1. "
                f"Received: {value} at s={s}, t={t}, n={n}"
            )
        return 1.0 - value

    def profile(self, steps: int) -> npt.NDArray[np.float64]:
        """Returns the share that the values of each update have in the average.

        Args:
            steps: updates so far, >= 1.

        Returns:
            A float64 array of shape ``(steps,)``, its entry ``i`` for update ``i + 1``; the sum
            is 1. With ``initial`` it is less than 1 by the share of the values at construction.

        Raises:
            ValueError: no snapshot is due in so many steps.

        Example:
            >>> from swa_fast import Average
            >>> Average(decay=0.5).profile(4)
            array([0.125, 0.125, 0.25 , 0.5  ])
            >>> Average(period=2).profile(5).round(3)
            array([0.333, 0.   , 0.333, 0.   , 0.333])
        """
        import numpy as np

        steps = check_integer("steps", steps, 1)
        if steps <= self.start and not self.initial:
            raise ValueError(
                f"steps must be > start, which is {self.start}, for there to be a snapshot. "
                f"Received: {steps}"
            )
        weights = np.zeros(steps)
        count, last = int(self.initial), 0
        for update in range(self.start + 1, steps + 1, self.period):
            weight = self.weight(count, update, update - last)
            weights[update - 1] = 1 / (weight + 1) if isinstance(weight, int) else weight
            count, last = count + 1, update
        # What each snapshot left to those before it; the last leaves what nothing takes.
        kept = np.append((1 - weights)[1:], 1.0)
        shares: npt.NDArray[np.float64] = weights * kept[::-1].cumprod()[::-1]
        return shares

    def to_dict(self) -> dict[str, Any]:
        """Returns the arguments that make an equal average, fit for JSON.

        A schedule becomes a dict of its own. One that is not of ``swa_fast.decays`` is not saved:
        ``{"name": "custom"}`` stands in its place, and ``from_dict`` refuses it.
        """
        config = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        if callable(self.decay):
            config["decay"] = to_dict(self.decay)
        return config

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Average:
        """Returns the average of which ``to_dict`` returned ``config``; a missing entry is default.

        Raises:
            TypeError: ``config`` is not a dict, or an entry has the wrong type.
            ValueError: an entry is unknown or out of range, or the schedule was not saved.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"an average's config must be a dict. Received: {config!r}")
        known = [each.name for each in fields(cls) if each.init]
        unknown = [name for name in config if name not in known]
        if unknown:
            raise ValueError(f"an average's config has only {known}. Received: {unknown[:5]} too")
        decay = config.get("decay")
        return cls(**{**config, "decay": from_dict(decay) if isinstance(decay, Mapping) else decay})


def due(update: Any, start: int, period: int) -> Any:
    """Returns whether update number ``update``, counted from 1, takes a snapshot.

    Written with operators alone, so that it works on Python integers and on the integer tensors of
    any framework, inside compiled graphs too.

    Args:
        update: an int or an integer tensor.
        start: updates before the first snapshot, >= 0.
        period: updates from one snapshot to the next, >= 1.

    Example:
        >>> from swa_fast.average import due
        >>> [due(update, start=2, period=3) for update in (2, 3, 4, 6)]
        [False, True, False, True]
    """
    # Not "== 0", which compares objects in a graph of TensorFlow 1.
    return (update > start) & ((update - (start + 1)) % period < 1)


def taken_before(update: Any, start: int, period: int) -> Any:
    """Returns how many updates before number ``update`` took a snapshot, if that takes one itself.

    Written with operators alone, as ``due``. Where none is due, the result has no meaning.
    """
    return (update - (start + 1)) // period


def check_averages(averages: Any) -> dict[str, Average]:
    """Returns several averages by name.

    Raises:
        TypeError: it is not a dict of ``{name: Average(...)}`` with one at least.
    """
    rule = "averages must be a dict with at least one {name: swa_fast.Average(...)}"
    if not isinstance(averages, Mapping) or not averages:
        hint = ""
        if isinstance(averages, Average):
            hint = "; give it a name, {'name': Average(...)}"
        elif isinstance(averages, (int, float)):
            hint = f"; for a decay write decay={averages}"
        raise TypeError(f"{rule}. Received: {averages!r}{hint}")
    for name, average in averages.items():
        if not isinstance(name, str) or not name or not isinstance(average, Average):
            raise TypeError(f"{rule}, each name a str. Received: {{{name!r}: {average!r}}}")
    return dict(averages)
