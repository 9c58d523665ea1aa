"""Does a keypoint file in COCO form hold what training and evaluation need?"""
