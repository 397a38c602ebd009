"""The local web page and the HTTP API under it: `lens-scopes serve`.

    create_app(models)   the application, for a server or a test client
    run(...)             serves it on 127.0.0.1 until it is told to stop
    run_space()          the whole of an `app.py` for a hosting platform

A request goes one way: guard → schema → the one queue for model work → result → JSON, page or file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
