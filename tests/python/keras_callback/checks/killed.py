"""`TARGET DIRECTORY EPOCH`: trains with backups in DIRECTORY and is killed inside of EPOCH."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any


def model(env: Any) -> Any:
    return env.bn_model(env.keras.optimizers.SGD(0.03, momentum=0.9))


def callback(env: Any, **arguments: Any) -> Any:
    return env.SWA(2, "cyclic", swa_lr=0.01, swa_freq=2, **arguments)


def callbacks(env: Any, directory: Path) -> list[Any]:
    backup = env.keras.callbacks.BackupAndRestore(str(directory / "keras"))
    return [callback(env, backup_path=directory / "swa.npz"), backup]


if __name__ == "__main__":
    target, directory, last = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from checks.environment import Environment

    environment = Environment(target)
    epochs: list[int] = []

    def die(this: Any, batch: int, logs: Any = None) -> None:
        if epochs[-1] == int(last) and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    dying = environment.callback(
        on_epoch_begin=lambda this, epoch, logs=None: epochs.append(epoch), on_train_batch_end=die
    )
    environment.fit(model(environment), *callbacks(environment, Path(directory)), dying, epochs=8)
