"""Throughput, spread and warm-up with a fake clock."""

import pytest

from fasticcl.bench.measure import Measurement, Stopwatch, interleaved_throughput, throughput
from fasticcl.bench.sizes import Sizes


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def task_of(clock, seconds, images=8):
    """A task whose n-th batch takes ``seconds[n]``, and every later batch ``seconds[-1]``."""

    def start():
        for number in range(1000):
            clock.now += seconds[min(number, len(seconds) - 1)]
            yield images

    return start


def test_a_measurement_has_median_minimum_and_maximum():
    measured = Measurement((5.0, 1.0, 3.0, 100.0), "images/s")
    assert (measured.median, measured.min, measured.max) == (4.0, 1.0, 100.0)
    assert measured.to_dict() == {
        "unit": "images/s",
        "median": 4.0,
        "min": 1.0,
        "max": 100.0,
        "runs": [5.0, 1.0, 3.0, 100.0],
    }
    sized = Measurement((5.0,), "images/s", Sizes(8)).to_dict()
    assert sized["sizes"] == {"batch_size": 8, "pairs": False}


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_warm_up_batches_are_not_counted(warmup):
    clock = FakeClock()
    slow_at_first = task_of(clock, [50.0] * warmup + [0.5])
    assert throughput(slow_at_first, seconds=2, warmup=warmup, clock=clock) == 8 / 0.5


def test_slow_first_batches_count_without_a_warm_up():
    clock = FakeClock()
    assert throughput(task_of(clock, [50.0, 0.5]), seconds=60, warmup=0, clock=clock) < 8 / 0.5


def test_a_run_ends_with_the_first_batch_after_its_duration():
    clock = FakeClock()
    throughput(task_of(clock, [0.75]), seconds=2, warmup=1, clock=clock)
    assert clock.now == 0.75 * (1 + 3)


@pytest.mark.parametrize(("seconds", "batches"), [(0.1, 3), (5, 7)])
def test_a_run_has_a_minimum_number_of_batches(seconds, batches):
    clock = FakeClock()
    tasks = {"a": task_of(clock, [0.75])}
    interleaved_throughput(
        tasks, repeats=2, seconds=seconds, warmup={"a": 1}, min_batches={"a": 3}, clock=clock
    )
    assert clock.now == 2 * 0.75 * (1 + batches)


def test_the_device_is_synchronized_only_at_the_start_and_end_of_a_run():
    clock, calls = FakeClock(), []

    def synchronize():
        clock.now += 1.0
        calls.append(clock.now)

    # Two seconds of batches, and one second in which the device finishes its queue.
    assert (
        throughput(task_of(clock, [0.5]), seconds=2, warmup=2, clock=clock, synchronize=synchronize)
        == 4 * 8 / 3
    )
    assert len(calls) == 2


def test_runs_are_interleaved_in_alternating_order():
    clock, order = FakeClock(), []

    def named(name):
        def start():
            order.append(name)
            yield from task_of(clock, [1.0])()

        return start

    tasks = {"a": named("a"), "b": named("b")}
    measured = interleaved_throughput(tasks, repeats=3, seconds=1, warmup={"a": 0, "b": 0}, clock=clock)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert measured["a"].runs == (8.0, 8.0, 8.0)


def test_a_stopwatch_adds_time_to_the_innermost_part():
    clock = FakeClock()
    stopwatch = Stopwatch("rest", clock=clock)
    clock.now += 1
    with stopwatch.part("outer"):
        clock.now += 2
        with stopwatch.part("inner"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    assert stopwatch.lap() == {"rest": 17, "outer": 10, "inner": 4}
    clock.now += 1
    assert stopwatch.lap() == {"rest": 1}


def test_instrumenting_an_object_times_only_its_own_calls():
    class Doubler:
        def double(self, x):
            clock.now += 3
            return 2 * x

    clock = FakeClock()
    one, other, stopwatch = Doubler(), Doubler(), Stopwatch("rest", clock=clock)
    with stopwatch.instrument(one, "double", "doubling"):
        assert one.double(4) == 8
        other.double(1)
    one.double(1)
    assert stopwatch.lap() == {"rest": 6, "doubling": 3}
    assert "double" not in vars(one)


def test_a_stopwatch_synchronizes_at_every_change_of_part():
    clock = FakeClock()
    pending = [0.0]

    def synchronize():
        clock.now += pending[0]
        pending[0] = 0.0

    stopwatch = Stopwatch("rest", synchronize, clock)
    with stopwatch.part("launch"):
        pending[0] = 5.0  # seconds of work queued on the device
    assert stopwatch.lap() == {"launch": 5.0, "rest": 0.0}
