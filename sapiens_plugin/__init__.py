"""Meta's Sapiens pose models in stock MMPose, on the hardware people have.

Importing the package imports nothing heavy. ``import sapiens_plugin.registry`` makes
its modules known to MMPose.
"""

__version__ = '0.1.0'
