"""Procedural pictures of cracked surfaces with exact labels: for the demo, tests and pretraining of small models.

A picture is made as a photograph comes to be: a surface with its texture, what lies on it, the defects, and then light
and camera. The label is drawn from the same curves as the crack, a little wider than the dark line, as people annotate.
Nothing bends the picture after that, so label and picture agree to the pixel.
"""

from crack_plugin.datasets.synthetic.dataset import Request, draw_item, write_dataset
from crack_plugin.datasets.synthetic.picture import DEFECTS, Picture, draw
from crack_plugin.datasets.synthetic.surfaces import SURFACES

__all__ = ['DEFECTS', 'SURFACES', 'Picture', 'Request', 'draw', 'draw_item', 'write_dataset']
