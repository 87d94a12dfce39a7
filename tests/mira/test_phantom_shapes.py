import numpy as np
import pytest

from mira.phantom.lesions import head_lesions, torso_lesions
from mira.phantom.noise import SmoothField, rng_for
from mira.phantom.raster import Grid, Layer, Paint, Scene, render
from mira.phantom.shapes import Blob, Column, Cut, Ellipsoid, Segment, tree
from mira.phantom.torso import torso

BOX = ((-60.0, 60.0), (-60.0, 60.0), (-60.0, 60.0))
PLAIN = {"matter": Paint((1.0,), (0.0,), (0.0,))}
GRID = Grid((0.0, 0.0, 0.0), 64, 1.5, 30, 2.0)


def painted_volume(shape, scale=(1.0, 1.0, 1.0)):
    scene = Scene((Layer(shape, "matter"),), "test", BOX, scale, warp_mm=0.0)
    image = render(GRID, scene, PLAIN, (0.0,))[0]
    return float(image.sum()) * GRID.pixel_mm**2 * GRID.slice_mm


@pytest.mark.parametrize(
    ("shape", "volume"),
    [
        (Ellipsoid((1.3, -2.1, 0.7), (20, 14, 17)), 4 / 3 * np.pi * 20 * 14 * 17),
        (Ellipsoid((0, 0, 0), (20, 14, 17), turn=0.6, tilt=0.4), 4 / 3 * np.pi * 20 * 14 * 17),
        (Column(((-20, 0, 0, 15, 10), (20, 0, 0, 15, 10))), np.pi * 15 * 10 * 40),
        (Segment((0, 0, -15), (0, 0, 15), 9, 9), np.pi * 81 * 30 + 4 / 3 * np.pi * 729),
        (Cut(Ellipsoid((0, 0, 0), (18, 18, 18)), 1, 0.0), 2 / 3 * np.pi * 18**3),
        (Blob((0, 0, 0), (12, 12, 12)), 4 / 3 * np.pi * 12**3),
    ],
)
def test_a_painted_shape_has_its_analytic_volume(shape, volume):
    assert painted_volume(shape) == pytest.approx(volume, rel=0.02)


def test_edges_are_mixed_and_the_middle_is_pure():
    scene = Scene((Layer(Ellipsoid((0, 0, 0), (20, 20, 20)), "matter"),), "test", BOX, warp_mm=0.0)
    image = render(GRID, scene, PLAIN, (0.0,))[0]
    assert image[15, 32, 32] == 1
    assert image[0, 0, 0] == 0
    assert ((image > 0.05) & (image < 0.95)).any()


def test_size_scales_a_patient():
    ball = Ellipsoid((0, 0, 0), (15, 15, 15))
    assert painted_volume(ball, (1.1, 1.1, 1.1)) == pytest.approx(1.1**3 * painted_volume(ball), rel=0.02)


def test_a_contour_follows_the_section_of_a_ball():
    ball = Blob((5.0, -3.0, 2.0), (10.0, 10.0, 10.0))
    outline = ball.contour(8.0)
    radius = np.hypot(outline[:, 0] - 5, outline[:, 1] + 3)
    np.testing.assert_allclose(radius, 8.0, atol=0.01)
    assert ball.contour(12.5) is None


def test_branches_stay_inside_and_get_thinner():
    lung = Ellipsoid((0, 0, 0), (50, 50, 50))
    branches = tree(rng_for("t"), (-40, 0, 0), (1, 0, 0), lung, radius=4, length=25, generations=4)
    ends = np.array([segment.end for segment in branches.members], dtype=np.float32)
    assert lung.distance(*ends.T).max() < 5
    radii = [segment.radius_end for segment in branches.members]
    assert len(radii) > 20
    assert min(radii) < 0.5 * max(radii)


def test_smooth_fields_have_unit_variance_and_agree_between_grids():
    box = ((-200.0, 200.0),) * 3
    field = SmoothField(("field",), 12.0, box)
    axis = np.arange(-150, 150, 4.0)
    values = field.sample((axis, axis, axis))
    assert values.std() == pytest.approx(1.0, abs=0.1)
    part = field.sample((axis[20:30], axis[5:9], axis[::2]))
    np.testing.assert_allclose(part, values[20:30, 5:9, ::2], atol=1e-5)


@pytest.mark.parametrize(("region", "middle"), [("abdomen", -5.0), ("thorax", 90.0)])
def test_lesions_lie_within_their_organ_and_apart(region, middle):
    count = 0
    for number in range(3):
        scene = torso(f"lesions {region} {number}", 1.0, 15.0)
        lesions = torso_lesions(scene, region, (middle - 25, middle + 25))
        count += len(lesions)
        for lesion in lesions:
            x, y, z = (np.float32([c / s]) for c, s in zip(lesion.blob.centre, scene.scale, strict=True))
            assert scene.organs[lesion.organ].distance(x, y, z)[0] < -lesion.radius_mm
            assert middle - 25 <= lesion.blob.centre[2] <= middle + 25
        centres = np.array([lesion.blob.centre for lesion in lesions])
        gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        radii = np.array([lesion.radius_mm for lesion in lesions])
        assert (gaps > radii[:, None] + radii[None])[~np.eye(len(lesions), dtype=bool)].all()
    assert count >= 9


def test_lesions_of_the_head_keep_off_the_ventricles():
    from mira.phantom.head import head, inside

    scene = head("head lesions", 1.0)
    lesions = head_lesions(scene, (0.0, 45.0))
    assert len(lesions) >= 2
    for lesion in lesions:
        point = [np.float32([c / s]) for c, s in zip(lesion.blob.centre, scene.scale, strict=True)]
        assert all(layer.shape.distance(*point)[0] > lesion.radius_mm for layer in inside(scene))
