"""The one-command mode: servers of its own, a demo provider, and the supervisor of both.

Nothing here imports an app; Django is reached by running ``manage.py`` as a child process.
"""
