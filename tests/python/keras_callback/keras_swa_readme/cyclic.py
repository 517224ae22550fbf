"""keras-swa's second README example: 'cyclic' schedule, batch normalization; only imports changed.

For legacy Keras import from `tf_keras` and `swa_fast.tf_keras.callbacks`.
"""

from keras.layers import BatchNormalization, Dense
from keras.models import Sequential
from keras.optimizers import SGD
from keras.utils import to_categorical
from sklearn.datasets import make_blobs

from swa_fast.keras.callbacks import SWA  # was: from swa.keras import SWA

# make dataset
X, y = make_blobs(n_samples=1000, centers=3, n_features=2, cluster_std=2, random_state=2)
y = to_categorical(y)

# build model
model = Sequential()
model.add(Dense(50, input_dim=2, activation="relu"))
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
    verbose=1,
)

# train
model.fit(X, y, batch_size=32, epochs=epochs, verbose=1, callbacks=[swa])
