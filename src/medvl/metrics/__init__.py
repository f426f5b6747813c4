"""What is measured, with numpy and scipy alone."""
