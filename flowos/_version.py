"""The version, said once: setup.cfg reads it from here without importing FlowOS."""
__version__ = "0.1.0"
