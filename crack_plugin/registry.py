"""Scope ``crack_plugin`` for configs built on ``crack_plugin::...``.

Everything is registered in MMSegmentation's own registries. But mmengine marks what comes from such a base with the
package's scope, and imports this module to find it: here the scope leads back to MMSegmentation's.
"""

from mmengine.registry import Registry
from mmseg import registry

for parent in [entry for entry in vars(registry).values() if isinstance(entry, Registry)]:
    # A child looks its parent up, but does not make it import its modules.
    parent.import_from_location()
    Registry(parent.name, parent=parent, scope='crack_plugin', locations=['crack_plugin'])
