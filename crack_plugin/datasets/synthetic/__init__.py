"""Procedural pictures of cracked surfaces with exact labels: for the demo, tests and pretraining of small models.

A picture is made as a photograph comes to be. A view is chosen, near or far, straight ahead or tilted (``view``). On
its canvas come a surface with its texture (``mineral``, ``jointed``, ``metal``), what lies on it and is no defect
(``distractors``, ``lines``), and the defects (``defects``, ``cracks``, ``crack_look``). Then the camera takes the
picture (``camera``). Whatever can be asked for marks what it covers on the same canvas, from the same curves: the view
bends picture and labels alike, and they agree to the pixel. The label of a crack is drawn a little wider than the dark
line, as people annotate.

Two surfaces are held out (``HELD_OUT``): nothing that ships was pretrained on them.
"""

from crack_plugin.datasets.synthetic.dataset import Request, draw_item, write_dataset
from crack_plugin.datasets.synthetic.defects import DEFECTS
from crack_plugin.datasets.synthetic.picture import Picture, draw
from crack_plugin.datasets.synthetic.surfaces import HELD_OUT, PRETRAINING_SURFACES, SURFACES

__all__ = [
    'DEFECTS',
    'HELD_OUT',
    'PRETRAINING_SURFACES',
    'SURFACES',
    'Picture',
    'Request',
    'draw',
    'draw_item',
    'write_dataset',
]
