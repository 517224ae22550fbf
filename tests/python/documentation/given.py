"""What a page's code takes as given: the reader's own model and data.

A page that shows a whole program needs nothing here.
"""

from __future__ import annotations

_KERAS = """
import keras
import numpy as np
keras.utils.set_random_seed(0)
x = np.random.normal(size=(352, 4)).astype("float32")
y = np.random.normal(size=(352, 1)).astype("float32")
layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
model = keras.Sequential([keras.Input((4,)), *layers])
model.compile(keras.optimizers.SGD(0.1), "mse")
_fit = model.fit
model.fit = lambda *arguments, **settings: _fit(*arguments, **{"verbose": 0, **settings})
"""

GIVEN = {
    "docs/keras_callback.md": _KERAS,
    "docs/tensorflow.md": _KERAS,
    "docs/cuda.md": """
import torch
import swa_fast
values = [torch.ones(1000, device="cuda")]
averages = [torch.zeros(1000, device="cuda")]
count = torch.zeros((), dtype=torch.int64, device="cuda")
swa_fast.running_mean_(averages, values, count)
graph = torch.cuda.CUDAGraph()
""",
}
