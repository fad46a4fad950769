"""The page to work in: photographs in a browser, on one's own machine, served by ``tools/app.py``.

Nothing here is a singleton: a :class:`~crack_plugin.app.sessions.Sessions` holds what users uploaded, each in a folder
of its own that is deleted when they leave, a :class:`~crack_plugin.app.models.Models` what predicts, and
:func:`~crack_plugin.app.server.make_app` joins them as an ASGI application.
"""
