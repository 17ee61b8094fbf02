"""rosbag2 recordings without ROS: sqlite3 and MCAP, compressed, damaged, with their images and TF."""
