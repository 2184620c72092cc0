"""What a terminal shows: tables, answers, logs."""
