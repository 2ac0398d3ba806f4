"""A procedural town, written as a data set with exact truth."""
