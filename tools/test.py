"""Evaluate a checkpoint: MMPose's ``tools/test.py``, with all its flags."""

from bootstrap import enter_environment

enter_environment()

from sapiens_plugin.launch import main  # noqa: E402  (only there in the environment)

if __name__ == '__main__':
    main('test')
