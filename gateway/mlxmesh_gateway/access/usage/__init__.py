"""What calls used: counted here, kept on disk, reported to the access service."""
