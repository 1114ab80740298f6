"""Other libraries' training, each in the file named after it and imported only when it is chosen."""
