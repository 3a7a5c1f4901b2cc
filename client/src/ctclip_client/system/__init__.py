"""What every room needs of the operating system and the terminal."""
