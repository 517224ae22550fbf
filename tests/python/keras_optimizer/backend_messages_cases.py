"""What a careless call is answered on Keras 3: the whole sentence, and nothing is changed."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from careless_calls import Careless
from swa_fast.keras import callbacks, optimizers, update_bn

careless = Careless(keras, optimizers, callbacks, update_bn)
CALLS = {
    **careless.constructors(),
    **careless.averages(),
    **careless.steps(),
    **(careless.losses() if keras.backend.backend() == "tensorflow" else {}),
    **careless.in_fit(),
}


@pytest.mark.parametrize("name", CALLS)
def test_careless_call(name: str) -> None:
    call, error, message = CALLS[name]
    before = careless.state()
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
    for now, then in zip(careless.state(), before, strict=True):
        np.testing.assert_array_equal(now, then)
