"""Running generations, their events and their readers."""
