"""What a conversion saves, how long it takes, and which budget gives which accuracy."""
