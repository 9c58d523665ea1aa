"""Pictures of people, drawn with their keypoints: what the demo data is made of."""
