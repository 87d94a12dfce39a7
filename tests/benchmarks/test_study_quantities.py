"""Quantities in the study: bias per patient, the worst one, and the verdict, from made-up figures."""

import pandas as pd
import pytest

from benchmarks.study.quantities import QUANTITIES, bias, biases, keys_of, quantity_table


def cases():
    """Two patients with one case each; patient b drifts at the harder level, and both profiles hold the same rows."""
    rows = []
    for profile in ("amir", "fixed"):
        for network, factor in (("input", 0.0), ("classical", 2.0), ("tiny:ct-denoising", 0.5), ("tiny:unified", 1.0)):
            for patient, level, value in (("a", 0.25, 0.5), ("a", 0.1, -0.5), ("b", 0.25, -0.2), ("b", 0.1, -1.6)):
                where = (network, "ct-denoising", "test", f"site-{patient}", patient, f"case-{patient}", level, profile)
                rows.append((*where, factor * value))
    names = ["network", "task", "split", "site", "patient", "case_id", "level", "profile", "hu_mean_bias"]
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


def test_the_input_stands_beside_every_network():
    found = biases(cases(), "tiny")
    assert [item.network for item in found] == ["input", "classical", "tiny:ct-denoising", "tiny:unified"]
    lines = quantity_table(found).splitlines()
    assert "| input | +0.00 |" in lines[2]
    assert "| tiny (unified) | -0.45 | +0.1 (0.25), -1.1 (0.1) | -1.60 (site-b, 0.1) | 1 of 2 | 1 | met |" in lines[-1]
    keys = keys_of(found, "tiny")["ct-denoising"]
    assert keys["hu_mean_bias_worst"] == pytest.approx(-1.6)
    assert keys["input_hu_mean_bias"] == 0
