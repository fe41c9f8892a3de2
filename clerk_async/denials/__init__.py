"""What is denied: the table that each process keeps, and the changes that they send each other."""
