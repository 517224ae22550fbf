"""keras-swa's first README example: 'constant' schedule, 100 epochs, only the import changed.

keras-swa wrote `SGD(lr=0.1)`, which Keras 3 refuses and legacy Keras takes for its default rate.
For legacy Keras import `swa_fast.tf_keras.callbacks`.
"""

from sklearn.datasets import make_blobs
from tensorflow.keras.layers import Dense
from tensorflow.keras.models import Sequential
from tensorflow.keras.optimizers import SGD
from tensorflow.keras.utils import to_categorical

from swa_fast.keras.callbacks import SWA  # was: from swa.tfkeras import SWA

# make dataset
X, y = make_blobs(n_samples=1000, centers=3, n_features=2, cluster_std=2, random_state=2)
y = to_categorical(y)

# build model
model = Sequential()
model.add(Dense(50, input_dim=2, activation="relu"))
model.add(Dense(3, activation="softmax"))
model.compile(loss="categorical_crossentropy", optimizer=SGD(learning_rate=0.1))

epochs = 100
start_epoch = 75

# define swa callback
swa = SWA(start_epoch=start_epoch, lr_schedule="constant", swa_lr=0.01, verbose=1)

# train
model.fit(X, y, epochs=epochs, verbose=1, callbacks=[swa])
