"""What is wrong with a project on this machine, and its repair."""
