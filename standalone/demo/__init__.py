"""Plays a recording in real time into the pose node and shows what arrives."""
