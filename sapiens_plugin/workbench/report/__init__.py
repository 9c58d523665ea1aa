"""What a run did, from the files it left: the page, the curve, AP by keypoint."""
