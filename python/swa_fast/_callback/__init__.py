"""What `swa_fast.keras.callbacks` and `swa_fast.tf_keras.callbacks` share.

Nothing here imports a framework at the top: the callback speaks to its Keras through a `Backend`
(see `backend.py`), of which each Keras brings its own.
"""
