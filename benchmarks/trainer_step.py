"""A training step of Hugging Face's Trainer with AveragingCallback, against one without.

    pip install --no-deps --group trainers
    python benchmarks/trainer_step.py

The model is a GPT-2 of a tiny configuration, with random tokens. Both trainers are made once and
take turns, a few steps each, so that a busy machine slows both. Printed are the medians, the median
of the ratios of neighbouring turns, and the time within the callback itself, which is all that the
ratio is made of and can be told apart from noise.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from swa_fast.transformers import AveragingCallback


class Turns(TrainerCallback):
    """Lets the training run so many steps at a time, and waits in between."""

    def __init__(self, steps: int) -> None:
        """Waits before the first step."""
        self.steps, self.done = steps, 0
        self.go, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Waits for the next turn."""
        if self.done % self.steps == 0:
            self.stopped.release()
            self.go.acquire()
            self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends a turn."""
        self.done += 1
        if self.done % self.steps == 0:
            self.seconds.append((time.perf_counter() - self._begun) / self.steps)


class Timed(AveragingCallback):
    """The callback, with the time in its event of a step."""

    def __init__(self, **average: Any) -> None:
        """As the callback's."""
        super().__init__(**average)
        self.seconds: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the snapshot."""
        begun = time.perf_counter()
        super().on_step_end(args, state, control, **kwargs)
        self.seconds.append(time.perf_counter() - begun)


def trainer(callbacks: list[Any], steps: int) -> Trainer:
    """Return a trainer of a tiny GPT-2: 4 layers of 128, batches of 8 sequences of 128 tokens."""
    torch.manual_seed(0)
    configuration = GPT2Config(
        vocab_size=1000, n_positions=128, n_embd=128, n_layer=4, n_head=4, use_cache=False
    )
    tokens = torch.randint(0, 1000, (64, 128))
    return Trainer(
        model=GPT2LMHeadModel(configuration),
        args=TrainingArguments(
            tempfile.mkdtemp(),
            per_device_train_batch_size=8,
            max_steps=steps,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=callbacks,
    )


def main() -> None:
    """Print what a step takes with and without."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--steps", type=int, default=2, help="in a turn")
    options = parser.parse_args()
    steps = (options.turns + 2) * options.steps
    without, with_it = Turns(options.steps), Turns(options.steps)
    callback = Timed(decay=0.999)
    # The callback of the turns comes last, and so its time has the averaging in it.
    trainers = [trainer([without], steps), trainer([callback, with_it], steps)]
    threads = [threading.Thread(target=one.train, daemon=True) for one in trainers]
    for thread, turns in zip(threads, (without, with_it), strict=True):
        thread.start()
        turns.stopped.acquire()
    for turn in range(options.turns + 1):
        order = (without, with_it) if turn % 2 else (with_it, without)
        for turns in order:
            turns.go.release()
            turns.stopped.acquire()
    first = 1  # the first turn of each prepares
    ratios = [b / a for a, b in zip(without.seconds[first:], with_it.seconds[first:], strict=True)]
    medians = [statistics.median(turns.seconds[first:]) for turns in (without, with_it)]
    own = statistics.median(callback.seconds[options.steps :])
    print(f"step without: {1e3 * medians[0]:.2f} ms, with: {1e3 * medians[1]:.2f} ms")
    print(f"ratio of neighbouring turns, median of {len(ratios)}: {statistics.median(ratios):.4f}")
    print(f"within the callback: {1e6 * own:.0f} us, {100 * own / medians[0]:.2f} % of a step")


if __name__ == "__main__":
    main()
