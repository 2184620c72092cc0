"""Parts that keep an overload or a failure from spreading."""
