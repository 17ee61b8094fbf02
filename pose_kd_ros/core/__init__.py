# SPDX-License-Identifier: Apache-2.0
"""Geometry of known objects: NumPy, OpenCV and SciPy only. No ROS, no torch, no file access."""
