"""What `swa-fast bench` prints, from a record that is made up."""

from __future__ import annotations

from typing import Any

import pytest

from swa_fast.bench import report


def timed(median: float, ratio: float = 1.0, spread: float = 0.0) -> dict[str, Any]:
    quartiles = {"median": ratio, "low": ratio - spread, "high": ratio + spread}
    return {"median": median, "ratio": quartiles, "rounds": [0], "seconds": [median]}


def record(**groups: Any) -> dict[str, Any]:
    models = [
        {
            "model": name,
            "tensors": 174,
            "elements": 5_483_032,
            "updates_checked": 6,
            "groups": [
                {
                    "swa_fast, NumPy arrays": timed(1e-3),
                    "NumPy, a += (p - a) * w": timed(7e-3, 7.1, 0.3),
                },
                others,
            ],
        }
        for name, others in groups.items()
    ]
    return {
        "date": "2026-11-21T00:00:00+00:00",
        "device": "cpu",
        "threads": 2,
        "machine": {"cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "python": "3.11.7"},
        "swa_fast": {"version": "0.1.0", "isa": "avx512"},
        "frameworks": {"numpy": "2.4.6", "torch": "2.13.0+cpu"},
        "left_out": {"tensorflow": "not installed"},
        "models": models,
    }


@pytest.fixture
def made() -> dict[str, Any]:
    return record(
        mobilenet_v3_large={
            "swa_fast, torch tensors": timed(1e-3),
            "torch._foreach_lerp_": timed(0.8e-3, 0.8, 0.1),
        },
        gpt2={
            "swa_fast.torch AveragedModel": timed(466e-3),
            "torch AveragedModel, multi_avg_fn": timed(466e-3, 1.01, 0.2),
        },
    )


def test_the_table_says_who_is_faster_in_words(made: dict[str, Any]) -> None:
    lines = report.render(made).splitlines()
    head = next(line for line in lines if line.startswith("model "))
    assert head.split() == ["model", "averaged", "by", "ms", "GB/s", "swa_fast", "is"]
    rows = lines[lines.index(head) + 2 :]
    assert rows[0].split() == [
        "mobilenet_v3_large", "swa_fast,", "NumPy", "arrays", "1.000", "65.8",
    ]  # fmt: skip
    assert rows[1].startswith("174 tensors, 5.5 M")
    assert rows[1].endswith("7.10x faster")
    assert rows[3].endswith("1.25x slower")
    assert rows[4] == ""  # between two models
    assert rows[8].endswith(" noisy")


def test_the_head_says_where_and_with_what(made: dict[str, Any]) -> None:
    head = report.render(made).split("\n\n")[0].splitlines()
    assert head == [
        "swa-fast 0.1.0 on 2 threads (avx512), Intel(R) Xeon(R) Processor, 2 cores",
        "Checked first: 12 updates of 2 models have the bits of NumPy's formula.",
        "Compared with numpy 2.4.6, torch 2.13.0+cpu.",
        "Could be compared too, after pip install tensorflow.",
    ]


def test_a_legend_explains_units_and_words(made: dict[str, Any]) -> None:
    legend = report.render(made).split("\n\n")[-2].replace("\n", " ")
    assert legend == report.LEGEND
    for word in ("ms:", "GB/s:", "swa_fast is:", "noisy:"):
        assert word in legend


def test_no_line_is_longer_than_100_columns(made: dict[str, Any]) -> None:
    made["machine"]["cpu"] = (
        "AMD Ryzen Threadripper PRO 5995WX 64-Cores of a long name indeed, truly"
    )
    made["left_out"] = {"tensorflow": "ImportError: " + "x " * 40}
    longest = {"swa_fast, NumPy arrays": timed(1.0)}
    longest["TF Addons expression, tf.function"] = timed(99.99999, 199.99)
    made["models"][0]["groups"][1] = longest
    text = report.render(made)
    assert "199.99x faster" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_conclusion_is_two_sentences(made: dict[str, Any]) -> None:
    text = report.conclusion(made)
    assert text == (
        "swa_fast was faster in 2 of 4 comparisons, from 7.10x (NumPy, a += (p - a) * w on gpt2) "
        "to 7.10x (NumPy, a += (p - a) * w on mobilenet_v3_large). "
        "It was slower in 1, by up to 1.25x (torch._foreach_lerp_ on mobilenet_v3_large); "
        "too noisy to say: 1."
    )
    assert " ".join(report.render(made).split()).endswith(" ".join(text.split()))


def test_the_conclusion_where_nothing_is_slower_and_where_nothing_is_compared() -> None:
    only = record(gpt2={"swa_fast.torch AveragedModel": timed(1.0)})
    assert report.conclusion(only).endswith("It was slower in none.")
    del only["models"][0]["groups"][0]
    assert report.conclusion(only) == (
        "swa_fast was faster in 0 of 0 comparisons. It was slower in none."
    )


def test_colours_are_for_a_terminal_alone(made: dict[str, Any]) -> None:
    plain, coloured = report.render(made), report.render(made, colour=True)
    assert "\x1b" not in plain
    for code, text in (
        ("1", "swa_fast, NumPy arrays"),
        ("32", "7.10x faster"),
        ("31", "1.25x slower"),
        ("33", "noisy"),
    ):
        assert f"\x1b[{code}m{text}\x1b[0m" in coloured
    without = coloured
    for code in ("0", "1", "31", "32", "33"):
        without = without.replace(f"\x1b[{code}m", "")
    assert without == plain
