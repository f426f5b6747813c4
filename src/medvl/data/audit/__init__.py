"""What is wrong or doubtful in a table of images."""
