"""The log on disk: segment files, the manifest that names them, and the recovery that decides what they hold."""
