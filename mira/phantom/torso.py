"""The trunk: a thorax and upper abdomen built from analytic shapes, another one for every patient.

Model coordinates in mm: x to the patient's left, y to the back, z to the head, origin in the middle of the liver.
"""

import numpy as np

from mira.phantom.noise import rng_for
from mira.phantom.raster import Layer, Scene
from mira.phantom.shapes import Column, Cut, Ellipsoid, Point, Segment, Shape, Union, tree, tube

BOX = ((-260.0, 320.0), (-190.0, 190.0), (-250.0, 250.0))
CAGE_X, CAGE_Y = 150.0, 97.0  # outer radii of the muscular wall in mm
_LOW, _HIGH = -400.0, 400.0


def _wall(grow: float, shift: float = 0.0) -> Column:
    """The trunk's outline, `grow` mm outside the muscular wall; the thorax narrows towards the neck."""
    return Column(
        (
            (_LOW, 0, shift, CAGE_X + grow, CAGE_Y + grow),
            (60.0, 0, shift, CAGE_X + grow, CAGE_Y + grow),
            (200.0, 0, shift, CAGE_X - 22 + grow, CAGE_Y - 8 + grow),
            (_HIGH, 0, shift, CAGE_X - 40 + grow, CAGE_Y - 20 + grow),
        ),
        power=2.35,
    )


def torso(seed: str, size: float, adiposity_mm: float) -> Scene:
    """One patient's trunk.

    Args:
        seed: key of all that is random in it.
        size: linear size relative to the model, about 0.9 to 1.1.
        adiposity_mm: thickness of the subcutaneous fat.
    """
    rng = rng_for(seed, "torso")
    organs: dict[str, Shape] = {}
    layers: list[Layer] = []
    back = CAGE_Y + adiposity_mm + 4
    couch = Column(((_LOW, 0, back + 18, 215, 20), (_HIGH, 0, back + 18, 215, 20)), power=3.0)
    layers += [Layer(couch, "couch-shell", exact=True), Layer(couch, "couch-foam", inset=2.5, exact=True)]
    layers += [
        Layer(_wall(adiposity_mm + 2, -0.15 * adiposity_mm), "skin"),
        Layer(_wall(adiposity_mm, -0.15 * adiposity_mm), "fat"),
        Layer(_wall(0), "muscle"),
        Layer(_wall(-13, -5.0), "visceral-fat"),
    ]
    layers += _back_muscles()
    layers += _lungs(rng, organs)
    layers += _heart(rng, organs)
    layers += _abdomen(rng, organs)
    layers += _great_vessels(rng)
    layers += _skeleton(rng, organs)
    scale = tuple(float(size * rng.uniform(0.97, 1.03)) for _ in range(3))
    return Scene(tuple(layers), seed, BOX, (scale[0], scale[1], scale[2]), warp_mm=3.0, organs=organs)


def _back_muscles() -> list[Layer]:
    layers = []
    for side in (-1, 1):
        erector = Column(((_LOW, side * 31, 78, 27, 17), (_HIGH, side * 27, 74, 22, 14)), power=2.4)
        layers += [
            Layer(erector, "visceral-fat", inset=-2.0),
            Layer(erector, "muscle"),
            Layer(
                Column(((_LOW, side * 44, 42, 22, 22), (-70, side * 36, 44, 15, 15), (-40, side * 26, 46, 5, 6))),
                "muscle",
            ),
        ]
    return layers


def _lungs(rng: np.random.Generator, organs: dict[str, Shape]) -> list[Layer]:
    layers = []
    right = Ellipsoid((-72, -4, 118), (63, 80, 150), power=2.6)
    left = Ellipsoid((73, 0, 138), (60, 78, 125), power=2.6)
    for name, lung, hilum in (("right-lung", right, (-34.0, 6.0, 122.0)), ("left-lung", left, (38.0, 6.0, 122.0))):
        organs[name] = lung
        layers.append(Layer(lung, "lung"))
        side = np.sign(hilum[0])
        for direction in (
            (0.8 * side, 0.3, -1.2),
            (0.9 * side, -0.6, -0.5),
            (0.7 * side, 0.1, 1.0),
            (0.6 * side, 0.7, -0.7),
        ):
            vessels = tree(rng, hilum, direction, lung, radius=5.5, length=42, generations=5)
            layers.append(Layer(vessels, "lung-vessel"))
        for direction in ((0.8 * side, 0.4, -1.0), (0.8 * side, -0.3, 0.8)):
            airways = tree(rng, hilum, direction, lung, radius=4.2, length=34, generations=3)
            layers += [Layer(airways, "airway-wall"), Layer(airways, "airway", inset=1.3)]
    return layers


def _heart(rng: np.random.Generator, organs: dict[str, Shape]) -> list[Layer]:
    turn = float(rng.normal(0.45, 0.08))
    sac = Ellipsoid((20, -36, 86), (66, 48, 56), turn=turn)
    ventricle = Ellipsoid((42, -30, 78), (35, 30, 44), turn=turn)
    mediastinum = Column(((60, 2, -20, 40, 62), (130, 2, -15, 38, 62), (_HIGH, 0, -10, 30, 55)), power=2.2)
    organs["myocardium"] = ventricle
    return [
        Layer(mediastinum, "visceral-fat"),
        Layer(sac, "visceral-fat"),
        Layer(sac, "myocardium", inset=5.0),
        Layer(Ellipsoid((6, -58, 84), (34, 17, 36), turn=0.5), "blood"),
        Layer(Ellipsoid((-24, -36, 92), (22, 24, 30)), "blood"),
        Layer(Ellipsoid((14, -6, 108), (32, 17, 22)), "blood"),
        Layer(ventricle, "myocardium"),
        Layer(ventricle, "blood", inset=10.5),
        Layer(tube([(-5, -40, 115), (-14, -38, 150), (-6, -25, 178), (14, 10, 186)], [15, 16, 15, 13]), "blood"),
        Layer(tube([(20, -48, 110), (12, -35, 145), (0, -15, 148)], [13, 13, 12]), "blood"),
        Layer(tube([(-30, 2, 142), (0, -14, 148), (34, 6, 140)], [9, 11, 9]), "blood"),
        Layer(tube([(-28, -30, 105), (-28, -22, 165), (-25, -18, 230)], [10, 9, 8]), "blood"),
        Layer(tube([(0, 12, 260), (0, 14, 155)], [9.5, 9.5]), "airway-wall"),
        Layer(tube([(0, 12, 260), (0, 14, 155)], [8, 8]), "airway"),
        Layer(tube([(-38, 8, 126), (0, 14, 156), (42, 8, 124)], [6.5, 7.5, 6.5]), "airway-wall"),
        Layer(tube([(-38, 8, 126), (0, 14, 156), (42, 8, 124)], [5.2, 6.2, 5.2]), "airway"),
        Layer(Segment((6, 24, 260), (8, 14, 52), 7.0, 7.5), "gut-wall"),
        Layer(Segment((5, 23, 260), (7, 13, 60), 1.6, 1.6), "gut-gas"),
    ]


def _abdomen(rng: np.random.Generator, organs: dict[str, Shape]) -> list[Layer]:
    layers: list[Layer] = []
    liver = Union(
        (
            Ellipsoid((-64, -10, 2), (78, 74, 74), turn=0.1, power=2.3),
            Ellipsoid((4, -52, 20), (72, 30, 36), turn=float(rng.normal(-0.15, 0.05))),
        )
    )
    spleen = Ellipsoid((106, 24, 16), (27, 46, 46), turn=float(rng.normal(0.35, 0.08)), power=2.2)
    stomach = Ellipsoid((66, -36, 12), (46, 36, 44), turn=float(rng.normal(-0.3, 0.1)))
    organs |= {"liver": liver.members[0], "spleen": spleen}
    layers += _gut(rng)
    layers += [Layer(stomach, "gut-wall"), Layer(stomach, "gut-content", inset=4.5)]
    layers.append(Layer(Cut(stomach, 1, float(rng.uniform(-58, -46)), inset=4.5), "gut-gas"))
    layers += [Layer(spleen, "spleen")]
    layers.append(Layer(liver, "liver"))
    portal = (-30.0, -12.0, -8.0)
    vein = (-22.0, 22.0, 52.0)
    for root, directions, radius in (
        (portal, ((-1, -0.1, 0.3), (-0.6, -0.8, 0.2), (-0.7, 0.6, -0.3), (0.5, -1.0, 0.6)), 5.0),
        (vein, ((-1, -0.2, -0.5), (-0.5, -1.0, -0.5), (-0.7, 0.2, -1.2)), 4.6),
    ):
        for direction in directions:
            layers.append(
                Layer(tree(rng, root, direction, liver, radius=radius, length=36, generations=5), "liver-vessel")
            )
    for side, low in ((-1, -56.0), (1, -44.0)):
        kidney = Ellipsoid((side * 60, 40, low), (25, 27, 54), turn=-side * 0.35)
        organs["right-kidney" if side < 0 else "left-kidney"] = kidney
        layers += [Layer(kidney, "visceral-fat", inset=-5.0), Layer(kidney, "kidney")]
        for angle in np.linspace(0, 2 * np.pi, 7)[:-1]:
            for height in (-34, -17, 0, 17, 34):
                pyramid = (side * 60 + 14 * np.cos(angle), 40 + 15 * np.sin(angle), low + height)
                layers.append(Layer(Ellipsoid(_p(pyramid), (5.5, 5.5, 7.0)), "kidney-medulla"))
        layers += [
            Layer(Ellipsoid((side * 54, 37, low), (13, 11, 32)), "visceral-fat"),
            Layer(Ellipsoid((side * 50, 36, low), (8, 5, 13)), "kidney-pelvis"),
        ]
        layers.append(
            Layer(
                tube([(side * 16, 22, low + 50), (side * 34, 28, low + 62), (side * 42, 38, low + 50)], [2.6, 3, 2.2]),
                "adrenal",
            )
        )
    gallbladder = Ellipsoid((-48, -56, -36), (17, 15, 27))
    layers += [Layer(gallbladder, "gallbladder-wall"), Layer(gallbladder, "bile", inset=2.2)]
    pancreas = tube([(-30, -6, -44), (-8, -20, -34), (20, -22, -22), (58, 0, -10), (86, 12, 2)], [13, 9.5, 9, 9, 6])
    layers.append(Layer(pancreas, "pancreas"))
    layers.append(Layer(tube([(-20, -8, -30), (20, -10, -22), (60, 10, -8), (90, 18, 4)], [5, 4.5, 4, 3]), "blood"))
    layers.append(Layer(tube([(-8, -14, -120), (-12, -10, -50), portal], [5.5, 6, 6.5]), "blood"))
    return layers


def _gut(rng: np.random.Generator) -> list[Layer]:
    """Loops of small and large bowel below the stomach, and the fine vessels of the fat between them."""
    layers: list[Layer] = []
    for _ in range(34):
        centre = np.array([rng.uniform(-95, 100), rng.uniform(-72, 5), rng.uniform(-230, -45)])
        points = [centre]
        for _ in range(4):
            points.append(points[-1] + rng.normal(0, 1, 3) * (16, 11, 9))
        calibre = float(rng.uniform(7, 13))
        loop = tube([_p(p) for p in points], [calibre] * 5)
        layers += [Layer(loop, "gut-wall"), Layer(loop, "gut-content", inset=2.5)]
        if rng.uniform() < 0.3:
            for member in loop.members:
                layers.append(Layer(Cut(member, 1, float(centre[1]) - 0.3 * calibre, inset=2.5), "gut-gas"))
    for path in (
        [
            (-104, 4, -240),
            (-106, 0, -60),
            (-88, -40, -52),
            (0, -70, -74),
            (92, -48, -34),
            (110, 2, -30),
            (110, 14, -240),
        ],
    ):
        colon = tube([_p(np.array(p) + rng.normal(0, 5, 3)) for p in path], [20, 19, 17, 16, 17, 16, 14])
        layers += [Layer(colon, "gut-wall"), Layer(colon, "gut-content", inset=2.6)]
        for member in colon.members:
            low, high = member.bounds()
            level = (low[1] + high[1]) / 2 - float(rng.uniform(2, 12))
            layers.append(Layer(Cut(member, 1, level, inset=2.6), "gut-gas"))
    for _ in range(60):
        start = np.array([rng.uniform(-90, 90), rng.uniform(-70, 20), rng.uniform(-200, 40)])
        points = [start, start + rng.normal(0, 14, 3), start + rng.normal(0, 24, 3)]
        layers.append(Layer(tube([_p(p) for p in points], [float(rng.uniform(0.9, 2.0))] * 3), "blood"))
    return layers


def _great_vessels(rng: np.random.Generator) -> list[Layer]:
    aorta = tube(
        [(6, 17, -260), (7, 17, -60), (12, 22, 30), (22, 32, 90), (24, 36, 160), (14, 10, 186)],
        [8.5, 10, 11, 11.5, 12, 13],
    )
    cava = tube([(-20, 19, -260), (-21, 18, -60), (-22, 20, 40), (-22, -18, 76)], [10, 11, 11, 11])
    layers = [
        Layer(aorta, "vessel-wall"),
        Layer(aorta, "blood", inset=1.2),
        Layer(cava, "blood"),
        Layer(tube([(8, 8, -46), (4, -6, -60), (2, -12, -200)], [4.5, 4, 3]), "blood"),
        Layer(tube([(8, 8, -26), (2, -6, -22), (-26, -10, -14)], [4, 3.2, 2.4]), "blood"),
    ]
    layers += [
        Layer(tube([(0, 18, -52), (side * 26, 28, -54), (side * 48, 36, -50)], [4, 3.4, 2.6]), "blood")
        for side in (-1, 1)
    ]
    for _ in range(int(rng.integers(2, 9))):
        height = float(rng.uniform(-150, 150))
        angle = float(rng.uniform(0, 2 * np.pi))
        path = np.array([(6, 17), (7, 17), (12, 22), (22, 32), (24, 36)])
        knots = np.array([-260, -60, 30, 90, 160])
        x, y = np.interp(height, knots, path[:, 0]), np.interp(height, knots, path[:, 1])
        place = _p((x + 10 * np.cos(angle), y + 10 * np.sin(angle), height))
        layers.append(Layer(Ellipsoid(place, (2.4, 2.0, float(rng.uniform(2, 7))), turn=angle), "calcification"))
    return layers


def _skeleton(rng: np.random.Generator, organs: dict[str, Shape]) -> list[Layer]:
    layers: list[Layer] = []
    pitch, phase = 31.0, float(rng.uniform(0, 31))
    canal = Column(((_LOW, 0, 70, 10, 9), (_HIGH, 0, 70, 9.5, 8.5)))
    for level in range(-9, 11):
        z = level * pitch + phase
        body = Column(((z - 12, 0, 45, 24, 18), (z, 0, 45, 21.5, 16), (z + 12, 0, 45, 24, 18)), power=2.3)
        layers += [
            Layer(Column(((z + 12, 0, 45, 22, 16), (z + 19, 0, 45, 22, 16))), "disc"),
            Layer(body, "thin-cortical"),
            Layer(body, "trabecular", inset=2.0),
        ]
        organs[f"vertebra{level:+d}"] = Ellipsoid((0, 45, z), (20, 15, 11))
        arch: list[Point] = [(-16, 58, z), (-15, 72, z), (0, 83, z - 4), (15, 72, z), (16, 58, z)]
        spine = Segment((0, 83, z - 4), (0, 97, z - 18), 4.5, 4.0)
        wings = [Segment((side * 15, 70, z), (side * 36, 74, z + 2), 5.0, 4.0) for side in (-1, 1)]
        for bone in (tube(arch, [5.5] * 5), Union((spine,)), Union(tuple(wings))):
            layers += [Layer(bone, "cortical"), Layer(bone, "rib-marrow", inset=2.4)]
        if z > -30:
            layers += _ribs(z)
    sternum = Column(
        ((62, 0, -CAGE_Y + 10, 16, 6), (110, 0, -CAGE_Y + 9, 19, 6.5), (240, 0, -CAGE_Y + 14, 22, 7)), power=2.6
    )
    return [
        Layer(canal, "csf"),
        Layer(canal, "cord", inset=4.0),
        *layers,
        Layer(canal, "csf", inset=0.5),
        Layer(canal, "cord", inset=4.2),
        Layer(sternum, "thin-cortical"),
        Layer(sternum, "trabecular", inset=2.2),
    ]


def _ribs(z: float) -> list[Layer]:
    """The pair of ribs that starts at the vertebra of height z: from the back around the side, sinking to the front."""
    layers = []
    narrow = float(np.interp(z, [60, 200, 400], [0, 18, 36]))
    angles = np.linspace(np.deg2rad(72), np.deg2rad(-62), 22)
    for side in (-1, 1):
        points: list[Point] = [(side * 20, 64, z + 4)]
        for angle in angles:
            c, s = np.cos(angle), np.sin(angle)
            rx, ry = CAGE_X - 8 - narrow, CAGE_Y - 9 - 0.4 * narrow
            x, y = rx * abs(c) ** 0.85 * np.sign(c), ry * abs(s) ** 0.85 * np.sign(s)
            sink = 105 * (1 - np.sin(angle)) / 2
            points.append((side * float(x), float(y) - 2, z + 4 - float(sink)))
        bony = tube(points[:19], [6.2] * 19)
        gristle = tube(points[18:], [5.5] * (len(points) - 18))
        layers += [Layer(gristle, "cartilage"), Layer(bony, "cortical"), Layer(bony, "rib-marrow", inset=2.2)]
    return layers


def _p(values: object) -> Point:
    x, y, z = np.asarray(values, dtype=float)
    return float(x), float(y), float(z)
