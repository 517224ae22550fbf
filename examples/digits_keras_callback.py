"""Weight averaging on real data: scikit-learn's digits, `model.fit` and the SWA callback.

A small convolutional network with batch normalization is trained at a rate that keeps its weights
moving. The callback averages those of the second half, every tenth step, and computes the moving
statistics for the average.

    python digits_keras_callback.py --seeds 5

Needs keras with a backend, which KERAS_BACKEND chooses, scikit-learn and swa-fast. Each seed draws
its own split, initial weights and order of the samples, and no seed is left out. The constants
below were chosen on other seeds, from 100 on; the table starts at seed 0.
"""

import argparse
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from swa_fast.keras.callbacks import SWA

RATE = 0.14
"""Learning rate, constant and high: the last weights are noisy."""
DECAY = 1e-2
"""Weight decay: without it the gradients die when every training sample is classified correctly,
the weights stand still, and there is nothing to average."""
PERIOD = 10
"""Steps from one snapshot to the next. Not an epoch: seeded, Keras draws the same order of samples
in every epoch, so that snapshots at its end would all have the noise of the same last batches."""


def data(seed: int) -> tuple[Any, Any, Any, Any]:
    digits = load_digits()
    images = (digits.images / 16.0).astype("float32")[..., None]
    return tuple(
        train_test_split(
            images, digits.target, test_size=0.5, random_state=seed, stratify=digits.target
        )
    )


def network() -> keras.Model:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, padding="same", strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.SGD(RATE, momentum=0.9, weight_decay=DECAY),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def run(seed: int, epochs: int) -> tuple[float, float]:
    """Return the test accuracy of the last weights and of their average."""
    keras.utils.set_random_seed(seed)
    x, x_test, y, y_test = data(seed)
    model = network()
    swa = SWA(start_epoch=epochs // 2, every_n_steps=PERIOD, bn_data=x)

    def accuracy() -> float:
        return float(model.evaluate(x_test, y_test, verbose=0)[1])

    last: list[float] = []
    # Comes before the callback's own on_train_end: the weights are those of the last batch.
    probe = keras.callbacks.LambdaCallback(on_train_end=lambda logs: last.append(accuracy()))
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[probe, swa])
    return last[0], accuracy()


def main(seeds: int = 5, epochs: int = 20) -> list[tuple[float, float]]:
    """Train a network for each seed, print both accuracies, return them."""
    accuracies = []
    for seed in range(seeds):
        accuracies.append(run(seed, epochs))
        last, averaged = accuracies[-1]
        print(f"seed {seed}: last iterate {last:.2%}, average {averaged:.2%}", flush=True)
    means = np.mean(accuracies, axis=0)
    better = sum(averaged > last for last, averaged in accuracies)
    worse = sum(averaged < last for last, averaged in accuracies)
    print(f"mean over {seeds} seeds: last iterate {means[0]:.2%}, average {means[1]:.2%}")
    print(f"the average is better in {better} of {seeds} seeds, worse in {worse}")
    return accuracies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    main(options.seeds, options.epochs)
