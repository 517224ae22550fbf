"""Weight averaging on real data: scikit-learn's digits, `model.fit` and the SWA callback.

For several seeds, trains a small convolutional network with batch normalization, at a rate that
keeps its weights moving, and compares the test accuracy of the last iterate with that of the
average. Run it with
`python examples/digits_keras_callback.py`; KERAS_BACKEND chooses the backend. One minute on two
cores.
"""

import argparse
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from swa_fast.keras.callbacks import SWA


def data() -> tuple[Any, Any, Any, Any]:
    digits = load_digits()
    images = (digits.images / 16.0).astype("float32")[..., None]
    return tuple(train_test_split(images, digits.target, test_size=0.5, random_state=0))


def network() -> keras.Model:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.09, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main(seeds: int = 5, epochs: int = 20) -> list[tuple[float, float]]:
    x, x_test, y, y_test = data()
    start = epochs // 2
    accuracies = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = network()
        swa = SWA(start_epoch=start, lr_schedule="constant", swa_lr=0.085, bn_data=x)

        last: list[float] = []
        # Comes before the callback's own on_train_end: the weights are those of the last batch.
        probe = keras.callbacks.LambdaCallback(
            on_train_end=lambda logs, model=model, last=last: last.append(
                model.evaluate(x_test, y_test, verbose=0)[1]
            )
        )
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[probe, swa])
        averaged = model.evaluate(x_test, y_test, verbose=0)[1]
        accuracies.append((last[0], averaged))
        print(f"seed {seed}: last iterate {last[0]:.4f}, average {averaged:.4f}", flush=True)
    means = np.mean(accuracies, axis=0)
    print(f"mean over {seeds} seeds: last iterate {means[0]:.4f}, average {means[1]:.4f}")
    return accuracies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    main(options.seeds, options.epochs)
