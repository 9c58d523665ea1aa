"""COCO: its annotation files, its keypoints, and where its files lie."""
