"""Steps of a pipeline: reading images, blurring them."""
