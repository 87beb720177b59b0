"""trimtab: a robotics control stack with a simulator plugin."""

__version__ = "0.1.0"
