"""keras-swa's second example with only the import changed: 'cyclic' schedule, batch normalization.

Run it with `python examples/make_blobs_cyclic.py`; KERAS_BACKEND chooses the backend. For legacy
Keras, import `tf_keras` in the place of `keras`, and `swa_fast.tf_keras.callbacks`.
"""

from keras.layers import BatchNormalization, Dense
from keras.models import Sequential
from keras.optimizers import SGD
from keras.utils import to_categorical
from sklearn.datasets import make_blobs

from swa_fast.keras.callbacks import SWA


def main(verbose: int = 1) -> tuple[Sequential, dict[str, list[float]]]:
    # make dataset
    x, y = make_blobs(n_samples=1000, centers=3, n_features=2, cluster_std=2, random_state=2)
    y = to_categorical(y)

    # build model
    model = Sequential()
    model.add(Dense(50, activation="relu"))
    model.add(BatchNormalization())
    model.add(Dense(3, activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer=SGD(learning_rate=0.1))

    epochs = 100
    start_epoch = 75

    # define swa callback
    swa = SWA(
        start_epoch=start_epoch,
        lr_schedule="cyclic",
        swa_lr=0.001,
        swa_lr2=0.003,
        swa_freq=3,
        batch_size=32,  # accepted, no longer needed
        verbose=verbose,
    )

    # train
    history = model.fit(x, y, batch_size=32, epochs=epochs, verbose=verbose, callbacks=[swa])
    return model, history.history


if __name__ == "__main__":
    main()
