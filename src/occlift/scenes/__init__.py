"""Key frames, images, lidar sweeps and boxes, whatever the format of the data set they come from."""
