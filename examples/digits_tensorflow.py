"""SWA in Keras: handwritten digits, accuracy of the last iterate and of the average.

A small network learns scikit-learn's handwritten digits (1,797 real scans of 8 x 8 pixels) with
`model.fit`. The learning rate stays high to the end, so that the weights wander around a minimum
instead of settling in it; the wrapper averages those of the second half, every tenth step (Izmailov
et al. 2018, arXiv 1803.05407).

    python digits_tensorflow.py --seeds 5

Needs tensorflow, scikit-learn and swa-fast. Each seed draws its own split, initial weights and
order of the samples, and no seed is left out. The constants below were chosen on other seeds, from
100 on; the table starts at seed 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from swa_fast.tensorflow import SWA

BATCH = 16
RATE = 0.1
"""Learning rate, constant and high."""
DECAY = 1e-2
"""Weight decay: without it the gradients die when every training sample is classified correctly,
the weights stand still, and there is nothing to average."""
PERIOD = 10
"""Steps from one snapshot to the next. Not an epoch: seeded, Keras draws the same order of samples
in every epoch, so that snapshots at its end would all have the noise of the same last batches."""


@dataclass(frozen=True)
class Outcome:
    """Test accuracies that one seed gave, between 0 and 1."""

    last: float
    average: float


def build_model() -> Any:
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def run(seed: int, epochs: int) -> Outcome:
    keras.utils.set_random_seed(seed)
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    x, x_test, y, y_test = train_test_split(
        images, digits.target, test_size=0.5, random_state=seed, stratify=digits.target
    )
    steps = -(-len(x) // BATCH)
    optimizer = SWA(
        keras.optimizers.SGD(RATE, momentum=0.9, weight_decay=DECAY),
        start_averaging=steps * (epochs // 2),
        average_period=PERIOD,
    )
    model = build_model()
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    last = model.evaluate(x_test, y_test, verbose=0)[1]
    optimizer.assign_average_vars(model.variables)
    average = model.evaluate(x_test, y_test, verbose=0)[1]
    return Outcome(float(last), float(average))


def main(arguments: Sequence[str] | None = None) -> list[Outcome]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each training, >= 2")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.epochs < 2:
        parser.error("--seeds must be >= 1 and --epochs >= 2")
    print("seed   last iterate   average")
    outcomes = []
    for seed in range(options.seeds):
        outcomes.append(run(seed, options.epochs))
        print(f"{seed:4}   {outcomes[-1].last:12.2%}   {outcomes[-1].average:7.2%}", flush=True)
    last = np.mean([each.last for each in outcomes])
    average = np.mean([each.average for each in outcomes])
    print(f"mean   {last:12.2%}   {average:7.2%}")
    better = sum(each.average > each.last for each in outcomes)
    worse = sum(each.average < each.last for each in outcomes)
    print(f"the average is better in {better} of {len(outcomes)} seeds, worse in {worse}")
    return outcomes


if __name__ == "__main__":
    main()
