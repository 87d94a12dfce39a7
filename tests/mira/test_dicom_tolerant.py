"""Pydicom is quiet while anybody reads, whichever thread began first, and as it was when all are done."""

import logging
import sys
import threading
import warnings

import pytest
from pydicom import config, dcmread

from mira.dicom.headers import tolerant
from tests.mira.dicom_synthetic import make_series

LOGGER = logging.getLogger("pydicom")


def settings():
    return config.settings.reading_validation_mode, LOGGER.level, list(warnings.filters)


@pytest.fixture
def misspelt(tmp_path):
    """A file with a patient's name where a UID should be."""
    with tolerant():
        return make_series(tmp_path, slices=1, SeriesInstanceUID="Jane")[0]


def test_a_reader_stays_quiet_when_one_that_began_before_it_is_done(misspelt, caplog):
    before = settings()
    first, second = tolerant(), tolerant()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        mine = settings()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert dcmread(misspelt).SeriesInstanceUID == "Jane"
        assert not told
        assert not caplog.records
        second.__exit__(None, None, None)
        assert settings() == mine
        assert dcmread(misspelt).SeriesInstanceUID == "Jane"
        assert "Jane" in str(told[0].message)  # what pydicom says otherwise
    assert settings() == before


def test_an_error_inside_leaves_nothing_changed():
    before = settings()
    with pytest.raises(KeyError), tolerant():
        raise KeyError
    assert settings() == before


def test_many_threads_at_once_leave_the_settings_as_they_were():
    before, quiet = settings(), []
    interval = sys.getswitchinterval()

    def use():
        for _ in range(300):
            with tolerant():
                quiet.append(config.settings.reading_validation_mode == config.IGNORE and LOGGER.level > 50)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(quiet) == 1200
    assert all(quiet)
    assert settings() == before
