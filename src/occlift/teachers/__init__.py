"""The only place that knows foundation models: per image, a class map and a metric depth map."""
