"""What keeps an overload or a failure from spreading."""
