"""Schedules: the decay of each snapshot of an exponential average, from three counters.

A schedule is a callable ``(s, t, n) -> decay``. The decay, from 0 to 1, is the share of the old
average that the new one keeps; 0 copies the snapshot. At each snapshot but the first, which is
copied in any case,

- ``s`` is the number of snapshots taken so far. It is 1 at the second snapshot, and 1 at the first
  update of an average that begins with the values at construction (``initial=True``).
- ``t`` is the number of this update, counted from 1 since the average was made.
- ``n`` is the number of updates since the last snapshot, this one included: the period, unless a
  snapshot was left out.

Those below compare by their settings and are saved with an average's configuration. Any other
callable is allowed too; it is not saved.

Example:
    >>> from swa_fast import Average, decays
    >>> Average(decay=decays.warmup(0.9999))
    Average(decay=warmup(decay=0.9999, gamma=1.0, power=0.6666666666666666, minimum=0.0), start=0, \
period=1, dtype=None, initial=False)
    >>> schedule = decays.ratio(0.9999)
    >>> [round(schedule(s, s + 1, 1), 4) for s in (1, 10, 100, 1000, 1_000_000)]
    [0.1818, 0.55, 0.9182, 0.9911, 0.9999]
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any

from ._checks import check_decay, check_integer, check_number, check_positive

__all__ = [
    "after",
    "constant",
    "from_dict",
    "half_life",
    "power",
    "ramp",
    "ratio",
    "to_dict",
    "warmup",
]

Schedule = Callable[[int, int, int], float]

_CUSTOM = "custom"
"""Saved in the place of the name, for a callable that is not of this module."""

_WIDEST = math.nextafter(1 / math.sqrt(12), 1.0)
"""The largest sigma_rel, that of gamma 0; one step up, for all ways to round 1 / sqrt(12)."""


@dataclass(frozen=True)
class constant:
    """The same decay at every snapshot; ``Average(decay=0.999)`` means this.

    Args:
        decay: from 0 to 1.

    Raises:
        TypeError: ``decay`` is not a number.
        ValueError: it is out of range.
    """

    decay: float

    def __post_init__(self) -> None:
        """Checks the settings."""
        _set(self, decay=check_decay("decay", self.decay))

    def __call__(self, s: int, t: int, n: int) -> float:
        """Returns ``decay``."""
        return self.decay


@dataclass(frozen=True)
class warmup:
    """``1 - (1 + s / gamma) ** -power``, held between ``minimum`` and ``decay``.

    With ``gamma`` 1 and ``power`` 1 it is the mean until it reaches ``decay``. The warm-up of timm
    (``use_warmup``), diffusers (``use_ema_warmup``) and ema-pytorch, by Katherine Crowson.

    Args:
        decay: the largest decay, from 0 to 1.
        gamma: > 0; so many times as many snapshots make the same decay as with 1.
        power: > 0; 2 / 3 reaches 0.999 after 31,600 snapshots and 0.9999 after a million, 3 / 4
            after 10,000 and 215,400.
        minimum: the smallest decay, from 0 to ``decay``.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.

    Example:
        >>> from swa_fast import decays
        >>> schedule = decays.warmup(0.999, power=1)
        >>> [schedule(s, s + 1, 1) for s in (1, 3, 9, 10_000)]
        [0.5, 0.75, 0.9, 0.999]
    """

    decay: float
    gamma: float = 1.0
    power: float = 2 / 3
    minimum: float = 0.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        decay = check_decay("decay", self.decay)
        minimum = check_number("minimum", self.minimum)
        if not 0.0 <= minimum <= decay:
            raise ValueError(
                f"minimum must be between 0 and decay, which is {decay}. Received: {minimum}"
            )
        gamma, power = check_positive("gamma", self.gamma), check_positive("power", self.power)
        _set(self, decay=decay, gamma=gamma, power=power, minimum=minimum)

    def __call__(self, s: int, t: int, n: int) -> float:
        """Returns the decay of the snapshot that ``s`` others came before."""
        decay: float = 1 - (1 + s / self.gamma) ** -self.power
        if decay > self.decay:
            return self.decay
        return decay if decay > self.minimum else self.minimum


@dataclass(frozen=True)
class ratio:
    """``(1 + s) / (10 + s)``, at most ``decay``.

    The schedule of ``tfa.optimizers.MovingAverage`` (``dynamic_decay``; it counts ``s`` from 0
    where the values at construction count as 1 here), of torch_ema, and of diffusers by default.

    Args:
        decay: the largest decay, from 0 to 1.

    Raises:
        TypeError: ``decay`` is not a number.
        ValueError: it is out of range.
    """

    decay: float

    def __post_init__(self) -> None:
        """Checks the settings."""
        _set(self, decay=check_decay("decay", self.decay))

    def __call__(self, s: int, t: int, n: int) -> float:
        """Returns the decay of the snapshot that ``s`` others came before."""
        return min(self.decay, (1 + s) / (10 + s))


@dataclass(frozen=True)
class ramp:
    """``decay * (1 - exp(-s / tau))``: the schedule of ultralytics' ``ModelEMA``.

    Args:
        decay: what it approaches, from 0 to 1.
        tau: snapshots, > 0: after so many it is 63 % of ``decay``, after three times as many 95 %.
            ultralytics has 2,000.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of range.
    """

    decay: float
    tau: float

    def __post_init__(self) -> None:
        """Checks the settings."""
        _set(self, decay=check_decay("decay", self.decay), tau=check_positive("tau", self.tau))

    def __call__(self, s: int, t: int, n: int) -> float:
        """Returns the decay of the snapshot that ``s`` others came before."""
        return self.decay * (1 - math.exp(-s / self.tau))


@dataclass(frozen=True)
class half_life:
    """``2 ** (-n / updates)``: a snapshot's share halves in so many updates, whatever the period.

    That of Composer's EMA. An average of another period, or one that left out a snapshot, forgets
    at the same rate.

    Args:
        updates: the half-life, > 0, in calls of ``update``.

    Raises:
        TypeError: ``updates`` is not a number.
        ValueError: it is out of range.

    Example:
        >>> from swa_fast import decays
        >>> schedule = decays.half_life(1000)
        >>> schedule(5, 5000, 1000), round(schedule(50, 5000, 100), 4)
        (0.5, 0.933)
    """

    updates: float

    def __post_init__(self) -> None:
        """Checks the settings."""
        _set(self, updates=check_positive("updates", self.updates))

    def __call__(self, s: int, t: int, n: int) -> float:
        """Returns the decay over ``n`` updates."""
        return float(2.0 ** (-n / self.updates))


@dataclass(frozen=True, init=False, repr=False)
class power:
    """``(1 - n / t) ** (gamma + 1)``: the average grows with the training.

    Its profile over the updates so far is ``t ** gamma``, of the same relative width at any time.
    After Karras et al. 2024 (arXiv 2312.02696). Two of them, saved now and then, are enough to make
    an average of any other width afterwards. Give exactly one of the two arguments.

    Args:
        sigma_rel: relative width of the profile: its standard deviation, as a share of the training
            so far; > 0 and <= 1 / sqrt(12), which is the mean. The paper has 0.05 to 0.15.
        gamma: the exponent itself, >= 0. ``sigma_rel`` gives it by algorithm 2 of the paper: the
            root of ``sigma_rel ** 2 * (gamma + 2) ** 2 * (gamma + 3) = gamma + 1``, to rounding.

    Attributes:
        sigma_rel: as given, or what ``gamma`` makes of it.
        gamma: as given, or what ``sigma_rel`` makes of it.

    Raises:
        TypeError: not exactly one of the arguments is given, or it is not a number.
        ValueError: it is out of range.

    Example:
        >>> from swa_fast import decays
        >>> schedule = decays.power(sigma_rel=0.1)
        >>> round(schedule.gamma, 4), round(schedule(99, 100, 1), 4)
        (6.9372, 0.9233)
    """

    sigma_rel: float = field(compare=False)
    gamma: float
    _given: str = field(compare=False)

    def __init__(self, *, sigma_rel: float | None = None, gamma: float | None = None) -> None:
        """Computes the argument that is not given; see the class."""
        if (sigma_rel is None) == (gamma is None):
            raise TypeError(
                "exactly one of sigma_rel and gamma must be given. "
                f"Received: sigma_rel={sigma_rel!r}, gamma={gamma!r}"
            )
        if sigma_rel is not None:
            sigma_rel = check_number("sigma_rel", sigma_rel)
            _set(self, sigma_rel=sigma_rel, gamma=_gamma_of(sigma_rel), _given="sigma_rel")
            return
        gamma = check_number("gamma", gamma)
        if not 0.0 <= gamma < math.inf:
            raise ValueError(f"gamma must be >= 0 and finite. Received: {gamma}")
        # The standard deviation of a profile t ** gamma on [0, 1].
        sigma_rel = math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)
        _set(self, sigma_rel=sigma_rel, gamma=gamma, _given="gamma")

    def __call__(self, s: int, t: int, n: int) -> float:
        """Returns the decay from update ``t - n`` to update ``t``."""
        return float(((t - n) / t) ** (self.gamma + 1))

    def __repr__(self) -> str:
        """Shows the argument that was given."""
        return f"power({self._given}={getattr(self, self._given)!r})"


@dataclass(frozen=True)
class after:
    """0 until update ``updates``, from there ``schedule`` with its counters from there.

    Until then each snapshot replaces the average. So does the first one after it: as the first
    snapshot of any average it is copied, and at the second ``schedule`` is asked with ``s`` 1.
    That is ``update_after_step`` of timm, diffusers and ema-pytorch.

    An average counts the snapshots before update ``updates`` by its start and period: for each that
    was left out among those, ``s`` stays 1 for one snapshot more. Called by itself, this takes it
    that all snapshots were ``n`` updates apart.

    Args:
        updates: the last update of the first part, >= 0.
        schedule: a number or a schedule, other than ``after``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range.

    Example:
        >>> from swa_fast import decays
        >>> schedule = decays.after(100, decays.warmup(0.999, power=1))
        >>> [schedule(t - 1, t, 1) for t in (2, 101, 102, 104)]
        [0.0, 0.0, 0.5, 0.75]
    """

    updates: int
    schedule: float | Schedule

    def __post_init__(self) -> None:
        """Checks the arguments."""
        schedule = check_schedule("schedule", self.schedule)
        if isinstance(schedule, after):
            raise ValueError(f"schedule must not be another `after`. Received: {schedule!r}")
        _set(self, updates=check_integer("updates", self.updates, 0), schedule=schedule)

    def __call__(self, s: int, t: int, n: int) -> float:
        """Returns the decay at update ``t``; see the class."""
        return self.counted(min(s, (t - self.updates - 1) // n), t, n)

    def counted(self, s: int, t: int, n: int) -> float:
        """Returns the decay at update ``t``.

        Args:
            s: snapshots taken after update ``updates`` and before this one.
            t: number of this update, counted from 1.
            n: updates since the last snapshot.
        """
        if t - n <= self.updates:
            return 0.0
        schedule: Any = self.schedule  # a number has become a `constant`
        decay: float = schedule(s, t - self.updates, n)
        return decay


_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (constant, warmup, ratio, ramp, half_life, power, after)
}


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """Returns the name and the settings of a schedule, fit for JSON.

    Of a callable that is not of this module nothing is saved: ``{"name": "custom"}``.

    Example:
        >>> from swa_fast import decays
        >>> decays.to_dict(decays.after(10, decays.power(sigma_rel=0.1)))
        {'name': 'after', 'updates': 10, 'schedule': {'name': 'power', 'sigma_rel': 0.1}}
    """
    name = type(schedule).__name__
    if type(schedule) is not _KINDS.get(name):
        return {"name": _CUSTOM}
    if isinstance(schedule, power):
        return {"name": name, schedule._given: getattr(schedule, schedule._given)}
    settings = {each.name: getattr(schedule, each.name) for each in fields(_KINDS[name])}
    if isinstance(schedule, after):
        inner: Any = schedule.schedule
        settings["schedule"] = to_dict(inner)
    return {"name": name, **settings}


def from_dict(config: Mapping[str, Any]) -> Schedule:
    """Returns the schedule of which ``to_dict`` returned ``config``.

    Raises:
        TypeError: ``config`` is not a dict, or a setting has the wrong type.
        ValueError: it has no schedule, because that was a callable of your own; or the name is
            unknown; or a setting is missing, unknown or out of range.

    Example:
        >>> from swa_fast import decays
        >>> decays.from_dict({"name": "half_life", "updates": 1000})
        half_life(updates=1000.0)
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"a schedule's config must be a dict. Received: {config!r}")
    settings = dict(config)
    name = settings.pop("name", None)
    if name == _CUSTOM:
        raise ValueError(
            "the schedule must be one of swa_fast.decays to be made from a config; a callable of "
            f"your own is not saved, so give it again. Received: {dict(config)}"
        )
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError(
            f"a schedule's name must be one of {', '.join(_KINDS)}. Received: {name!r}"
        )
    kind = _KINDS[name]
    try:
        bound = signature(kind).bind(**settings)
    except TypeError as error:
        raise ValueError(f"the config of {name} must fit it: {error}. Received: {config}") from None
    if kind is after:
        bound.arguments["schedule"] = from_dict(bound.arguments["schedule"])
    made: Schedule = kind(*bound.args, **bound.kwargs)
    return made


def check_schedule(name: str, value: Any) -> Schedule:
    """Returns a number as a schedule and a schedule as it is.

    Args:
        name: the argument, for the error.
        value: what it was given.

    Raises:
        TypeError: ``value`` is neither.
        ValueError: it is a number outside [0, 1].
    """
    if callable(value) and not isinstance(value, type):
        schedule: Schedule = value
        with contextlib.suppress(ValueError):  # a callable that does not tell its arguments
            try:
                inspect.signature(schedule).bind(0, 1, 1)
            except TypeError:
                raise TypeError(
                    f"{name} must be a number or a schedule (s, t, n) -> decay. Received: "
                    f"{value!r}, which does not take three arguments"
                ) from None
        return schedule
    if isinstance(value, type) or not hasattr(value, "__float__"):
        raise TypeError(
            f"{name} must be a number or a schedule (s, t, n) -> decay. Received: {value!r}"
        )
    return constant(check_decay(name, value))


def _gamma_of(sigma_rel: float) -> float:
    """Returns the gamma of a profile of this relative width, correctly rounded."""
    if not 1e-300 <= sigma_rel <= _WIDEST:
        raise ValueError(
            f"sigma_rel must be > 0 and <= 1 / sqrt(12), which is {1 / math.sqrt(12):.6f}. "
            f"Received: {sigma_rel}"
        )
    from fractions import Fraction  # here, because few need it and it takes a millisecond

    inverse_square = 1 / Fraction(sigma_rel) ** 2

    def newton(gamma: Fraction) -> Fraction:
        excess = (gamma + 2) ** 2 * (gamma + 3) - inverse_square * (gamma + 1)
        slope = 3 * gamma**2 + 14 * gamma + 16 - inverse_square
        return gamma - excess / slope

    # From above the root, where the cubic is convex, exact steps go down until rounding ends them:
    # the last one starts within an ulp of the root, and its own error is the square of that.
    gamma = 1 / sigma_rel - 1
    while (nearer := float(newton(Fraction(gamma)))) < gamma:
        gamma = nearer
    return max(0.0, nearer)


def _set(schedule: Any, /, **settings: Any) -> None:
    for name, value in settings.items():
        object.__setattr__(schedule, name, value)
