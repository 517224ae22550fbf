"""What `swa_fast.keras` and `swa_fast.tf_keras` share.

Nothing here imports a framework at the top: each Keras brings a `Runtime` (its variables) and a
`RunningFit` (what is seen of a `fit` while it runs) of its own.
"""
