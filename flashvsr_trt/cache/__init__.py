"""What is made once and found again."""
