"""Train a pose model: MMPose's ``tools/train.py``, with all its flags."""

from sapiens_plugin.launch import main

if __name__ == '__main__':
    main('train')
