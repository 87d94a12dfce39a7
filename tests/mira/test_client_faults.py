"""A fault of one series is that series' refusal; a fault of the disk ends the command with what was finished."""

import errno
import json
import os
from pathlib import Path

import pytest

from mira.cli import main
from mira.client.sent import remember_sent, unsent
from mira.client.series import StorageFailed, restore_all, restore_nifti
from mira.errors import ConfigurationError, DataRejected, RetryableError
from tests.mira.dicom_enhanced import enhanced
from tests.mira.test_client_send import archive
from tests.mira.test_client_series import failing, folder, identity, network, series  # noqa: F401 - fixtures
from tests.mira.test_derive_sources import odd

SECRET = "Doe^Jane"
WRITE, READ = "mira.client.series.write_derived", "mira.client.series.read_volumes"


def breaking(monkeypatch, target, error, number=1):
    """Raise an error at one call of a function, or, for `number` None, at every one."""
    import mira.client.series as module

    genuine, calls = getattr(module, target.rpartition(".")[2]), []

    def broken(*arguments, **options):
        calls.append(1)
        if number is None or len(calls) == number + 1:
            raise error
        return genuine(*arguments, **options)

    monkeypatch.setattr(target, broken)


@pytest.mark.parametrize("target", [READ, WRITE])
@pytest.mark.parametrize("kind", [ValueError, KeyError, NotImplementedError, MemoryError, RecursionError])
def test_an_unforeseen_fault_of_one_series_is_its_refusal_and_quotes_nothing(
    tmp_path,
    folder,  # noqa: F811
    identity,  # noqa: F811
    monkeypatch,
    target,
    kind,
):
    breaking(monkeypatch, target, kind(f"could not parse {SECRET}"))
    delivered, refused = restore_all(identity, folder, tmp_path / "out")
    assert [item.modality for item in delivered] == ["CT", "CT"]
    assert [(SECRET in reason, count) for reason, count in refused.items()] == [(False, 5)]
    assert f"({kind.__name__} in mira/client/series.py:" in next(iter(refused))
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_what_nobody_foresaw_of_all_series_is_rejected_data(tmp_path, folder, network, monkeypatch, capsys):  # noqa: F811
    breaking(monkeypatch, WRITE, ValueError(SECRET), None)
    assert main(["restore", str(folder), "--out", str(tmp_path / "out"), "--model", str(network)]) == 3
    said = capsys.readouterr()
    assert "unforeseen" in said.err
    assert SECRET not in said.err + said.out


def test_a_volume_that_memory_does_not_hold_is_in_no_others_way(tmp_path, folder, identity, monkeypatch):  # noqa: F811
    failing(identity, monkeypatch, MemoryError("Unable to allocate"))
    delivered, refused = restore_all(identity, folder, tmp_path / "out")
    assert len(delivered) == 2
    assert refused == {"the memory of this machine does not hold it": 5}


def test_a_fault_of_the_network_that_nobody_foresaw_is_not_hidden(tmp_path, folder, identity, monkeypatch):  # noqa: F811
    failing(identity, monkeypatch, AttributeError("a mistake in this software"))
    with pytest.raises(AttributeError):
        restore_all(identity, folder, tmp_path / "out")


def test_a_series_that_the_disk_does_not_give_is_in_no_others_way(tmp_path, folder, identity, monkeypatch):  # noqa: F811
    breaking(monkeypatch, READ, OSError(errno.EIO, os.strerror(errno.EIO), f"/in/{SECRET}"))
    delivered, refused = restore_all(identity, folder, tmp_path / "out")
    assert len(delivered) == 2
    assert refused == {"its files cannot be read (Input/output error); the same command tries them again": 5}


def test_a_source_that_disk_or_network_do_not_give_is_told(tmp_path, folder, network, monkeypatch, capsys):  # noqa: F811
    def gone(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), f"/in/{SECRET}")

    monkeypatch.setattr("mira.dicom.scan.look_at", gone)
    for verb in (["restore", str(folder), "--out", str(tmp_path / "out"), "--model", str(network)],
                 ["inspect", str(folder)]):  # fmt: skip
        assert main(verb) == RetryableError.exit_code
        said = capsys.readouterr().err
        assert "cannot be read to its end (Stale file handle)" in said
        assert SECRET not in said


def test_a_padding_that_the_disk_does_not_give_again_is_a_refusal(tmp_path, identity, monkeypatch):  # noqa: F811
    series(tmp_path / "in", PixelPaddingValue=1)

    def gone(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("mira.dicom.padding.read_slices", gone)
    with pytest.raises(DataRejected, match=r"padding would be lost.*Input/output error"):
        restore_all(identity, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("number", "what"), [(errno.ENOSPC, "Make room there"), (errno.EROFS, "Look at the disk and at who may write")]
)
def test_a_disk_that_takes_no_more_ends_it_with_what_is_complete(tmp_path, folder, identity, monkeypatch, number, what):  # noqa: F811
    out = tmp_path / "out"
    with monkeypatch.context() as full:
        breaking(full, WRITE, OSError(number, os.strerror(number), f"/out/{SECRET}"))
        with pytest.raises(StorageFailed, match=rf"{what}.*1 of 3 series are complete, in .*/out; the same") as caught:
            restore_all(identity, folder, out)
    assert [item.modality for item in caught.value.outcome.delivered] == ["CT"]  # the third was not tried
    assert SECRET not in str(caught.value)
    assert [path.name for path in out.iterdir()] == ["001-ct"]
    delivered, _ = restore_all(identity, folder, out)
    assert [item.modality for item in delivered] == ["MR", "CT"]


def test_what_was_restored_before_the_disk_was_full_is_told_and_sent(tmp_path, folder, network, monkeypatch, capsys):  # noqa: F811
    breaking(monkeypatch, WRITE, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with archive(lambda _: 0x0000) as (peer, got):
        where = f"ARCHIVE@127.0.0.1:{peer.port}"
        verb = ["restore", str(folder), "--model", str(network), "--out", str(tmp_path / "out"), "--send", where]
        assert main(verb) == RetryableError.exit_code
    said = capsys.readouterr()
    assert "CT, 5 slices" in said.out
    assert "5 files sent" in said.out
    assert len(got) == 5
    assert "No space left on device" in said.err
    assert "1 of 3 series are complete" in said.err


def test_the_next_run_sends_what_was_restored_but_not_sent(tmp_path, folder, network, capsys):  # noqa: F811
    out = tmp_path / "out"
    verb = ["restore", str(folder), "--model", str(network), "--out", str(out)]
    assert main(verb) == 0
    with archive(lambda _: 0xC001) as (peer, _):
        assert main([*verb, "--send", f"ARCHIVE@127.0.0.1:{peer.port}"]) == RetryableError.exit_code
    with archive(lambda _: 0x0000) as (peer, got):
        where = f"ARCHIVE@127.0.0.1:{peer.port}"
        series(folder / "d", SeriesInstanceUID="1.2.77", StudyInstanceUID="1.2.78")
        series(tmp_path / "other", SeriesInstanceUID="1.2.79", SOPInstanceUID="1.2.80")
        assert main(["restore", str(tmp_path / "other"), *verb[2:]]) == 0  # nobody asked for this one to be sent
        capsys.readouterr()
        assert main([*verb, "--send", where]) == 0
        assert "20 files sent" in capsys.readouterr().out
        assert len(set(got)) == 20
        assert main([*verb, "--send", where]) == DataRejected.exit_code  # nothing is left to restore or to send
        assert "exists already" in capsys.readouterr().err
        assert len(got) == 20
    assert len(list(out.rglob("*.dcm"))) == 25


def test_what_an_archive_has_says_nothing_of_another(tmp_path):
    files = [tmp_path / "001-ct" / name for name in ("0001.dcm", "0002.dcm")]
    files[0].parent.mkdir()
    for file in files:
        file.touch()
    assert unsent([tmp_path / "001-ct"], "A@host:1") == files
    remember_sent(files, "A@host:1")
    remember_sent([tmp_path / "gone" / "0001.dcm"], "A@host:1")
    assert unsent([tmp_path / "001-ct"], "A@host:1") == []
    assert unsent([tmp_path / "001-ct"], "B@host:1") == files


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc, where nobody may make a folder")
def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_restored(tmp_path, network, capsys):  # noqa: F811
    series(tmp_path / "in")
    for source, out in (("in", "/proc/mira-out"), ("in", "/proc/self/below/it"), ("x.nii", "/proc")):
        (tmp_path / "x.nii").write_text("not looked at")
        verb = ["restore", str(tmp_path / source), "--modality", "CT", "--model", str(network), "--out", out]
        assert main(verb) == ConfigurationError.exit_code
        assert f"{out} cannot be written to (" in capsys.readouterr().err


def test_a_nifti_that_the_disk_does_not_take_is_told(tmp_path, identity, monkeypatch):  # noqa: F811
    import numpy as np

    from mira.volume import Volume, write_nifti

    write_nifti(tmp_path / "x.nii", Volume(np.zeros((2, 40, 40), np.float32), np.eye(4)))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mira.client.nifti.write_nifti", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        restore_nifti(identity, tmp_path / "x.nii", tmp_path / "out" / "y.nii", "CT")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "where",
    ["https://[::1", "https://host:99999/x", "https://host:abc/x", "https://ho st/x", "https:///x", "http://h:0"],
)
def test_an_address_that_is_none_is_wrong_usage(tmp_path, folder, network, capsys, where):  # noqa: F811
    assert main(["send", str(folder), "--to", where]) == ConfigurationError.exit_code
    verb = ["restore", str(folder), "--out", str(tmp_path / "out"), "--model", str(network), "--send", where]
    assert main(verb) == ConfigurationError.exit_code
    assert capsys.readouterr().err.count("Give the address as https://HOST/PATH") == 2
    assert not (tmp_path / "out").exists()


def test_inspect_says_what_restore_will_do(tmp_path, identity, monkeypatch, capsys):  # noqa: F811
    from pydicom import dcmread

    source = tmp_path / "in"
    for name in "abc":
        for path in series(source / name, SeriesInstanceUID=f"1.2.{ord(name)}"):
            dataset = dcmread(path)
            if name == "b":
                odd(dataset, "LargestImagePixelValue", "SS", b"\1")
            dataset.save_as(path)
    assert main(["inspect", str(source), "--json"]) == 0
    assert [entry["usable"] for entry in json.loads(capsys.readouterr().out)["series"]] == [True] * 3
    assert len(restore_all(identity, source, tmp_path / "out")[0]) == 3
    (tmp_path / "pet").mkdir()
    enhanced("PT", 4).save_as(tmp_path / "pet" / "all.dcm", enforce_file_format=False)
    assert main(["inspect", str(tmp_path / "pet")]) == 0
    assert "cannot be restored: A derived series of an enhanced PET" in capsys.readouterr().out

    def broken(*_):
        raise ValueError(SECRET)

    monkeypatch.setattr("mira.dicom.volume._assemble", broken)
    assert main(["inspect", str(source)]) == 0
    said = capsys.readouterr().out
    assert said.count("unforeseen way: please report the words in brackets (ValueError in mira/dicom/volume.py:") == 3
    assert SECRET not in said
