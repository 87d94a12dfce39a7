"""Quantities in the study: bias per patient, the worst one, and the verdict, from made-up figures."""

import pandas as pd
import pytest

from benchmarks.study.quantities import QUANTITIES, bias, biases, keys_of, quantity_table


def cases():
    """Two patients with one case each; patient b drifts at the harder level, and both profiles hold the same rows."""
    rows = []
    for profile in ("amir", "fixed"):
        for network, factor in (("input", 0.25), ("classical", 2.0), ("tiny:ct-denoising", 0.5), ("tiny:unified", 1.0)):
            for patient, level, value in (("a", 0.25, 0.5), ("a", 0.1, -0.5), ("b", 0.25, -0.2), ("b", 0.1, -1.6)):
                where = (network, "ct-denoising", "test", f"site-{patient}", patient, f"case-{patient}", level, profile)
                rows.append((*where, 1, factor * value))
    names = ["network", "task", "split", "site", "patient", "case_id", "level", "profile", "seed", "hu_mean_bias"]
    return pd.DataFrame(rows, columns=names)


def test_mean_over_patients_and_the_worst_of_them():
    found = bias(cases(), QUANTITIES[0], "tiny:unified")
    assert found.mean == pytest.approx((0.0 + -0.9) / 2)  # patients count alike
    assert found.worst == pytest.approx(-1.6)  # opposite signs at two levels do not cancel
    assert found.worst_at == "site-b, 0.1"
    assert (found.patients, found.within, found.meets) == (2, 1, True)
    assert bias(cases(), QUANTITIES[0], "classical").meets is True
    assert bias(cases().assign(hu_mean_bias=3.0), QUANTITIES[0], "tiny:unified").meets is False
    assert bias(cases(), QUANTITIES[1], "tiny:unified") is None  # not measured


def test_the_change_is_counted_from_the_input():
    found = bias(cases(), QUANTITIES[0], "tiny:unified")
    assert found.change_worst == pytest.approx(0.75 * -1.6)
    assert found.change_by_level == pytest.approx({"0.25": 0.75 * 0.15, "0.1": 0.75 * -1.05})
    assert (found.within, found.change_within) == (1, 1)
    assert bias(cases(), QUANTITIES[0], "tiny:ct-denoising").change_within == 2
    assert bias(cases(), QUANTITIES[0], "input").change_worst == 0


def test_the_worst_seed_counts_and_means_do_not_hide_it():
    first = cases()
    second = first.assign(seed=2)
    second.loc[second.network == "tiny:unified", "hu_mean_bias"] *= -1
    found = bias(pd.concat([first, second]), QUANTITIES[0], "tiny:unified")
    assert found.mean == pytest.approx(0)
    assert abs(found.worst) == pytest.approx(1.6)
    assert found.within == 1


def test_the_input_stands_beside_every_network():
    found = biases(cases(), "tiny")
    assert [item.network for item in found] == ["input", "classical", "tiny:ct-denoising", "tiny:unified"]
    lines = quantity_table(found).splitlines()
    assert "| input | -0.11 |" in lines[2]
    unified = (
        "-0.45 | +0.1 (0.25), -1.1 (0.1) | -1.60 (site-b, 0.1) | 1 of 2 | +0.1 (0.25), -0.8 (0.1) | -1.20 | 1 of 2"
    )
    assert f"| tiny (unified) | {unified} | 1 | met |" in lines[-1]
    keys = keys_of(found, "tiny")["ct-denoising"]
    assert keys["hu_mean_bias_worst"] == pytest.approx(-1.6)
    assert keys["input_hu_mean_bias"] == pytest.approx(0.25 * -0.45)
    assert keys["hu_mean_bias_change_worst"] == pytest.approx(-1.2)
