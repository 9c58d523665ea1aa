"""Evaluate a checkpoint: MMPose's ``tools/test.py``, with all its flags."""

from sapiens_plugin.launch import main

if __name__ == '__main__':
    main('test')
