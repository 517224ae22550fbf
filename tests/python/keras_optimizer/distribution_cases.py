"""MirroredStrategy on two logical CPU devices; run in a process of its own by test_processes.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from optimizer_oracles import mean_of, ulps
from swa_fast.tensorflow import SWA, AveragedOptimizerWrapper, MovingAverage

keras: Any = tf.keras
LEGACY = keras.optimizers.Optimizer.__module__.startswith("tf_keras")
INNER = {
    "sgd": lambda: keras.optimizers.SGD(0.25),
    "adam": lambda: keras.optimizers.Adam(0.25),
}
if LEGACY:
    INNER["legacy"] = lambda: keras.optimizers.legacy.Adam(0.25)
else:
    INNER["loss_scale"] = lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.25), initial_scale=4.0
    )


@pytest.fixture(scope="module")
def strategy() -> Any:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def replicas(strategy: Any, variable: Any) -> list[Any]:
    native = variable.value if hasattr(variable, "path") else variable
    copies = [each.numpy() for each in strategy.experimental_local_results(native)]
    assert len(copies) == 2
    return copies


def equal_on_replicas(strategy: Any, variable: Any) -> Any:
    first, second = replicas(strategy, variable)
    np.testing.assert_array_equal(first, second)
    return first


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("mode", ["function", "eager"])
def test_averages_are_equal_on_all_replicas(strategy: Any, inner: str, mode: str) -> None:
    with strategy.scope():
        variables = [tf.Variable(np.full(5, 2.0, np.float32)), tf.Variable(np.ones((2, 3), "f"))]
        optimizer = SWA(INNER[inner](), 1, 2)
        optimizer.build(variables)

    def replica_step() -> None:
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        scale = 1.0 + tf.cast(index, tf.float32)  # the replicas see different data
        with tf.GradientTape() as tape:
            loss = sum(tf.reduce_sum(scale * v * v * 0.01) for v in variables)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    def step() -> None:
        strategy.run(replica_step)

    run = tf.function(step) if mode == "function" else step
    snapshots: list[list[Any]] = [[], []]
    for number in range(6):
        run()
        for variable, taken in zip(variables, snapshots, strict=True):
            value = equal_on_replicas(strategy, variable)
            if number in (1, 3, 5):
                taken.append(value)
            average = equal_on_replicas(strategy, optimizer.get_slot(variable, "average"))
            expected = mean_of(taken) if taken else np.zeros_like(value)
            assert ulps(average, expected) <= 2
    assert not np.array_equal(snapshots[0][0], snapshots[0][1])

    optimizer.assign_average_vars(variables)  # cross-replica context
    for variable, taken in zip(variables, snapshots, strict=True):
        assert ulps(equal_on_replicas(strategy, variable), mean_of(taken)) <= 2


def test_assign_inside_scope_and_before_the_first_snapshot(strategy: Any) -> None:
    with strategy.scope():
        variable = tf.Variable(np.ones(3, np.float32))
        optimizer = SWA(keras.optimizers.SGD(0.25), 3, 2)
        optimizer.build([variable])
        with pytest.warns(UserWarning, match="no snapshot yet"):
            optimizer.assign_average_vars([variable])
    np.testing.assert_array_equal(equal_on_replicas(strategy, variable), np.ones(3))
    values = []
    for _ in range(5):
        strategy.run(lambda: optimizer.apply_gradients([(tf.ones(3), variable)]))
        values.append(equal_on_replicas(strategy, variable))
    with strategy.scope():
        optimizer.assign_average_vars([variable])
    np.testing.assert_array_equal(equal_on_replicas(strategy, variable), values[3])
    assert not np.array_equal(values[3], values[4])


def test_fit(strategy: Any) -> None:
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    y = x[:, :1]
    with strategy.scope():
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(1),
            ]
        )
        model.compile(SWA(keras.optimizers.SGD(0.05), 0, 1), "mse")
    taken: list[list[Any]] = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            taken.append([equal_on_replicas(strategy, v) for v in model.trainable_variables])

    model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=[Record()])
    assert len(taken) == 8
    averages = []
    for index, variable in enumerate(model.trainable_variables):
        average = equal_on_replicas(strategy, model.optimizer.get_slot(variable, "average"))
        averages.append(average)
        assert ulps(average, mean_of([step[index] for step in taken])) <= 2
    with strategy.scope():
        model.optimizer.assign_average_vars(model.variables)
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(equal_on_replicas(strategy, variable), average)


if LEGACY:  # Keras 3 has no such argument

    @pytest.mark.parametrize("inner", ["sgd", "legacy"])
    @pytest.mark.parametrize("argument", ["skip_gradients_aggregation", "experimental_aggregate"])
    def test_gradients_that_were_summed_already(strategy: Any, inner: str, argument: str) -> None:
        sgd = {"sgd": keras.optimizers.SGD, "legacy": keras.optimizers.legacy.SGD}[inner]
        with strategy.scope():
            variable = tf.Variable(np.zeros(3, np.float32))
            optimizer = SWA(sgd(0.25), 0, 1)
            optimizer.build([variable])
        arguments: dict[str, Any] = (
            {argument: True} if argument.startswith("skip") else {f"{argument}_gradients": False}
        )

        def step(**arguments: Any) -> None:
            def replica_step() -> None:
                optimizer.apply_gradients([(-tf.ones(3), variable)], **arguments)

            tf.function(lambda: strategy.run(replica_step))()

        step(**arguments)
        np.testing.assert_array_equal(equal_on_replicas(strategy, variable), np.full(3, 0.25))
        step()  # adds the two replicas' gradients up
        np.testing.assert_array_equal(equal_on_replicas(strategy, variable), np.full(3, 0.75))
        average = equal_on_replicas(strategy, optimizer.get_slot(variable, "average"))
        np.testing.assert_array_equal(average, np.full(3, 0.5))


def test_moving_average_leaves_out_what_is_not_finite_and_swaps(strategy: Any) -> None:
    with strategy.scope():
        variable = tf.Variable(np.full(3, 8.0, np.float32))
        optimizer = MovingAverage(keras.optimizers.SGD(0.5), 0.5, nonfinite="skip")
        optimizer.build([variable])

    @tf.function
    def step() -> None:
        strategy.run(lambda: optimizer.apply_gradients([(tf.ones(3), variable)]))

    step()  # the gradients of two replicas: 8 - 1
    variable.assign(np.full(3, np.inf))
    step()
    variable.assign(np.full(3, 7.0))
    step()  # 6
    slot = optimizer.get_slot(variable, "average")
    mean = (8 + 7) / 2 * 0.5 + 6 * 0.5
    np.testing.assert_array_equal(equal_on_replicas(strategy, slot), np.full(3, mean))
    assert (optimizer.snapshots, optimizer.skipped) == (3, 1)
    with strategy.scope():
        optimizer.swap_weights()
        np.testing.assert_array_equal(equal_on_replicas(strategy, variable), np.full(3, mean))
        np.testing.assert_array_equal(equal_on_replicas(strategy, slot), np.full(3, 6.0))
    optimizer.swap_weights()
    np.testing.assert_array_equal(equal_on_replicas(strategy, variable), np.full(3, 6.0))
    with strategy.scope(), optimizer.applied([variable]):
        np.testing.assert_array_equal(equal_on_replicas(strategy, variable), np.full(3, mean))
    np.testing.assert_array_equal(equal_on_replicas(strategy, variable), np.full(3, 6.0))


class Last(AveragedOptimizerWrapper):
    def average_op(self, var: Any, average_var: Any) -> Any:
        return average_var.assign(tf.identity(var))


@pytest.mark.parametrize("mode", ["function", "eager"])
def test_average_op_of_a_subclass_gets_each_replicas_own_copies(strategy: Any, mode: str) -> None:
    with strategy.scope():
        variable = tf.Variable(np.ones(3, np.float32))
        optimizer = Last(keras.optimizers.SGD(0.25))
        optimizer.build([variable])

    def step() -> None:
        strategy.run(lambda: optimizer.apply_gradients([(tf.ones(3), variable)]))

    run = tf.function(step) if mode == "function" else step
    run()
    run()
    average = equal_on_replicas(strategy, optimizer.get_slot(variable, "average"))
    np.testing.assert_array_equal(average, np.zeros(3))


if LEGACY:  # Keras 3 has no graphs of TensorFlow 1

    @pytest.mark.parametrize("scaled", [False, True])
    def test_graph_of_tensorflow_1(strategy: Any, scaled: bool) -> None:
        with tf.Graph().as_default(), strategy.scope(), tf.compat.v1.Session() as session:
            variable = tf.Variable([1.0, 2.0])
            optimizer = swa = SWA(keras.optimizers.legacy.SGD(1.0), 1, 2)
            if scaled:
                scaler = keras.mixed_precision.LossScaleOptimizer
                optimizer = scaler(swa, dynamic=False, initial_scale=1.0)

            def step() -> Any:
                return optimizer.apply_gradients([(tf.constant([0.125, 0.25]), variable)])

            operation = strategy.experimental_local_results(strategy.run(step))
            averages = strategy.experimental_local_results(swa.get_slot(variable, "average"))
            session.run(tf.compat.v1.global_variables_initializer())
            for _ in range(4):
                session.run(operation)
            # Both replicas' gradients are summed: steps of [0.25, 0.5]. Steps 1 and 3 are averaged.
            for average in session.run(list(averages)):
                np.testing.assert_array_equal(average, [0.25, 0.5])
