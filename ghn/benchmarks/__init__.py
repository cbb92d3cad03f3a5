"""What is measured: the demo, speed, and sweeps over model zoos, each with a record of the run."""
