import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mira.errors import ConfigurationError, DataRejected
from mira.tasks import TASKS, Task
from model.config import SIZES
from model.data import PatchBatches, Ranks, pad_to
from model.guidance import Guidance
from model.losses import charbonnier, training_losses
from model.network import MiraNet
from model.restorer import Restorer
from model.task import RestorationTask
from model.training import RESUME_FILE, Settings, fit
from model.validation import choose_samples, psnr, spread, validate
from tests.model.made_up import all_tasks, paired

SETTINGS = Settings(
    size="tiny", total_steps=10, batch_size=3, patch_size=32, learning_rate=2e-3, weight_decay=1e-3, warmup_share=0.1,
    ema_decay=0.9, gradient_clip=1.0, indicator_weight=0.1, clean_share=0.1, seed=1, rounds=3, log_every=3,
    accelerator="cpu", precision="32-true", workers=0,
)  # fmt: skip


class TestBatches:
    def test_a_batch_depends_on_seed_and_step_alone(self):
        one, two = (PatchBatches(all_tasks(), 4, 32, seed=3) for _ in range(2))
        two[5]
        for a, b in zip(one[7], two[7], strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(one[7].degraded, one[8].degraded)
        assert not torch.equal(one[7].degraded, PatchBatches(all_tasks(), 4, 32, seed=4)[7].degraded)

    @pytest.mark.parametrize("batch_size", [1, 3, 4])
    def test_every_task_gets_the_same_number_of_patches(self, batch_size):
        batches = PatchBatches(all_tasks(), batch_size, 32, seed=0)
        seen = torch.cat([batches[step].modality[:, 0] for step in range(12)])
        assert torch.bincount(seen).tolist() == [4 * batch_size] * 3

    def test_degraded_and_reference_show_the_same_place(self):
        volume = replace(paired(Task.CT_DENOISING, 1), degraded=paired(Task.CT_DENOISING, 1).reference + 7)
        batch = PatchBatches([volume], 8, 32, seed=0)[0]
        assert torch.allclose(batch.degraded, batch.reference + 7)

    def test_clean_inputs_are_the_reference_with_severity_zero(self):
        batch = PatchBatches(all_tasks(), 6, 32, seed=0, clean_share=1.0)[0]
        assert torch.equal(batch.degraded, batch.reference)
        assert not batch.severity.any()

    def test_small_images_are_mirrored(self):
        batch = PatchBatches([paired(Task.PET_SYNTHESIS, 1, (2, 20, 14))], 2, 64, seed=0)[0]
        assert batch.degraded.shape == (2, 1, 64, 64)
        small = np.arange(6, dtype=np.float32).reshape(2, 3)
        assert pad_to(small, 4).tolist()[2] == [3, 4, 5, 5]

    def test_no_volumes(self):
        with pytest.raises(DataRejected, match="no training pairs"):
            PatchBatches([], 4, 32, seed=0)


class TestLosses:
    def test_charbonnier_is_quadratic_then_linear(self):
        small, large = torch.tensor([0.01]), torch.tensor([100.0])
        assert charbonnier(small, 0.5).item() == pytest.approx(0.01**2 / (2 * 0.5), rel=1e-2)
        assert charbonnier(large, 0.5).item() == pytest.approx(99.5, rel=1e-3)

    def test_perfect_guidance_costs_nothing(self):
        modality, severity = torch.tensor([[0], [2]]), torch.tensor([[0.3], [0.6]])
        guidance = Guidance(torch.tensor([[30.0, 0, 0], [0, 0, 30.0]]), severity, torch.zeros(2, 4))
        losses = training_losses(torch.zeros(2, 1, 4, 4), guidance, modality, severity, 0.1)
        assert losses.total.item() == pytest.approx(0, abs=1e-6)
        wrong = training_losses(torch.zeros(2, 1, 4, 4), guidance, modality.flip(0), severity, 0.1)
        assert wrong.total.item() == pytest.approx(3.0, rel=1e-3)

    def test_tasks_weigh_alike(self):
        """An untrained network's loss on typical degradations differs between the tasks by a small factor."""
        torch.manual_seed(0)
        task = RestorationTask(MiraNet(SIZES["tiny"]), 10, 1e-3, 0, 1, 0.9, 0.1)
        losses = [task.losses(PatchBatches([paired(t, 1)], 8, 32, seed=0)[0]).restoration.item() for t in Task]
        assert max(losses) < 4 * min(losses)


class TestFit:
    def test_a_killed_training_takes_the_same_steps(self, tmp_path):
        class Killed(Exception):
            pass

        def kill(step, row):
            if step >= 7:
                raise Killed

        volumes, samples = all_tasks(), choose_samples(all_tasks(1), 1)
        folders = [tmp_path / name for name in ("whole", "killed")]
        for folder in folders:
            folder.mkdir()
        whole = fit(volumes, samples, SETTINGS, folders[0])
        with pytest.raises(Killed):
            fit(volumes, samples, SETTINGS, folders[1], sink=kill)
        resumed = fit(volumes, samples, SETTINGS, folders[1])
        assert (whole.resumed_at, resumed.resumed_at) == (0, 4)
        assert resumed.rows == whole.rows
        for a, b in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert torch.load(folders[1] / RESUME_FILE, weights_only=True)["global_step"] == 10
        # killed after its last step, before its result was written
        told = []
        again = fit(volumes, samples, SETTINGS, folders[1], sink=lambda step, row: told.append(step))
        assert again.resumed_at == 10
        assert not told
        assert again.rows == whole.rows

    def test_it_learns_and_tells_how_far_it_is(self, tmp_path):
        volumes = all_tasks(1)
        settings = replace(SETTINGS, total_steps=50, rounds=1, batch_size=6, log_every=5, learning_rate=4e-3)
        lines = []
        trained = fit(volumes, choose_samples(volumes, 2), settings, tmp_path, say=lines.append)
        rows = [row for row in trained.rows if "loss" in row]
        assert rows[-1]["restoration"] < 0.85 * rows[0]["restoration"]
        gains = {name: value for name, value in trained.rows[-1].items() if name.startswith("gain_db/")}
        assert len(gains) == 3
        assert all(gain > 0 for gain in gains.values()), gains
        assert len(lines) == 10
        assert "step 50 of 50" in lines[-1]

    def test_a_missing_device_is_a_configuration_error(self, tmp_path):
        if torch.cuda.is_available():
            pytest.skip("needs a machine without a GPU")
        with pytest.raises(ConfigurationError, match="gpu"):
            fit(all_tasks(1), [], replace(SETTINGS, accelerator="gpu"), tmp_path)


class TestRanks:
    def test_processes_share_a_batch_without_overlap(self):
        volumes = all_tasks(1)
        whole = PatchBatches(volumes, 6, 32, seed=3)[5]
        shares = [PatchBatches(volumes, 6, 32, seed=3, ranks=Ranks(rank, 2))[5] for rank in (0, 1)]
        for name in whole._fields:
            for rank, share in enumerate(shares):
                assert torch.equal(getattr(whole, name)[rank::2], getattr(share, name))

    def test_a_batch_that_cannot_be_shared_is_refused(self):
        with pytest.raises(ConfigurationError, match="multiple"):
            PatchBatches(all_tasks(1), 3, 32, seed=0, ranks=Ranks(0, 2))

    @pytest.mark.slow
    def test_two_processes_take_the_steps_of_one(self, tmp_path):
        """torchrun with two gloo processes: the losses of one process with the same batch, across resume points too."""
        alone = fit(all_tasks(1), [], replace(SETTINGS, batch_size=4, total_steps=6, log_every=4), tmp_path)
        script = tmp_path / "together.py"
        script.write_text(TOGETHER)
        (tmp_path / "work").mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        together = json.loads((tmp_path / "rows.json").read_text())
        assert [row["step"] for row in together] == [row["step"] for row in alone.rows]
        for ours, theirs in zip(together, alone.rows, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


TOGETHER = """
import json, os
from dataclasses import replace
from pathlib import Path
from pathlib import Path
from model.training import fit
from tests.model.test_training import SETTINGS, all_tasks
trained = fit(all_tasks(1), [], replace(SETTINGS, batch_size=4, total_steps=6, log_every=4), Path("work"))
if os.environ["RANK"] == "0":
    Path("rows.json").write_text(json.dumps(trained.rows))
"""


class TestValidation:
    def test_psnr_is_in_the_window_of_the_task(self):
        reference = np.zeros((40, 40), np.float32)
        reference[:20] = 100
        noisy = reference + 10
        assert psnr(noisy, reference, Task.CT_DENOISING) == pytest.approx(20.0)
        assert psnr(reference, reference, Task.CT_DENOISING) is None
        assert psnr(reference, np.ones_like(reference), Task.CT_DENOISING) is None

    @pytest.mark.parametrize("scale", [1.0, 1000.0, 30_000.0])
    def test_mr_is_measured_alike_at_any_intensity_scale(self, scale):
        reference = np.zeros((40, 40), np.float32)
        reference[:20] = scale
        near, far = (psnr(reference * f, reference, Task.MRI_SUPER_RESOLUTION, scale) for f in (0.95, 0.9))
        assert near - far == pytest.approx(20 * np.log10(2), abs=0.01)
        assert near == pytest.approx(10 * np.log10(2 / 0.05**2), abs=0.01)

    def test_samples_are_spread_over_the_volumes(self):
        volumes = [paired(Task.PET_SYNTHESIS, seed) for seed in range(6)]
        assert [sample.name[-1] for sample in choose_samples(volumes, 3)] == ["0", "2", "4"]
        assert len(choose_samples(volumes[:1], 2)) == 2
        assert choose_samples([], 3) == []

    @pytest.mark.parametrize(
        ("cases", "levels", "count"),
        [(4, 2, 4), (4, 3, 4), (16, 4, 16), (2, 3, 3), (2, 3, 6), (4, 2, 8), (6, 4, 13), (40, 4, 8), (3, 1, 2)],
    )
    def test_picks_are_even_over_cases_and_levels(self, cases, levels, count):
        pairs = [(case, level) for case in range(cases) for level in range(levels)]  # as the pair step lists them
        picks = [pairs[place] for place in spread([f"case {case}" for case, _ in pairs], count)]
        assert len(picks) == count
        assert len(set(picks)) == min(count, len(pairs))  # none twice before all were there
        by_case, by_level = Counter(case for case, _ in picks), Counter(level for _, level in picks)
        assert len(by_case) == min(count, cases)
        assert len(by_level) == min(count, levels)
        assert max(by_case.values()) - min(by_case.values()) <= 1
        assert max(by_level.values()) - min(by_level.values()) <= 1

    def test_samples_have_all_levels_of_degradation(self):
        levels = (0.3, 0.6)
        volumes = [
            replace(paired(Task.PET_SYNTHESIS, seed, severity=level), case=f"case {seed}", name=f"{seed} {level}")
            for seed in range(4)
            for level in levels
        ]
        assert [sample.name for sample in choose_samples(volumes, 4)] == ["0 0.3", "1 0.6", "2 0.3", "3 0.6"]

    def test_the_identity_gains_nothing(self):
        figures = validate(Restorer(MiraNet(SIZES["tiny"])), choose_samples(all_tasks(1), 1))
        assert {name.split("/")[1] for name in figures} == {task.value for task in TASKS}
        assert all(figures[f"gain_db/{task}"] == 0 for task in Task)
