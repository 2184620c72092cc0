"""Why a GGUF file is not taken; every message names the key or the tensor."""


class BadFile(Exception):
    """The file is damaged, or was made to do harm."""


class NotSupported(Exception):
    """The file may be well, but mlx-lm or this conversion cannot do what it asks for."""
