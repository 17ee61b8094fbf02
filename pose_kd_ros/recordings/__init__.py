# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings without ROS: sqlite3 and MCAP, compressed, damaged, with their images and TF."""
