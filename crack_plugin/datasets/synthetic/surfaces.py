"""The surfaces that can be asked for."""

from collections.abc import Callable

import numpy as np

from crack_plugin.datasets.synthetic.jointed import brick_masonry, stone_masonry, tiles, wood
from crack_plugin.datasets.synthetic.metal import steel
from crack_plugin.datasets.synthetic.mineral import asphalt, concrete, plaster, terrazzo
from crack_plugin.datasets.synthetic.scene import Scene

SURFACES: dict[str, Callable[[np.random.Generator, Scene], None]] = {
    'concrete': concrete,
    'asphalt': asphalt,
    'masonry': brick_masonry,
    'stone masonry': stone_masonry,
    'plaster': plaster,
    'tiles': tiles,
    'steel': steel,
    'terrazzo': terrazzo,
    'wood': wood,
}
"""By name, functions that fill a scene's image, and mark what of 'joint' and 'rust stain' belongs to the surface."""

HELD_OUT = ('terrazzo', 'wood')
"""Surfaces that nothing which ships was pretrained on: for tests and the demo."""

PRETRAINING_SURFACES = tuple(name for name in SURFACES if name not in HELD_OUT)
