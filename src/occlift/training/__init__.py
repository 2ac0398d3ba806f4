"""What is trained, the loop it runs in, and the tensors it reads."""
