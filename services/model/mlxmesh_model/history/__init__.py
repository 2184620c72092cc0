"""What each version has done, by the hour, and what it cost."""
