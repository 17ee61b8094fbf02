"""Geometry of known objects: NumPy, OpenCV and SciPy only. No ROS, no torch, no file access."""
